"""Downloads that resume, are checked, and are named before they start.

A file arrives under the name FILE.part; only when its length and SHA-256 digest are right is it renamed. What was
fetched before an interruption is kept and continued with a range request.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from selfmask.errors import DataError
from selfmask.version import VERSION

Say = Callable[[str], None]
_BLOCK = 2**20
_TIMEOUT = 20.0  # seconds without a byte


@dataclass(frozen=True)
class Download:
    """One file of a data set: where it comes from, its length in bytes and its SHA-256 digest.

    unpack: where its contents go, relative to the data set's folder; None: it is kept as it is.
    """

    url: str
    size: int
    sha256: str
    unpack: str | None = "."

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(download: Download, folder: Path, say: Say) -> Path:
    """Bring one file into `folder`, or find it there. Returns its path.

    Raises `DataError`: no connection, no room, or not the file that was expected (it is then removed).
    """
    target = folder / download.name
    if target.is_file() and target.stat().st_size == download.size:
        return target
    part = folder / f"{download.name}.part"
    have = part.stat().st_size if part.exists() else 0
    if have > download.size:
        part.unlink()
        have = 0
    _check_room(folder, download.size - have)
    resumed = f", of which {readable(have)} are here" if have else ""
    say(f"Downloading {download.name} ({readable(download.size)}{resumed}) from {download.url} to {folder}")
    if have < download.size:
        _receive(download, part, have)
    _check(download, part)
    os.replace(part, target)
    return target


def readable(size: float) -> str:
    """A length in bytes in words, decimal units: "625 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.1f} {unit}" if unit == "GB" and size < 99.95 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError


def to_stderr(message: str) -> None:
    """Where messages go unless told otherwise: standard output may be a JSON document."""
    print(message, file=sys.stderr, flush=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file: into a temporary folder first, so that an interruption leaves no half of it.

    Entries that would land outside `folder` are refused, and what is neither file, folder nor link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as name:
        temporary = Path(name)
        try:
            if zipfile.is_zipfile(archive):
                _unzip(archive, temporary)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(temporary, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{archive} cannot be unpacked: {error}. Remove it and try again.") from error
        for child in sorted(temporary.iterdir()):
            _move_into(child, folder / child.name)


def _receive(download: Download, part: Path, have: int) -> None:
    request = urllib.request.Request(download.url, headers={"User-Agent": f"selfmask/{VERSION}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            part.parent.mkdir(parents=True, exist_ok=True)
            continued = response.status == 206 and _starts_at(response.headers.get("Content-Range"), have)
            with part.open("ab" if continued else "wb") as file:
                room = download.size - (have if continued else 0)
                while block := response.read(_BLOCK):
                    room -= len(block)
                    if room < 0:  # not the file that was promised: do not fill the disk with it
                        break
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{download.url}: the server answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{download.url} cannot be reached: {reason}") from error
    if room < 0:
        part.unlink()
        raise DataError(
            f"{download.url} is longer than the {download.size} bytes it should have: it has changed, or "
            "something else answered. Nothing was kept."
        )
    if room > 0:
        raise DataError(
            f"{download.url}: the connection ended {readable(room)} early. What arrived is kept: try again to "
            "go on from there."
        )


def _starts_at(content_range: str | None, have: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {have}-")


def _check(download: Download, part: Path) -> None:
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != download.sha256:
        part.unlink()
        raise DataError(
            f"{download.url} is not the file that it should be (SHA-256 {digest.hexdigest()[:12]}… instead of "
            f"{download.sha256[:12]}…). It was removed: try again, or get it from elsewhere."
        )


def _check_room(folder: Path, needed: int) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DataError(f"{folder} has {readable(free)} free, and {readable(needed)} are to be downloaded")


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(
                    f"{archive} has an entry outside of itself, {entry.filename!r}: it was not unpacked"
                )
        file.extractall(folder)


def _move_into(source: Path, target: Path) -> None:
    """Move a file or folder, into a folder of the same name if there is one already."""
    if source.is_dir() and target.is_dir():
        for child in source.iterdir():
            _move_into(child, target / child.name)
    else:
        os.replace(source, target)
