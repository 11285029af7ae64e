"""Masks learnt with labels: one set of trainings for App. Table 1, Fig. 2, Fig. 3 and Main Table 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cells import Cell, Found, pick, spread, table, values

HERE: dict[str, Any] = {"objective": "supervised", "images": 600, "size": 48, "steps": 60, "batch": 32}
"""What two cores can do. Batch norms are frozen: at so small a size moved statistics alone cost accuracy."""
RATES: dict[tuple[str, str], float] = {
    ("paper", "EfficientNet-Lite0"): 0.15,
    ("paper, late", "EfficientNet-Lite0"): 0.5,
    ("ours", "EfficientNet-Lite0"): 0.03,
}
"""Chosen by `scan.md`. Ours is one rate for all backbones, since adam's steps do not depend on the network."""
SCANNED: dict[tuple[str, str], tuple[float, ...]] = {
    ("ours", "EfficientNet-Lite0"): (0.06, 0.03),
    ("paper", "EfficientNet-Lite0"): (0.5, 0.15),
    ("paper", "ResNet-18"): (1.5, 0.5, 0.15),
    ("paper, late", "EfficientNet-Lite0"): (8.0, 2.0, 0.5),
}
DATA = ("signs", "CIFAR-10", "digits", "DTD", "clothing")
BACKBONES = ("EfficientNet-Lite0", "ResNet-18", "ViT-S/14", "ResNet-50")
FIRST = BACKBONES[0]
FEW = ("signs", "CIFAR-10", "DTD")
"""Data sets of the backbone that takes longest."""
PAPER = {"optimizer": "sgd", "warmup": 40 / 150}
"""SGD from scores at 1, with momentum; a warm-up and a cosine."""
LATE = {**PAPER, "select": r"re:blocks\.[456]\..*conv_pw.*weight"}
"""The last blocks of EfficientNet-Lite0 only: 2.5 of 3.1 million weights. By SGD the first to go off are in its first
tensors, of 512 to some thousand weights each, and a few of them do much harm."""
OURS = {"spread": 0.5}
"""Scores from 0.5 to 1.5, as adapt had them by default when these were measured; now they start from 0.05 to 1.95."""
OWN: dict[str, dict[str, Any]] = {"ours": OURS, "paper": PAPER, "paper, late": LATE}


def cell(data: str, backbone: str, recipe: str, seed: int = 0) -> Cell:
    """One mask, with the densities of its layers. Ours: what `selfmask adapt` takes by itself, but for rate
    and spread."""
    rate = RATES["ours", FIRST] if recipe == "ours" else RATES[recipe, backbone]
    return Cell(
        data, backbone, seed, {"recipe": recipe}, {**HERE, **OWN[recipe], "lr": rate}, keep=("layers",)
    )


def scan() -> list[Cell]:
    """Rates on CIFAR-10, measured on training images that are held out."""
    return [
        Cell(
            "CIFAR-10", backbone, 0, {"recipe": f"scan, {recipe}", "lr": f"{rate:g}"},
            {**HERE, "images": 900, "held_out": 1 / 3, **OWN[recipe], "lr": rate},
        )
        for (recipe, backbone), rates in SCANNED.items()
        for rate in rates
    ]  # fmt: skip


def masks() -> list[Cell]:
    """Our recipe on every data set; the first by the paper's too."""
    ours = [cell(data, backbone, "ours") for backbone in BACKBONES for data in DATA]
    made = [one for one in ours if one.backbone != "ResNet-50" or one.data in FEW]
    return made + [cell(data, FIRST, "paper") for data in DATA]


def scan_table(document: Mapping[str, Any]) -> str:
    """Markdown of the rates that were tried."""
    rows = [
        [one["recipe"].removeprefix("scan, "), one["backbone"], one["lr"], f"{one['before']:.3f}", f"{one['head']:.3f}",
         f"{one['flipped'] * one['weights']:,.0f}", f"{100 * one['flipped']:.4f} %"]
        for one in document["scan"]
    ]  # fmt: skip
    return table(
        ["recipe", "backbone", "peak rate", "probe before", "after", "weights off", "share off"], rows
    )


def densities_table(document: Mapping[str, Any]) -> str:
    """App. Table 1: percentage of weights on."""
    return _by_backbone(document, lambda one: spread(values(one, "density"), 4, 100))


def accuracies_table(document: Mapping[str, Any]) -> str:
    """What these masks do to the accuracy: a probe of the untouched network → the trained head."""
    return _by_backbone(
        document,
        lambda one: f"{spread(values(one, 'before'))} → {spread(values(one, 'head'))}" if one else "–",
    )


def _by_backbone(document: Mapping[str, Any], shown: Callable[[list[Found]], str]) -> str:
    """A row for each recipe and backbone; what is `shown` of the seeds of each data set."""
    rows = []
    for recipe in ("ours", "paper"):
        for backbone in BACKBONES:
            of = [pick(document["cells"], recipe=recipe, backbone=backbone, data=data) for data in DATA]
            if any(of):
                rows.append([recipe, backbone, *map(shown, of)])
    return table(["recipe", "backbone", *DATA], rows)


def _one(found: list[float] | None) -> str:
    return "–" if found is None else f"{found[0]:.3f} ± {found[1]:.3f}"


def main_table(document: Mapping[str, Any]) -> str:
    """Main Table 1, from the trainings of docs/results.md: mean ± standard deviation over three seeds, top-1."""
    rows = [[one["data"], one["backbone"], *map(_one, one["rows"].values())] for one in document["earlier"]]
    return table(["data", "backbone", *document["earlier"][0]["rows"]], rows)
