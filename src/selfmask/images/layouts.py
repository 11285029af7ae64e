"""The layouts in which the paper's data sets are handed out, each read into a `Listing`.

Not by torchvision's classes: these know their own layout only, not CoOp's, want iNaturalist whole and SUN397 without
its partitions. Image names are relative to the set's image folder, as in CoOp's split files (split_zhou_*.json).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from selfmask.errors import DataError
from selfmask.images.folder import image_files
from selfmask.images.listing import Entry, Listing
from selfmask.images.tables import parsed_json, read_text


def _first_folder(image: str) -> str:
    return image.split("/")[0].replace("_", " ")


@dataclass(frozen=True)
class Layout:
    """Images below one folder, whose names say their classes; lists that say the splits.

    images: the folder of images. label: an image's name to its class. lists: the file of each split, an image a line;
    without any of them the set has no split of its own, unless `needed`. image: a line to the image's name.
    """

    name: str
    images: str = "images"
    label: Callable[[str], str] = _first_folder
    lists: dict[str, str] = field(default_factory=dict)
    needed: bool = True
    image: Callable[[str], str] = str

    def __call__(self, folder: Path) -> Listing:
        """Raises `DataError` where a list is missing that is needed."""
        images = folder / self.images
        if self.lists and (self.needed or all((folder / file).is_file() for file in self.lists.values())):
            named = [
                (self.image(line), split)
                for split, file in self.lists.items()
                for line in _lines(folder / file)
            ]
        else:
            named = [(path.relative_to(images).as_posix(), None) for path in image_files(images)]
        return Listing(
            self.name, tuple(Entry(image, images / image, self.label(image), split) for image, split in named)
        )


def _breed(image: str) -> str:
    """ "american_bulldog_12.jpg" to "american bulldog"."""
    return image.rsplit("_", 1)[0].replace("_", " ").lower()


def _scene(image: str) -> str:
    """ "a/apse/indoor/sun_1.jpg" to "apse indoor"."""
    return " ".join(image.split("/")[1:-1]).replace("_", " ")


def _middle_frame(line: str) -> str:
    """ "YoYo/v_YoYo_g01_c01.avi 100" to "Yo_Yo/v_YoYo_g01_c01.jpg", where CoOp has the frame of that video."""
    action, _, video = line.split()[0].partition("/")
    return f"{'_'.join(re.findall('[A-Z][^A-Z]*', action))}/{video.removesuffix('.avi')}.jpg"


dtd_listing = Layout(  # the first of its ten partitions
    "dtd", lists={"train": "labels/train1.txt", "validation": "labels/val1.txt", "test": "labels/test1.txt"}
)
eurosat_listing = Layout("eurosat", "2750")
food101_listing = Layout(
    "food101", lists={"train": "meta/train.txt", "test": "meta/test.txt"}, image=lambda line: f"{line}.jpg"
)
oxford_pets_listing = Layout(
    "oxford_pets", label=_breed, lists={"train": "annotations/trainval.txt", "test": "annotations/test.txt"},
    image=lambda line: f"{line.split()[0]}.jpg",
)  # fmt: skip
sun397_listing = Layout(
    "sun397", "SUN397", _scene, {"train": "Training_01.txt", "test": "Testing_01.txt"}, needed=False,
    image=lambda line: line.lstrip("/"),
)  # fmt: skip
ucf101_listing = Layout(  # one frame, the middle, of each video
    "ucf101", "UCF-101-midframes", needed=False, image=_middle_frame,
    lists={"train": "ucfTrainTestlist/trainlist01.txt", "test": "ucfTrainTestlist/testlist01.txt"},
)  # fmt: skip


def flowers102_listing(folder: Path) -> Listing:
    """jpg/image_00001.jpg; imagelabels.mat; setid.mat (trnid, valid, tstid); names from cat_to_name.json."""
    numbers, names = _matrices(folder / "imagelabels.mat", "labels")["labels"], _flower_names(folder)
    if not all(0 < number <= len(names) for number in numbers):
        raise DataError(
            f"{folder / 'imagelabels.mat'} has labels beyond the {len(names)} classes that have names"
        )
    split_of: dict[int, str] = {}
    if (folder / "setid.mat").is_file():  # CoOp's layout does without it
        splits = {"trnid": "train", "valid": "validation", "tstid": "test"}
        for key, places in _matrices(folder / "setid.mat", *splits).items():
            split_of |= dict.fromkeys(places, splits[key])
    entries = []
    for position, number in enumerate(numbers, 1):
        file = f"image_{position:05d}.jpg"
        entries.append(Entry(file, folder / "jpg" / file, names[number - 1], split_of.get(position)))
    return Listing("flowers102", tuple(entries), names)


def inaturalist_listing(folder: Path) -> Listing:
    """train_mini/00001_Kingdom_…_species/….jpg and val/… (2021), or train/ in place of train_mini/.

    `subset.txt`, if it is there, names the class folders to use, one a line.
    """
    subset = folder / "subset.txt"
    chosen = set(_lines(subset)) if subset.is_file() else None
    places = {"train": ("train_mini", "train"), "validation": ("val",)}
    entries: list[Entry] = []
    for split, names in places.items():
        place = next((folder / name for name in names if (folder / name).is_dir()), None)
        if place is None:
            continue
        if chosen is not None and (missing := sorted(name for name in chosen if not (place / name).is_dir())):
            raise DataError(f"{subset} names {missing[0]!r}, which {place} does not have")
        for child in sorted(child for child in place.iterdir() if child.is_dir()):
            if chosen is None or child.name in chosen:
                entries += [
                    Entry(path.relative_to(folder).as_posix(), path, _species(child.name), split)
                    for path in image_files(child)
                ]
    return Listing("inaturalist", tuple(entries))


def cifar10_listing(folder: Path) -> Listing:
    """data_batch_1.bin … data_batch_5.bin, test_batch.bin, batches.meta.txt; one label byte a record."""
    training = [f"data_batch_{k}.bin" for k in range(1, 6)]
    return _cifar("cifar10", folder, [*training, "test_batch.bin"], "batches.meta.txt", label_bytes=1)


def cifar100_listing(folder: Path) -> Listing:
    """train.bin, test.bin, fine_label_names.txt; a coarse and a fine label byte a record, the fine one used."""
    return _cifar("cifar100", folder, ["train.bin", "test.bin"], "fine_label_names.txt", label_bytes=2)


def _cifar(name: str, folder: Path, files: list[str], names: str, label_bytes: int) -> Listing:
    """The binary version: records of label bytes and 3 × 32 × 32 pixels, the last file for the test.

    torchvision reads the other version, which is pickled, after checking the digests of its files. Here nothing is
    unpickled at all: that needs no digest to be trusted, and costs these few lines.
    """
    classes = tuple(read_text(_present(folder / names)).split())
    entries: list[Entry] = []
    for file in files:
        data, length = np.fromfile(_present(folder / file), dtype=np.uint8), label_bytes + 3 * 32 * 32
        if data.size == 0 or data.size % length:
            raise DataError(
                f"{folder / file} has {data.size} bytes, not a multiple of {length}: it is damaged"
            )
        labels, pixels = np.split(data.reshape(-1, length), [label_bytes], axis=1)
        if labels[:, -1].max() >= len(classes):
            raise DataError(
                f"{folder / file}: label {labels[:, -1].max()} where there are {len(classes)} classes"
            )
        split = "test" if file == files[-1] else "train"
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        entries += [
            Entry(f"{split}/{Path(file).stem}/{k:05d}", partial(images.__getitem__, k), classes[label], split)
            for k, label in enumerate(labels[:, -1])
        ]
    return Listing(name, tuple(entries), classes)


def _species(folder: str) -> str:
    """ "00012_Animalia_Chordata_…_Turdus_merula" to "Turdus merula"; other names as they are."""
    parts = folder.split("_")
    return " ".join(parts[-2:]) if len(parts) >= 8 and parts[0].isdigit() else folder


def _matrices(path: Path, *keys: str) -> dict[str, list[int]]:
    """Whole numbers from a file of Matlab's."""
    from scipy.io import loadmat

    try:
        found = loadmat(_present(path), variable_names=keys)
        return {key: np.asarray(found[key], dtype=np.int64).ravel().tolist() for key in keys}
    except DataError:
        raise
    except Exception as error:  # a damaged file makes its reader raise anything
        raise DataError(f"{path} cannot be read ({error}): the set is damaged, unpack it again") from error


