"""Can untouched features say whether whitening helps them? The share of their first direction; docs/label-free.md.

    python benchmarks/whitening.py --out runs/whitening            # runs what is missing, then prints the table
    python benchmarks/whitening.py --keep docs/whitening.json --table

For each data set, backbone and size: k-NN of training images by other training images (of the traffic signs by other
tracks), as they are and whitened, and the share of the features' variance that lies in their first direction, which
needs no label. Test images play no part. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from label_free_cells import BACKBONES, DATA
from torch import Tensor
from validation_parts import signs_by_track, write

from selfmask.features.features import features
from selfmask.features.knn import knn
from selfmask.features.whitening import UNEVEN, Whitening
from selfmask.images.image_set import ImageSet
from selfmask.run.plan import make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings

SIZES = {"efficientnet-lite0": (64, 128), "resnet-18": (64, 128), "vit-s14": (70,)}
OF_DIGITS = {"efficientnet-lite0": (32,), "resnet-18": (32,), "vit-s14": (42,)}
LEAST = 2.0
"""Points of k-NN below which neither is better, by 375 to 500 images."""


def parts(train: ImageSet, validation: ImageSet | None) -> tuple[ImageSet, ImageSet]:
    """Images to compare with and images to classify, drawn by seed 0; at most 1 200 and 500."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train), generator=generator)
    if validation is None:
        some = min(len(order), 1500)
        bank = round(0.75 * some)
        return train.subset(order[:bank]), train.subset(order[bank:some])
    others = torch.randperm(len(validation), generator=generator)
    return train.subset(order[:1200]), validation.subset(others[:500])


def measured(data: str, backbone: str, size: int, signs: Path, threads: int) -> dict[str, Any]:
    """One cell."""
    settings: dict[str, Any] = DATA[data] | BACKBONES[backbone] | {"size": size}
    settings |= {"data": str(signs)} if data == "gtsrb" else {}
    settings.pop("images", None)
    plan = make_plan(AdaptSettings(**settings, objective="contrast", held_out=0.0, threads=threads))
    bank, asked = parts(plan.splits.train, plan.splits.validation if data == "gtsrb" else None)
    x, y = (features(plan.backbone, images, size=plan.size) for images in (bank, asked))
    whitening = Whitening.of(x)

    def top1(one: Tensor, other: Tensor) -> float:
        right = knn(one, bank.labels, other, k=min(50, len(bank) // 10)) == asked.labels
        return round(100 * float(right.double().mean()), 1)

    return {
        "data": data, "backbone": backbone, "size": size, "images": len(bank), "asked": len(asked),
        "first": round(whitening.first, 4), "plain": top1(x, y),
        "whitened": top1(whitening.apply(x), whitening.apply(y)),
    }  # fmt: skip


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown, in the order of the first direction's share, and how often the rule was right."""
    lines = [
        "| data | backbone | px | first direction | plain | whitened | gain, points | said |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sorts = {"right": 0, "missed": 0, "harmful": 0, "neither": 0}
    for one in sorted(cells, key=lambda one: -one["first"]):
        gain, said = one["whitened"] - one["plain"], one["first"] > UNEVEN
        what = (
            "neither"
            if abs(gain) < LEAST
            else "right"
            if (gain > 0) == said
            else "harmful"
            if said
            else "missed"
        )
        sorts[what] += 1
        lines.append(
            f"| {one['data']} | {one['backbone']} | {one['size']} | {100 * one['first']:.1f} % | {one['plain']:.1f} "
            f"| {one['whitened']:.1f} | {gain:+.1f} | {'whiten' if said else 'leave'}: {what} |"
        )
    return "\n".join([*lines, "", ", ".join(f"{n} {what}" for what, n in sorts.items())])


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, default=Path("docs/whitening.json"), help="a file of all cells")
    parser.add_argument("--backbones", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/whitening"), help="for the list of the traffic signs"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    asked = parser.parse_args()
    cells: list[dict[str, Any]] = json.loads(asked.keep.read_text()) if asked.keep.is_file() else []
    known = {(one["data"], one["backbone"], one["size"]) for one in cells}
    wanted = [
        (data, backbone, size)
        for backbone in asked.backbones
        for data in DATA
        for size in (OF_DIGITS if data == "digits" else SIZES)[backbone]
        if not asked.table and (data, backbone, size) not in known
    ]
    signs = write(asked.out / "signs.csv", signs_by_track()) if wanted else Path()
    for cell in wanted:
        cells.append(measured(*cell, signs, asked.threads))
        write_json(asked.keep, cells)
    print(table(cells))


if __name__ == "__main__":
    main()
