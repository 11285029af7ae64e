"""The layouts in which the paper's data sets are handed out, each read into a `Listing`.

Image names are relative to the set's image folder, as in CoOp's split files (split_zhou_*.json).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from selfmask.errors import DataError
from selfmask.images.folder import image_files
from selfmask.images.listing import Entry, Listing
from selfmask.images.tables import read_text


def dtd_listing(folder: Path) -> Listing:
    """images/CLASS/CLASS_0001.jpg; labels/train1.txt, val1.txt, test1.txt (the first of its ten partitions)."""
    images = folder / "images"
    splits = (("train", "train1.txt"), ("validation", "val1.txt"), ("test", "test1.txt"))
    return Listing(
        "dtd",
        tuple(
            Entry(name, images / name, name.split("/")[0], split)
            for split, file in splits
            for name in _lines(folder / "labels" / file)
        ),
    )


def eurosat_listing(folder: Path) -> Listing:
    """2750/CLASS/CLASS_1.jpg; no split of its own."""
    return Listing("eurosat", tuple(_by_first_folder(folder / "2750")))


def flowers102_listing(folder: Path) -> Listing:
    """jpg/image_00001.jpg; imagelabels.mat; setid.mat (trnid, valid, tstid); names from cat_to_name.json."""
    from scipy.io import loadmat

    numbers = loadmat(_present(folder / "imagelabels.mat"))["labels"].ravel().tolist()
    names = _flower_names(folder, max(numbers, default=0))
    split_of: dict[int, str] = {}
    if (folder / "setid.mat").is_file():  # CoOp's layout does without it
        ids = loadmat(folder / "setid.mat")
        for key, split in (("trnid", "train"), ("valid", "validation"), ("tstid", "test")):
            split_of |= dict.fromkeys(ids[key].ravel().tolist(), split)
    entries = []
    for position, number in enumerate(numbers, 1):
        file = f"image_{position:05d}.jpg"
        entries.append(Entry(file, folder / "jpg" / file, names[number - 1], split_of.get(position)))
    return Listing("flowers102", tuple(entries), names)


def oxford_pets_listing(folder: Path) -> Listing:
    """images/Breed_name_1.jpg; annotations/trainval.txt and test.txt with lines "Breed_name_1 class species id"."""
    entries = []
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in _lines(folder / "annotations" / file):
            stem = line.split()[0]
            breed = stem.rsplit("_", 1)[0].replace("_", " ").lower()
            entries.append(Entry(f"{stem}.jpg", folder / "images" / f"{stem}.jpg", breed, split))
    return Listing("oxford_pets", tuple(entries))


def food101_listing(folder: Path) -> Listing:
    """images/CLASS/1234.jpg; meta/train.txt and test.txt with lines "CLASS/1234"."""
    return Listing(
        "food101",
        tuple(
            Entry(
                f"{line}.jpg", folder / "images" / f"{line}.jpg", line.split("/")[0].replace("_", " "), split
            )
            for split in ("train", "test")
            for line in _lines(folder / "meta" / f"{split}.txt")
        ),
    )


def sun397_listing(folder: Path) -> Listing:
    """SUN397/a/abbey/sun_….jpg; Training_01.txt and Testing_01.txt if they are there (else no split)."""
    images = folder / "SUN397"
    partition = {"train": folder / "Training_01.txt", "test": folder / "Testing_01.txt"}
    if all(file.is_file() for file in partition.values()):
        names = [(line.lstrip("/"), split) for split, file in partition.items() for line in _lines(file)]
    else:
        names = [(path.relative_to(images).as_posix(), None) for path in image_files(images)]
    return Listing("sun397", tuple(Entry(name, images / name, _scene(name), split) for name, split in names))


def ucf101_listing(folder: Path) -> Listing:
    """UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg (one frame, the middle, of each video).

    The split is that of ucfTrainTestlist/trainlist01.txt and testlist01.txt, if they are there.
    """
    split_of: dict[str, str] = {}
    for split in ("train", "test"):
        file = folder / "ucfTrainTestlist" / f"{split}list01.txt"
        if file.is_file():
            split_of |= {re.split(r"[/. ]", line)[1]: split for line in _lines(file)}
    entries = [
        Entry(entry.name, entry.content, entry.label, split_of.get(Path(entry.name).stem))
        for entry in _by_first_folder(folder / "UCF-101-midframes")
    ]
    named = [entry for entry in entries if entry.split is not None]
    return Listing("ucf101", tuple(named if split_of else entries))


def inaturalist_listing(folder: Path) -> Listing:
    """train_mini/00001_Kingdom_…_species/….jpg and val/… (2021), or train/ in place of train_mini/.

    A subset is given by subset.txt beside them: the class folders to use, one a line.
    """
    chosen = set(_lines(folder / "subset.txt")) if (folder / "subset.txt").is_file() else None
    entries: list[Entry] = []
    for split, places in (
        ("train", ("2021_train_mini", "train_mini", "2021_train", "train")),
        ("test", ("2021_valid", "val")),
    ):
        place = next((folder / place for place in places if (folder / place).is_dir()), None)
        if place is None:
            continue
        if chosen is not None and (missing := sorted(name for name in chosen if not (place / name).is_dir())):
            raise DataError(f"{folder / 'subset.txt'} names {missing[0]!r}, which {place} does not have")
        classes = sorted(child for child in place.iterdir() if child.is_dir())
        for child in classes:
            if chosen is None or child.name in chosen:
                entries += [
                    Entry(path.relative_to(folder).as_posix(), path, _species(child.name), split)
                    for path in image_files(child)
                ]
    return Listing("inaturalist", tuple(entries))


def _by_first_folder(images: Path) -> list[Entry]:
    return [
        Entry(path.relative_to(images).as_posix(), path, path.relative_to(images).parts[0].replace("_", " "))
        for path in image_files(images)
    ]


def _scene(name: str) -> str:
    """ "a/apse/indoor/sun_1.jpg" to "apse indoor"."""
    return " ".join(name.split("/")[1:-1]).replace("_", " ")


def _species(folder: str) -> str:
    """ "00012_Animalia_Chordata_…_Turdus_merula" to "Turdus merula"; other names as they are."""
    parts = folder.split("_")
    return " ".join(parts[-2:]) if len(parts) >= 8 and parts[0].isdigit() else folder


def _flower_names(folder: Path, count: int) -> tuple[str, ...]:
    if (folder / "cat_to_name.json").is_file():
        names = json.loads((folder / "cat_to_name.json").read_text("utf-8"))
        return tuple(str(names[str(number)]) for number in range(1, count + 1))
    from torchvision.datasets import Flowers102

    known = tuple(getattr(Flowers102, "classes", ()))  # newer versions of torchvision carry the names
    return known if len(known) >= count else tuple(f"flower {number:03d}" for number in range(1, count + 1))


def _lines(path: Path) -> list[str]:
    text = read_text(_present(path))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path.parent} lacks {path.name}: the set is not complete, unpack it again")
    return path
