"""What a long run asks of its process: to be told of signals, to keep the memory that it frees, where it speaks, and
its device."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from selfmask._common.console import SafeConsole
from selfmask.errors import SettingsError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Ctrl-C and SIGTERM: the first asks for a checkpoint and a clean end, the second ends at once.

    While open, `requested` tells whether a first signal has come; a second one acts as it ordinarily does.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Signals reach the main thread only; a run in another thread is stopped by whoever started it.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MOST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more on 64 bits


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed. Returns whether it took it; elsewhere nothing is done.

    On Linux each step would give its activations back to the kernel and fault them in again: with glibc's defaults an
    eighth of the time of a step of EfficientNet-Lite0 at 64 px on one core, and more on two. The memory stays the
    process's own until it ends; the peak is the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return all(
        libc.mallopt(parameter, value) == 1
        for parameter, value in (
            (_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD),
            (_TRIM_THRESHOLD, 2**31 - 1),
            (_TOP_PAD, 64 * 2**20),
        )
    )


def accelerator_for(module: nn.Module, **more: Any) -> Accelerator:
    """The processes that there are, on the kind of device where `module` is. `more` is accelerate's own."""
    return Accelerator(cpu=all(p.device.type == "cpu" for p in module.parameters()), **more)


def console_for(accelerator: Accelerator, console: Console | None) -> Console:
    """Where a process speaks: `console` or standard error for the first one, nowhere for the others."""
    if not accelerator.is_main_process:
        return SafeConsole(quiet=True)
    return console or SafeConsole(stderr=True)


def use_threads(count: int | None) -> None:
    """Let the network use `count` CPU threads; None leaves it as it is. Raises `SettingsError` for less than one."""
    if count is None:
        return
    if count < 1:
        raise SettingsError(f"--threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def device_named(name: str) -> torch.device:
    """The device that --device names; "auto" is cuda where there is one, else cpu. Raises `SettingsError`."""
    if name == "auto":
        if torch.cuda.is_available():
            index = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", index)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"--device is auto, cpu, cuda or mps, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(
            f"--device {name}: this machine has {count or 'no'} CUDA devices that torch can use; leave it out"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"--device {name}: torch cannot use Apple's GPU here; leave it out")
    return device
