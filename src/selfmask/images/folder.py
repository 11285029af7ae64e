"""A folder of images: class sub-folders, or flat; with train/ validation/ test/ above them, or without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from selfmask.errors import DataError
from selfmask.images.decode import EXTENSIONS
from selfmask.images.listing import Entry, Listing, split_name
from selfmask.images.place import check_folder
from selfmask.images.tables import parsed_json, read_text

_MOST_SETTINGS = 2**20  # bytes of a run's


def folder_listing(folder: Path) -> Listing:
    """Read the layout of a folder.

    - Sub-folders called train, validation (or val), test: those are the splits, if one of them is train or they are
      two with no other folder of images beside them. (A "train" among other folders with images, and no test or
      validation, is a class: vehicles, say.)
    - Sub-folders with images: each is a class; images lie in it at any depth. Images directly in the folder,
      beside class folders, are unlabelled.
    - No sub-folders with images: all images are unlabelled.
    """
    check_folder(folder)
    named = folder.resolve().name  # of "." too
    splits = _split_folders(folder)
    others: list[Path] = []
    if splits:
        others = [
            child for child in _subfolders(folder) if child not in splits.values() and image_files(child)
        ]
    alone = len(splits) > 1 and not others
    if not alone and ("train" not in splits or (len(splits) == 1 and others)):
        entries = _class_folders(folder, folder, None)
        return Listing(named, tuple(entries), notes=_beside_classes(entries))
    parts = [
        _class_folders(child, folder, split if len(splits) > 1 else None) for split, child in splits.items()
    ]
    ignored = ", ".join(f"{child.name}/" for child in others)
    notes = [f"Beside the splits, {ignored} is left out."] if others else []
    notes += [note for part in parts for note in _beside_classes(part)]
    return Listing(named, tuple(entry for part in parts for entry in part), notes=tuple(notes))


def _beside_classes(entries: list[Entry]) -> tuple[str, ...]:
    """A word on images of one folder that are in none of its class folders: they may be there by mistake."""
    alone = [entry.name for entry in entries if entry.label is None]
    if not alone or len(alone) == len(entries):
        return ()
    images = "1 image lies" if len(alone) == 1 else f"{len(alone):,} images lie"
    return (f"{images} beside the class folders, and so without a label: {alone[0]}, say.",)


def _split_folders(folder: Path) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    for child in _subfolders(folder):
        split = split_name(child.name)
        if split is not None and splits.setdefault(split, child) != child:
            raise DataError(f"{folder} has both {splits[split].name}/ and {child.name}/: keep one of them")
    return splits


def flat_listing(folder: Path) -> Listing:
    """All images of a folder, at any depth, without labels."""
    check_folder(folder)
    entries = [Entry(path.relative_to(folder).as_posix(), path) for path in image_files(folder)]
    if not entries:
        raise DataError(_no_images(folder))
    return Listing(folder.resolve().name, tuple(entries))


def image_files(folder: Path) -> list[Path]:
    """Image files below a folder (by their endings), sorted by relative path; hidden ones left out.

    Symbolic links are followed, each folder once.
    """
    return list(walk(folder))


def walk(folder: Path) -> Iterator[Path]:
    """The same one after another, in the same order: no more than the names in one folder are held at a time."""
    yield from _walk(folder, set())


def _class_folders(folder: Path, root: Path, split: str | None) -> list[Entry]:
    direct = [
        Entry(path.relative_to(root).as_posix(), path, None, split)
        for path in sorted(folder.iterdir())
        if _is_image(path)
    ]
    dead = next((one for one in folder.iterdir() if _leads_nowhere(one) and not one.suffix), None)
    if dead is not None:  # it may have been a class
        raise DataError(f"{dead} is a link that leads nowhere: mend it or remove it")
    entries: list[Entry] = []
    empty: list[Path] = []
    for child in _subfolders(folder):
        found = image_files(child)
        if not found and not any(map(_is_run, child.iterdir())):
            empty.append(child)
        entries += [Entry(path.relative_to(root).as_posix(), path, child.name, split) for path in found]
    if not entries and not direct:
        raise DataError(_no_images(folder))
    if empty and entries:
        raise DataError(
            f"the class folder {empty[0].relative_to(root).as_posix()!r} in {root} holds no images: "
            f"fill it or remove it{_other_files(empty[0])}"
        )
    return direct + entries


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        (one for one in folder.iterdir() if one.is_dir() and not _is_hidden(one.name) and not _is_run(one)),
        key=lambda child: child.name,
    )


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as found:
        # A folder counts with the slash that follows it in the paths below it: so this is the order of the paths.
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in found)
    for name in names:
        if name.endswith("/"):
            if not _is_hidden(name[:-1]) and not _is_run(folder / name[:-1]):
                yield from _walk(folder / name[:-1], seen)
        elif _is_image(folder / name):
            yield folder / name


def _is_image(path: Path) -> bool:
    """A link to nothing is one that cannot be read, and is counted as such."""
    named = path.suffix.lower() in EXTENSIONS and not _is_hidden(path.name)
    return named and (path.is_file() or _leads_nowhere(path))


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _is_run(folder: Path) -> bool:
    """Whether a run wrote it, or a cascade, whose pictures are none of the data, though it may lie there (`adapt .`).

    Told by its settings, which are there before anything else is.
    """
    file = folder / "settings.json"
    if not file.is_file() or file.stat().st_size > _MOST_SETTINGS:
        return False
    try:
        found = parsed_json(read_text(file), str(file))
    except DataError:
        return False
    return isinstance(found, dict) and {"data", "objective", "backbone"} <= found.keys()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _no_images(folder: Path) -> str:
    return f"{folder} holds no images{_other_files(folder)}"


def _other_files(folder: Path) -> str:
    others = [
        child.name for child in sorted(folder.iterdir()) if child.is_file() and not _is_hidden(child.name)
    ]
    known = "image files end in .jpg, .png, .webp, .tif, .gif, .bmp …"
    if not others:
        return " (it is empty)" if not any(folder.iterdir()) else ""
    return f" (it has {len(others)} other files, such as {others[0]!r}; {known})"