def _flower_names(folder: Path) -> tuple[str, ...]:
    """The names of the classes, in order, as CoOp's file or else torchvision has them (newer versions do)."""
    path = folder / "cat_to_name.json"
    if path.is_file():
        names = parsed_json(read_text(path), f"{path}")
        if isinstance(names, dict) and set(names) == {str(number) for number in range(1, len(names) + 1)}:
            return tuple(str(names[str(number)]) for number in range(1, len(names) + 1))
        raise DataError(f"{path} must name the classes by their numbers, from 1 on")
    from torchvision.datasets import Flowers102

    return tuple(getattr(Flowers102, "classes", ())) or tuple(
        f"flower {number:03d}" for number in range(1, 103)
    )


def _lines(path: Path) -> list[str]:
    text = read_text(_present(path))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path.parent} lacks {path.name}: the set is not complete, unpack it again")
    return path


LAYOUTS: dict[str, Callable[[Path], Listing]] = {
    "cifar10": cifar10_listing,
    "cifar100": cifar100_listing,
    "dtd": dtd_listing,
    "eurosat": eurosat_listing,
    "flowers102": flowers102_listing,
    "oxford_pets": oxford_pets_listing,
    "food101": food101_listing,
    "sun397": sun397_listing,
    "ucf101": ucf101_listing,
    "inaturalist": inaturalist_listing,
}
"""How each data set of the catalogue is read from its folder."""
