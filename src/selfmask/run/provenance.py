"""What a result is worth without its circumstances: the command, the versions and the machine that made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from selfmask.run.settings import AdaptSettings
from selfmask.version import VERSION

_PACKAGES = ("torchvision", "timm", "accelerate", "numpy", "scikit-learn")


def command_of(settings: AdaptSettings, command: str = "adapt") -> list[str]:
    """The words of the `selfmask` command that makes this run, whether it was started by it or from Python."""
    return command_words(
        command, type(settings), {f.name: getattr(settings, f.name) for f in fields(settings)}
    )


def command_words(command: str, kind: type[AdaptSettings], values: Mapping[str, Any]) -> list[str]:
    """`selfmask COMMAND DATA` and a flag for each of the `values` that is not the default of its field in `kind`."""
    words = ["selfmask", command, str(values["data"])]
    for field in fields(kind):
        value = values.get(field.name)
        if field.name in ("data", "resume") or value is None or value == field.default:
            continue
        if isinstance(value, Mapping):  # the objective's own settings
            for name, own in value.items():
                if own is not None:  # which is the default wherever it can be said
                    words += _flag(f"{values['objective']}.", name, own)
            continue
        words += _flag("", field.name, value)
    return words


def _flag(owner: str, name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{owner}{name}" if value else f"--{owner}no-{name}"]
    said = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
    if any(one.startswith("-") for one in said):  # else it would be read as a flag
        return [f"--{owner}{name}={one}" for one in said]
    return [f"--{owner}{name}", *said]


def versions() -> dict[str, str]:
    """selfmask, Python, and the packages that the figures may depend on, as far as they are installed."""
    found = {"selfmask": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, str]:
    """The processor, the threads that the network used, and the accelerator if there was one."""
    found = {"processor": _processor(), "threads": str(torch.get_num_threads()), "device": device.type}
    if device.type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
