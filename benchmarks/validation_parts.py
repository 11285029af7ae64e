"""Lists of training images with a validation part: what settings are chosen on, and never on test images.

    python benchmarks/validation_parts.py --out runs/validation
    selfmask adapt runs/validation/signs.csv --objective contrast --size 64 --no-mirror

A fifth of the images of each set (CIFAR-10: 1 000 of 3 500). Of the traffic signs whole tracks, since the pictures of a
track show one sign. In a list that part is called "test", so that a run measures on it. Needs the folder `shared`
beside the repository.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
Part = list[tuple[Path, str]]  # (file, "train" or "test")


def tracks(folder: Path) -> Part:
    """Class folders of files called TRACK_NUMBER.png: a fifth of each class's tracks, at least one of two."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.rglob("*.png")):
        found[file.parent.name][file.stem.split("_")[0]].append(file)
    part: Part = []
    for by_track in found.values():
        some = list(by_track.values())
        random.shuffle(some)
        held = max(1, round(len(some) / 5)) if len(some) > 1 else 0
        part += [(file, "test" if k < held else "train") for k, files in enumerate(some) for file in files]
    return part


def files(folder: Path, most: int | None = None, held: int | None = None) -> Part:
    """Some files at random, of which `held` (a fifth) are for validation."""
    some = sorted(path for path in folder.rglob("*") if path.is_file())
    random.shuffle(some)
    some = some[:most]
    held = round(len(some) / 5) if held is None else held
    return [(file, "test" if k < held else "train") for k, file in enumerate(some)]


def write(path: Path, part: Part) -> Path:
    """The list as CSV, with a label from each file's folder; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "split"])
        writer.writerows((file, file.parent.name, split) for file, split in part)
    return path


def signs_by_track() -> Part:
    """The traffic signs with a fifth of the training tracks as validation part, and their own test part."""
    random.seed(0)
    names = {"train": "train", "test": "validation"}
    part = [(file, names[split]) for file, split in tracks(DATA / "gtsrb/train")]
    return part + [(file, "test") for file in sorted((DATA / "gtsrb/test").rglob("*.png"))]


def main() -> None:
    """Write the lists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/validation"))
    out = parser.parse_args().out
    random.seed(0)
    parts = {
        "signs": tracks(DATA / "gtsrb/train"),
        "cifar": files(DATA / "cifar10/train", 3500, 1000),
        "clothing": files(DATA / "clothing/train"),
        "dtd": files(DATA / "dtd10/train"),
    }
    for name, part in parts.items():
        write(out / f"{name}.csv", part)
        held = sum(split == "test" for _, split in part)
        print(f"{name}: {len(part) - held} to train on, {held} to choose by")


if __name__ == "__main__":
    main()
