"""Masks learnt without labels: the rules beside one another, seeds, and what the supplement varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from cells import Cell, Found, pick, seeds, spread, table, values

HERE: dict[str, Any] = {"images": 1000, "size": 48, "steps": 40, "batch": 32}
"""What two cores can do with the paper's own objective, SwAV; its score optimizer is our default, adam."""
SETS = ("signs", "CIFAR-10")
LAYERWISE = ("signs", "CIFAR-10", "DTD")
BACKBONE = "EfficientNet-Lite0"
WATCH = {"watch": False}
"""Every rule is to be seen to its end, one that starts from half of a network too."""
UNTOUCHED, THRESHOLD, FOUND = "pretrained", "threshold", "top-k found"
RULES: dict[str, dict[str, Any]] = {
    THRESHOLD: {},
    "top-k 50 %": {"rule": "topk", "density": 0.5, "scores": "magnitude", "lr": 0.1, "norm_stats": "adapt"},
    FOUND: {"rule": "topk", "lr": 0.03},
    "top-k progressive": {"rule": "progressive", "lr": 0.03},
}
"""Each with the setting that did best in `appendix/table2/scan.md`, on training images that no mask was learnt on."""
MAIN = (UNTOUCHED, "top-k 50 %", FOUND, THRESHOLD)
"""Main Table 2's."""


def untouched(data: str, seed: int, backbone: str = BACKBONE, settings: Mapping[str, Any] = HERE) -> Cell:
    """The untouched network, by k-NN and probe."""
    kept = {name: settings[name] for name in ("images", "size", "preset", "precision") if name in settings}
    return Cell(
        data, backbone, seed, {"objective": "none", "rule": UNTOUCHED}, {"objective": "swav", **kept},
        how="untouched", measures=("knn", "probe"),
    )  # fmt: skip


def learnt(
    data: str, seed: int, rule: str = THRESHOLD, objective: str = "swav", backbone: str = BACKBONE,
    settings: Mapping[str, Any] = HERE, *, rate: float | None = None,
) -> Cell:  # fmt: skip
    """One mask. "Found" are the densities of the threshold's mask of the same data, seed and objective.

    rate: of all rules alike, where there is one.
    """
    needs = rule in (FOUND, "top-k progressive")
    own = RULES[rule] if rate is None else {**RULES[rule], "lr": rate}
    return Cell(
        data, backbone, seed, {"objective": objective, "rule": rule},
        {**settings, "objective": objective, "objective_settings": WATCH, **own},
        measures=("knn", "probe"), keep=("layers",),
        found=learnt(data, seed, THRESHOLD, objective, backbone, settings, rate=rate) if needs else None,
    )  # fmt: skip


def rules(numbers: Sequence[int] = (0, 1, 2)) -> list[Cell]:
    """App. Table 2 and Main Table 2."""
    return [
        made
        for seed in numbers
        for data in SETS
        for made in (untouched(data, seed), *(learnt(data, seed, rule) for rule in RULES))
    ]


def repeats() -> list[Cell]:
    """App. Table 3: five seeds of the threshold; three of them are those of Table 2."""
    return [
        made for data in SETS for seed in range(5) for made in (untouched(data, seed), learnt(data, seed))
    ]


def layerwise() -> list[Cell]:
    """The self-supervised half of App. Fig. 3."""
    return [learnt(data, 0, backbone="ResNet-18", settings={**HERE, "images": 600}) for data in LAYERWISE]


def rules_table(document: Mapping[str, Any], wanted: Sequence[str] = (UNTOUCHED, *RULES)) -> str:
    """Markdown: mean ± standard deviation over the seeds, by objective and data set."""
    found: Sequence[Found] = [*document["cells"], *document.get("earlier", [])]
    rows: list[list[str]] = []
    for objective in dict.fromkeys(one["objective"] for one in found if one["objective"] != "none"):
        for data in dict.fromkeys(one["data"] for one in pick(found, objective=objective)):
            for rule in wanted:
                of = pick(found, data=data, rule=rule, objective=objective)
                of = of or pick(found, data=data, rule=rule, objective="none")
                on = [100 * value for value in values(of, "density")] or [100.0]
                rows.append(
                    [objective, data, rule, f"{mean(on):.2f} %", spread(values(of, "knn")),
                     spread(values(of, "probe")), ", ".join(map(str, seeds(of)))]
                )  # fmt: skip
    return table(["objective", "data", "rule", "weights on", "k-NN", "linear probe", "seeds"], rows)


def repeats_table(document: Mapping[str, Any]) -> str:
    """App. Table 3: k-NN of five seeds."""
    rows = []
    for data in dict.fromkeys(one["data"] for one in document["cells"]):
        of = {rule: pick(document["cells"], data=data, rule=rule) for rule in (UNTOUCHED, THRESHOLD)}
        rows.append(
            [data, *(spread(values(of[rule], "knn")) for rule in of),
             ", ".join(f"{one:.3f}" for one in values(of[THRESHOLD], "knn"))]
        )  # fmt: skip
    return table(["data", "untouched, k-NN", "self-masked, k-NN", "each seed"], rows)
