"""The folder of a run: what lies where, who is in it, and the rules that keep two runs from mixing.

A cascade keeps its dispatcher and its experts as runs of their own in folders inside its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask._common.files import try_to_lock
from selfmask.errors import RunError
from selfmask.images.place import same_data
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.log import Log
from selfmask.run.result import Result, read_json, write_json

LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: its files by name, each read and written by one type.

    >>> folder = RunFolder(Path("runs/photos"))
    >>> folder.result().rows["masked"].knn  # doctest: +SKIP
    """

    path: Path

    @property
    def settings(self) -> Path:
        """As given; the result and the mask have what was chosen."""
        return self.path / "settings.json"

    @property
    def log_file(self) -> Path:
        """One line a logged step: see `Log`."""
        return self.path / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Everything that the next step depends on."""
        return self.path / "checkpoint.safetensors"

    @property
    def measured(self) -> Path:
        """What was measured before the training, so that a resumed run need not do it again."""
        return self.path / "measured.safetensors"

    @property
    def split_file(self) -> Path:
        """Which images were trained on: see `split.Trained`."""
        return self.path / "split.safetensors"

    @property
    def rates(self) -> Path:
        """The trainings of a search for the rate, while it goes on: a folder each."""
        return self.path / "rates"

    @property
    def rates_file(self) -> Path:
        """What a search for the rate has found."""
        return self.path / "rates.json"

    @property
    def mask_file(self) -> Path:
        """The mask."""
        return self.path / "mask.safetensors"

    @property
    def unchecked_file(self) -> Path:
        """The mask of a run with a byte budget, until it is known whether it is better than the untouched network."""
        return self.path / "unchecked.mask.safetensors"

    @property
    def rejected_file(self) -> Path:
        """A mask that was worse than the untouched network on images held out, in place of `mask_file`."""
        return self.path / "rejected.mask.safetensors"

    @property
    def result_file(self) -> Path:
        """What was found: see `Result`."""
        return self.path / "result.json"

    @property
    def curves(self) -> Path:
        """The picture of the training."""
        return self.path / "curves.png"

    @property
    def cascade_file(self) -> Path:
        """A cascade's masks, router and fusions."""
        return self.path / "cascade.safetensors"

    @property
    def router(self) -> Path:
        """A cascade's router, and the images of each expert."""
        return self.path / "router.safetensors"

    @property
    def dispatcher(self) -> RunFolder:
        """The run of a cascade's dispatcher."""
        return RunFolder(self.path / "dispatcher")

    def expert(self, number: int) -> RunFolder:
        """The run of a cascade's expert, from 1."""
        return RunFolder(self.path / f"expert-{number}")

    def recorded(self) -> dict[str, Any]:
        """The settings as they were recorded. Raises `RunError` where there are none."""
        if not self.settings.is_file():
            raise RunError(f"{self.path} holds no run: there is no {self.settings.name}")
        found = read_json(self.settings)
        if not isinstance(found, dict):
            raise RunError(f"{self.settings} holds no settings but a {type(found).__name__}")
        return found

    def log(self) -> Log:
        """The log; empty where none was written."""
        return Log.read(self.log_file)

    def result(self) -> Result:
        """The result. Raises `RunError` where there is none or it is damaged."""
        if not self.result_file.is_file():
            raise RunError(f"{self.path} holds no {self.result_file.name}{self._how_to_go_on()}")
        return Result.read(self.result_file)

    @property
    def rejection(self) -> str:
        """What is said of a mask that was rejected."""
        return (
            f"the mask learnt in {self.path} was worse than the untouched network on images held out: keep that "
            f"network, or name {self.rejected_file} to use the mask all the same"
        )

    def mask(self, *, rejected: bool = False) -> Mask:
        """The mask, or one that was `rejected` where that may be taken.

        Raises `RunError` where there is none, `MaskFileError` where it is damaged.
        """
        if self.cascade_file.is_file() and not self.mask_file.is_file():
            raise RunError(
                f"{self.path} holds a cascade, which embed, predict, analyze and report take; the mask that it starts "
                f"from is {self.dispatcher.mask_file}"
            )
        if self.rejected_file.is_file() and not self.mask_file.is_file():
            if rejected:
                return load(self.rejected_file)
            raise RunError(self.rejection)
        if not self.mask_file.is_file():
            raise RunError(f"{self.path} holds no {self.mask_file.name}{self._how_to_go_on()}")
        return load(self.mask_file)

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Take the folder, which is `held`, for a new run, or check that it holds the run that `settings` describe.

        Raises `RunError` for a folder that is not empty (without `resume`), that holds no run, or that holds one
        made with other settings.
        """
        if resume:
            if not self.settings.is_file():
                raise RunError(
                    f"--resume: {self.path} holds no run (there is no {self.settings.name}); leave --resume out to "
                    "start one"
                )
            before = self.recorded()
            names = [*settings, *(name for name in before if name not in settings)]  # a cascade's are more
            if other := [n for n in names if not _same(n, before.get(n), settings.get(n))]:
                said = "; ".join(
                    f"{n}: {_given(before.get(n))} there, {_given(settings.get(n))} here" for n in other
                )
                raise RunError(
                    f"--resume: the run in {self.path} was made with other settings ({said}); give the same, or "
                    "start anew in another folder, by --out"
                )
            return
        if any(found.name != LOCK for found in self.path.iterdir()):
            what = (
                "a run; go on with it by --resume and the same settings, or"
                if self.settings.is_file()
                else "files that no run wrote;"
            )
            raise RunError(f"the folder {self.path} is not empty: it holds {what} name another with --out")
        write_json(self.settings, settings)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other process can run in this folder. The lock is the system's, so it dies with its process.

        Raises `RunError` where another process holds it, or the folder cannot be made.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; name a folder with --out")
        path = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        except OSError as error:
            raise RunError(
                f"the folder {self.path} cannot be written: {error.strerror}; name another with --out"
            ) from error
        with lock:
            # Somebody who has just ended may have taken the name away from this very file.
            if not try_to_lock(lock) or os.fstat(lock.fileno()).st_nlink == 0:
                raise RunError(
                    f"another process is running in {self.path}; wait for it, or name another folder with --out"
                )
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # nothing was written after all, or much was
                    self.path.rmdir()

    def _how_to_go_on(self) -> str:
        if self.checkpoint.is_file() or self.dispatcher.checkpoint.is_file():
            return (
                ": the run was stopped before its end, and its checkpoint lies there. The same command with --resume "
                "goes on"
            )
        if self.settings.is_file() and not self.result_file.is_file():
            return ": the run was stopped before its training. The same command with --resume goes on"
        return "; name the folder of a finished run (--out of selfmask adapt)"


_PLACES = ("data", "labels", "split_file", "weights")


def _same(name: str, one: Any, other: Any) -> bool:
    both = isinstance(one, str) and isinstance(other, str)
    return same_data(one, other) if name in _PLACES and both else one == other


def _given(value: Any) -> str:
    return "not given" if value is None else repr(value)
