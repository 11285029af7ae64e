"""Cells at the paper's own scale (PAPER §6): its data sets, backbones and constants. Not run here.

Of its tables and figures these are masks with labels (Main Table 1, App. Table 1), the rules without labels (Main Table
2, App. Tables 2 and 3), the theorems (App. Fig. 1) and the cascade (Main Table 3). Full fine-tuning, few labels (Main
Fig. 3) and the supplement are not in it, and nothing is drawn.
"""

from __future__ import annotations

from typing import Any

import theorems
import unlabelled
from cells import Cell

from selfmask.images.catalogue import CATALOGUE

SETS = (
    "cifar10",
    "cifar100",
    "dtd",
    "eurosat",
    "flowers102",
    "inaturalist",
    "oxford_pets",
    "sun397",
    "ucf101",
)
WITHOUT_LABELS = ("cifar10", "cifar100", "dtd", "eurosat", "flowers102", "sun397", "ucf101")
CLIP, SWAV = "clip_vit_b_32", "swav_resnet50"
BACKBONES = ("timm:resnet18", SWAV, CLIP)
PAPER: dict[str, Any] = {"preset": "paper", "threads": None, "precision": "bf16"}
MEASURED: dict[str, Any] = {"measures": ("head", "knn", "probe"), "keep": ("layers",), "test": 10**9}
VIEWS_OF_SWAV = 8
SPEED = 1000
"""Views a second: an assumption, to have hours from views. Not measured."""


def cells() -> list[Cell]:
    """In the order of the module's words."""
    made: list[Cell] = []
    for data in SETS:
        for backbone in BACKBONES:
            objective = {"objective": "text" if backbone == CLIP else "supervised"}
            made.append(Cell(data, backbone, 0, {"recipe": "paper"}, {**PAPER, **objective}, **MEASURED))
    swav = {**PAPER, "objective": "swav"}
    for seed in range(5):
        for data in WITHOUT_LABELS:
            made.append(unlabelled.untouched(data, seed, SWAV, swav))
            rules = unlabelled.RULES if seed < 3 else [unlabelled.THRESHOLD]
            made += [unlabelled.learnt(data, seed, rule, "swav", SWAV, swav, rate=50.0) for rule in rules]
    made += theorems.cells(
        (0,), {**PAPER, "objective": "supervised"}, data="cifar10", backbone="timm:resnet18", rate=50
    )
    alone = {"statistics": False, "larger": False}
    made.append(Cell("cifar100", SWAV, 0, {"recipe": "cascade"}, {**swav, **alone}, how="cascade"))
    return made


def views(cell: Cell) -> float:
    """How many views the training of a cell passes through the network."""
    if cell.how == "untouched":
        return 0.0
    epochs = 32 if cell.backbone == CLIP else 150
    each = VIEWS_OF_SWAV if cell.settings["objective"] == "swav" else 1
    passes = 6 if cell.how == "cascade" else 1
    return CATALOGUE[cell.data].images * epochs * each * passes


def announcement() -> str:
    """What it will take, before anything is fetched or trained."""
    found = cells()
    total = sum(map(views, found))
    lines = [
        f"{len(found)} trainings by the paper's preset: 224 px, 150 epochs (CLIP: 32), batch 64",
        *(
            f"  {name:12} {CATALOGUE[name].images:>8,} images, "
            + (
                f"{CATALOGUE[name].megabytes:,} MB to fetch"
                if CATALOGUE[name].fetch
                else "to be put there by hand"
            )
            for name in dict.fromkeys(cell.data for cell in found)
        ),
        f"backbones: {', '.join(BACKBONES)}, each fetched from its authors",
        f"{total / 1e9:.1f} billion views: {total / SPEED / 3600:,.0f} h at {SPEED:,} a second (assumed, not measured)",
        "every call with --minutes 9 ends within ten and goes on; what is finished is kept",
    ]
    return "\n".join(lines)
