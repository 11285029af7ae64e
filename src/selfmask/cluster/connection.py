"""The connection to Ray: to a cluster that is there, or to one of this machine alone, which ends with the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from selfmask._common.escape import one_line
from selfmask.errors import MissingExtraError, SettingsError

LOCAL = "local"

# Nothing is told to Ray's makers.
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0"}
# A cluster of this machine: whoever asks it for work must show the token that Ray keeps in its user's folder, and it
# listens at 127.0.0.1 and nowhere else, which is what the second name has come to mean.
_LOCAL = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[Any]:
    """Inside, the module `ray`, connected to the cluster at `address`; "local" starts one on this machine.

    cpus: cores that a local one has (None: all). A process that is connected already keeps its connection, before and
    after. Raises `MissingExtraError` without Ray, `SettingsError` where no cluster can be reached.
    """
    ray = _ray(address)
    if ray.is_initialized():
        yield ray
        return
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise SettingsError(
            f"no Ray cluster can be reached at {address}: {one_line(str(error))[:300]} (--ray is local, auto, or the "
            "HOST:PORT of a cluster that this machine is part of)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _ray(address: str) -> Any:
    if "ray" not in sys.modules:  # which reads them when it is imported, and takes no change of mind
        for name, value in {**_ALWAYS, **(_LOCAL if address == LOCAL else {})}.items():
            os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingExtraError("--ray needs the package ray: pip install 'selfmask[ray]'") from error
