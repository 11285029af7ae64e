"""Which mask files there are in a folder, what they are called, and whether they are still the same."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from selfmask._common.escape import one_line
from selfmask.errors import MaskFileError, RunError, SettingsError
from selfmask.maskfile.loading import parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder

_ENDINGS = re.compile(r"(\.mask)?\.safetensors\Z")
MOST_NAME_BYTES = 200

Stamp = tuple[int, int, int]
"""When a file was last written (ns), its size and its inode: another file has another stamp."""


@dataclass(frozen=True)
class Entry:
    """A mask file of a bank, checked when it was added: `digest` tells whether what is read later is what was checked.

    folder: the watched folder that it was found in, or None. predicts: whether it brings a head.
    """

    name: str
    path: Path
    stamp: Stamp
    digest: bytes
    folder: Path | None
    predicts: bool

    def read(self) -> Mask:
        """The file again. Raises `MaskFileError` where it is gone, or not the one that was added."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise MaskFileError(
                f"{one_line(str(self.path))}: the mask {self.name!r} is not in memory any more, and its file cannot be "
                f"read ({error.strerror}); put it back, or remove the mask"
            ) from None
        if digest_of(content) != self.digest:
            raise MaskFileError(
                f"{one_line(str(self.path))}: the file has changed since the mask {self.name!r} was added, or is "
                "damaged; call refresh() to take what is there now (if it is whole), or remove the mask"
            )
        return parse_mask(content, self.path)


def digest_of(content: bytes) -> bytes:
    """Of a whole file: 16 bytes of XXH3, which tells accidents, not attackers."""
    return xxhash.xxh3_128_digest(content)


def stamp_of(path: Path) -> Stamp:
    """Raises `OSError` where there is none."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def mask_file(path: Path) -> Path:
    """The mask file that `path` means: itself, or the one in a run's folder.

    Raises `SettingsError` where there is nothing, `RunError` for a folder without a mask.
    """
    if not path.exists():
        raise SettingsError(
            f"there is no {path}: name a mask file, the folder of a run, or a folder of masks"
        )
    if not path.is_dir():
        return path
    if not RunFolder(path).mask_file.is_file():
        if RunFolder(path).rejected_file.is_file():
            raise RunError(RunFolder(path).rejection)
        raise RunError(
            f"{path} holds no {RunFolder(path).mask_file.name}: name a mask file, or the folder of a run"
        )
    return RunFolder(path).mask_file


def check_not_rejected(path: Path, folder: Path) -> None:
    """Raises `RunError` for the rejected mask of a run whose folder lies in `folder`: nobody has asked for it."""
    run = RunFolder(path.parent)
    if run.path != folder and path == run.rejected_file:
        raise RunError(run.rejection)


def name_of(path: Path) -> str:
    """What the mask in `path` is called where nobody says: the file without its endings, or the run's folder."""
    if path.name == RunFolder(path.parent).mask_file.name:
        return os.path.basename(os.path.abspath(path.parent))  # not where links lead, into a store say
    return _ENDINGS.sub("", path.name)


def checked_name(name: str) -> str:
    """`name`. Raises `SettingsError` for one that cannot be a mask's: it stands in paths and addresses."""
    odd = not name or name in (".", "..") or any(c in name for c in "/\\\0") or one_line(name) != name
    if odd or len(name.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
        raise SettingsError(
            f"a mask cannot be called {name!r}: a name is 1 to {MOST_NAME_BYTES} bytes without separators of paths and "
            "control characters; rename the file, or give a name"
        )
    return name


def is_folder_of_masks(path: Path) -> bool:
    """Whether `path` is a folder to look for masks in, and not that of one run."""
    return path.is_dir() and not RunFolder(path).settings.is_file()


def masks_in(folder: Path) -> list[Path]:
    """The mask files in a folder by name: its files *.safetensors, and those of runs whose folders lie in it.

    Of a run without a mask it is the one that the run rejected, see `check_not_rejected`. Hidden ones (among them those
    that are being written) are left out. Raises `SettingsError` where the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise SettingsError(f"the folder {folder} cannot be read: {error.strerror}") from None
    paths: list[Path] = []
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        with suppress(
            OSError
        ):  # one that may not be looked into, or a link in a circle, costs the others nothing
            if entry.is_dir():
                own = (RunFolder(path).mask_file, RunFolder(path).rejected_file)
                paths.extend(itertools.islice(filter(Path.is_file, own), 1))
            elif entry.name.endswith(".safetensors") and entry.is_file():
                paths.append(path)
    return paths
