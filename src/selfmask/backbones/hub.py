"""Whether weights can be fetched: asked once, with a short limit, before a library would retry for minutes."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch

from selfmask._common.escape import one_line
from selfmask.errors import BackboneError

ANSWER_SECONDS = 5.0
"""How long a hub may take to answer before it counts as out of reach."""

OFFLINE_CHOICES = (
    "without a network, use package:efficientnet_lite0 (its weights are installed) or give the weights as a "
    "file: --weights FILE.safetensors (in Python: build(spec, weights=FILE))"
)

_local_only: ContextVar[bool] = ContextVar("selfmask_local_only", default=False)
_switch = threading.Lock()
_inside, _before = 0, False


@contextmanager
def local_only() -> Iterator[None]:
    """Inside, no host is contacted: what is not on this machine is refused by a `BackboneError` that says so.

    For what a file names: it may be a stranger's, and where a program calls is not for a file to say.
    """
    global _inside, _before
    # Libraries also ask on their own, for a tokeniser say. The client's switch is read at each request, and is one
    # for all threads: it stays on until the last of them is out.
    from huggingface_hub import constants

    token = _local_only.set(True)
    with _switch:
        if _inside == 0:
            _before = constants.HF_HUB_OFFLINE
        _inside += 1
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        _local_only.reset(token)
        with _switch:
            _inside -= 1
            if _inside == 0:
                constants.HF_HUB_OFFLINE = _before


def why_unreachable(address: str) -> str | None:
    """None where the server of `address` answers within `ANSWER_SECONDS`, whatever it says; else the reason."""
    parts = urlsplit(address)
    root = f"{parts.scheme}://{parts.netloc}/"
    reason: list[str | None] = [f"no answer within {ANSWER_SECONDS:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(root, method="HEAD")
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                reason[0] = None
        except urllib.error.HTTPError:
            reason[0] = None  # it refused this request, so it is there
        except (OSError, ValueError, HTTPException) as error:
            reason[0] = str(getattr(error, "reason", error))

    # A thread, because the look-up of a name knows no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return reason[0]


def require_reachable(address: str, what: str) -> None:
    """Raise `BackboneError` at once where `what` would come from a server out of reach, or inside `local_only`."""
    if _local_only.get():
        raise BackboneError(
            f"{what} are not on this machine, and a file's word alone contacts no host: to fetch them from "
            f"{urlsplit(address).netloc} say so with --download (download=True), or name the backbone yourself with "
            "--backbone"
        )
    reason = why_unreachable(address)
    if reason is not None:
        host = urlsplit(address).netloc
        raise BackboneError(
            f"{what} are not on this machine and {host} cannot be reached ({reason}); {OFFLINE_CHOICES}"
        )


def hub_endpoint() -> str:
    """The address of the Hugging Face hub (`HF_ENDPOINT` changes it)."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def in_hub_cache(repository: str, *names: str) -> Path | None:
    """The first of the files `names` of a hub repository that was fetched before (`REPOSITORY@REVISION` too)."""
    for name in names:
        found = _cached(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def known_to_lack(repository: str, name: str) -> bool:
    """Whether the hub's cache knows that a repository has no file of this name."""
    from huggingface_hub import _CACHED_NO_EXIST

    return _cached(repository, name) is _CACHED_NO_EXIST


def _cached(repository: str, name: str) -> object:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = repository.partition("@")
    try:
        return try_to_load_from_cache(repository, name, revision=revision or None)
    except HFValidationError as error:
        raise BackboneError(
            f"{one_line(repository)} is no name of a repository, OWNER/NAME: {error}"
        ) from error


def torch_checkpoint(url: str) -> Path:
    """Where torch.hub, and what loads by it, keeps what it has downloaded from `url`; whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def fetched(url: str, what: str) -> Path:
    """The file at `url`, from torch.hub's folder of checkpoints, downloaded first where it is not there."""
    target = torch_checkpoint(url)
    if not target.is_file():
        require_reachable(url, what)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(target), progress=False)
        except (OSError, RuntimeError) as error:
            raise BackboneError(
                f"{what} could not be fetched from {url}: {error}; {OFFLINE_CHOICES}"
            ) from error
    return target
