"""Label-free recipes side by side: data sets, backbones, objectives, score optimizers, seeds; docs/label-free.md.

    python benchmarks/label_free.py --out runs/label_free                # the default, 3 seeds, then the table
    python benchmarks/label_free.py --out runs/label_free --recipes all --seeds 0
    python benchmarks/label_free.py --out runs/label_free --backbones resnet-18
    python benchmarks/label_free.py --out runs/label_free --table        # prints only
    python benchmarks/label_free.py --table --curve runs/curve           # and draws the gain against the passes

Labels serve to measure k-NN before and after, never to train. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import assets
import torch
from matplotlib.figure import Figure

from selfmask._common.style import MARKERS, SERIES, SLATE
from selfmask.objectives.registry import objective_class
from selfmask.reports.chart import Chart, DataTable, set_height
from selfmask.run.adapt import learn_mask
from selfmask.run.plan import make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings

DOCS = Path(__file__).resolve().parents[1] / "docs"

DATA: dict[str, assets.Settings] = {
    "cifar10": assets.CIFAR10 | {"images": 5000, "size": 64},
    "clothing": assets.CLOTHING | {"size": 64},
    "dtd10": assets.DTD | {"size": 96},
    "gtsrb": assets.SIGNS | {"size": 64},
    "digits": assets.DIGITS | {"mirror": False},
}
RECIPES: dict[str, dict[str, Any]] = {
    "contrast": {"objective": "contrast"},
    "contrast, 8 passes, rate 0.025": {"objective": "contrast", "epochs": 8, "lr": 0.025},
    "contrast, 8 passes, rate 0.05": {"objective": "contrast", "epochs": 8, "lr": 0.05},
    "contrast, 12 passes, rate 0.025": {"objective": "contrast", "epochs": 12, "lr": 0.025},
    "contrast, 18 passes, rate 0.025": {"objective": "contrast", "epochs": 18, "lr": 0.025},
    "contrast, 18 passes, rate 0.05": {"objective": "contrast", "epochs": 18, "lr": 0.05},
    "contrast, targets at 64 px": {"objective": "contrast", "objective_settings": {"target_size": 64}},
    "distil": {"objective": "distil"},
    "distil, tensor-adam 0.015, 3 epochs": {
        "objective": "distil", "optimizer": "tensor-adam", "lr": 0.015, "epochs": 3
    },
    "distil, tensor-adam": {"objective": "distil", "optimizer": "tensor-adam"},
    "distil, targets at 210 px": {"objective": "distil", "objective_settings": {"target_size": 210}},
    "swav": {"objective": "swav"},
    "swav, 1 pass": {"objective": "swav", "epochs": 1},
    "swav, 2 passes": {"objective": "swav", "epochs": 2},
    "swav, 4 passes": {"objective": "swav", "epochs": 4},
    "swav, 16 passes": {"objective": "swav", "epochs": 16},
}  # fmt: skip
FIRST = "efficientnet-lite0"
BACKBONES: dict[str, assets.Settings] = {
    FIRST: assets.EFFICIENTNET,
    "resnet-18": assets.RESNET_18,
    "vit-s14": assets.VIT_S14 | {"size": 70},  # a multiple of its patches
}


@dataclass(frozen=True)
class Cell:
    """One kind of run. size: of the views, in pixels; None for the data's own."""

    data: str
    backbone: str
    recipe: str
    size: int | None = None

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults."""
        found = DATA[self.data] | BACKBONES[self.backbone] | RECIPES[self.recipe]
        return found if self.size is None else found | {"size": self.size}

    def name(self, seed: int) -> str:
        """Of its run's folder, and of its file of results."""
        first = [] if self.backbone == FIRST else [self.backbone]
        sized = [] if self.size is None else [f"{self.size}px"]
        words = [self.data, *first, *sized, self.recipe, str(seed)]
        return "-".join(words).replace(", ", "-").replace(" ", "-")


def kept(cell: Cell, seed: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's result what the table is made of: each row's accuracies and gains as (value, low, high)."""
    rows = {
        row["name"]: {
            what: [round(row[what][end], 4) for end in ("value", "low", "high")]
            for what in ("knn", "probe", "knn_gain", "probe_gain")
            if row[what] is not None
        }
        for row in result["rows"]["rows"]
    }
    return {
        "data": cell.data, "backbone": cell.backbone, "recipe": cell.recipe, "seed": seed,
        "size": result["size"], "test": result["rows"]["images"], "rows": rows,
        "density": round(result["masks"]["density"], 5), "file": result["bytes"]["file"],
        "seconds": round(result["seconds"]["training"]),
    }  # fmt: skip


def learnt(settings: AdaptSettings, place: Path) -> dict[str, Any]:
    """The result of the run in `place`, learnt where it is not there.

    Exits where it is there and its steps are not those of `settings`: a default has changed since.
    """
    file = place / "result.json"
    if not file.is_file():
        learn_mask(settings)
    found: dict[str, Any] = json.loads(file.read_text())
    if found["steps"] != (steps := make_plan(settings).fit.steps):
        sys.exit(
            f"{place} holds a run of {found['steps']} steps, but its recipe now takes {steps}: move it away"
        )
    return found


MASKED, BASE, LARGER, WHITE = "masked", "pretrained", re.compile(r"pretrained, (\d+) px"), ", whitened"
STATISTICS, NORMS, ALL = "statistics only", "norm weights alone", "full fine-tuning"
UNTRAINED = (BASE, STATISTICS)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a table for each backbone of what was `kept`: k-NN, and in brackets the linear probe.

    "norm weights alone" and "all weights" learnt by the same loss, at the rates that `adapt` takes. Means over the
    seeds. The gains are those of the seeds, with the interval of the first. The larger view is the best that any of
    them tried.
    """
    lines: list[str] = []
    order = [{**one, "rows": _shared(one, found) | one["rows"]} for one in sorted(found, key=_place)]
    for backbone, group in itertools.groupby(order, key=lambda one: one["backbone"]):
        lines += [
            f"{backbone}:", "",
            "| data | recipe | seeds | untouched | whitened | on a larger view | whitened | statistics only | masked "
            "| whitened | norm weights alone | all weights | gain, points | off, file |",
            f"|{'---|' * 14}",
        ]  # fmt: skip
        for _, cell in itertools.groupby(group, key=lambda one: (one["data"], one["size"], one["recipe"])):
            lines.append(_line(list(cell)))
        lines.append("")
    return "\n".join(lines)


def _shared(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows without masks, from the runs of other recipes on the same images."""
    same = ("data", "backbone", "size", "seed")
    others = [other["rows"] for other in found if all(other[key] == one[key] for key in same)]
    return {name: row for rows in others for name, row in rows.items() if name.startswith(UNTRAINED)}


def _place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    kinds = (list(BACKBONES), list(DATA), list(RECIPES))
    backbone, data, recipe = (
        k.index(one[w]) for k, w in zip(kinds, ("backbone", "data", "recipe"), strict=True)
    )
    return (backbone, data, one["size"], recipe, one["seed"])


def _line(cell: list[Mapping[str, Any]]) -> str:
    first = cell[0]
    sizes = [
        (row["knn"][0], name) for one in cell for name, row in one["rows"].items() if LARGER.fullmatch(name)
    ]
    larger = LARGER.fullmatch(max(sizes)[1]) if sizes else None
    names = [BASE, BASE + WHITE, larger and larger[0], larger and larger[0] + WHITE, STATISTICS, MASKED,
             MASKED + WHITE, NORMS, ALL]  # fmt: skip
    shown = [_mean(cell, name) if name else "none better" for name in names]
    if larger:
        shown[2] += f" at {larger[1]} px"
    gains = [one["rows"][MASKED]["knn_gain"] for one in cell]
    _, low, high = (100 * x for x in gains[0])
    each = ", ".join(f"{100 * gain[0]:+.1f}" for gain in gains)
    off = statistics.mean(1 - one["density"] for one in cell)
    file = statistics.mean(one["file"] for one in cell) / 1000
    seeds = ", ".join(str(one["seed"]) for one in cell)
    data = f"{first['data']}, {first['size']} px"
    cells = [data, first["recipe"], seeds, *shown, f"{each} ({low:+.1f} to {high:+.1f})",
             f"{100 * off:.1f} %, {file:.0f} kB"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _mean(cell: list[Mapping[str, Any]], name: str) -> str:
    rows = [one["rows"][name] for one in cell if name in one["rows"]]
    if not rows:
        return "–"
    knn, probe = ([row[what][0] for row in rows if what in row] for what in ("knn", "probe"))
    return f"{statistics.mean(knn):.3f}" + (f" ({statistics.mean(probe):.3f})" if probe else "")


def curve(found: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the gain in k-NN against the passes, traffic signs with the first backbone, as PNG, SVG, CSV and JSON."""
    rows: list[tuple[str, int, int, float, float, float]] = []
    for one in sorted(found, key=_place):
        recipe = RECIPES[one["recipe"]]
        if (one["data"], one["backbone"], one["size"]) == ("gtsrb", FIRST, DATA["gtsrb"]["size"]):
            usual = objective_class(recipe["objective"]).passes
            rate = f", rate {recipe['lr']}" if "lr" in recipe else ""
            gain = (100 * x for x in one["rows"][MASKED]["knn_gain"])
            rows.append((recipe["objective"] + rate, recipe.get("epochs", usual), one["seed"], *gain))
    lines = {name: [row for row in rows if row[0] == name] for name in dict.fromkeys(row[0] for row in rows)}

    def draw(figure: Figure) -> None:
        set_height(figure, 380)
        axis = figure.subplots()
        for (name, own), ink, marker in zip(lines.items(), SERIES, MARKERS, strict=False):
            passes = sorted({row[1] for row in own})
            means = [statistics.mean(row[3] for row in own if row[1] == at) for at in passes]
            axis.plot(passes, means, color=ink.light, marker=marker, label=name)
            axis.scatter(
                [row[1] for row in own], [row[3] for row in own], color=ink.light, marker=marker, s=9
            )
        axis.axhline(0, color=SLATE.light, linewidth=0.8)
        axis.set_xticks(sorted({row[1] for row in rows}))
        axis.set_xlabel("passes over 3 512 images")
        axis.set_ylabel("gain in k-NN, points")
        axis.legend()

    best = max(rows, key=lambda row: row[3])
    return Chart(
        "label-free",
        "What longer runs bring without labels",
        "k-NN on the test images of the traffic signs beside the untouched network, both at 64 px; lines are means "
        "over the seeds, small marks the seeds.",
        f"The most is {best[3]:+.1f} points, by {best[0]} after {best[1]} passes.",
        DataTable(("recipe", "passes", "seed", "gain", "low", "high"), tuple(rows)),
        draw,
    ).save(folder)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/label_free"), help="the runs' folders")
    parser.add_argument(
        "--keep", type=Path, default=DOCS / "label_free", help="a file of results for each run"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["cifar10", "clothing"])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=[FIRST])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "all"], default=["contrast"])
    parser.add_argument("--size", type=int, help="of the views in pixels; default: the data's own")
    parser.add_argument("--finetune", action="store_true", help="full fine-tuning by the same loss as well")
    parser.add_argument("--norms-alone", action="store_true", help="and norm weights without masks")
    parser.add_argument(
        "--masked-only",
        action="store_true",
        help="no larger views, no statistics: another recipe's run has them",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument(
        "--curve", type=Path, metavar="FOLDER", help="draw the gain against the passes into it"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    recipes = list(RECIPES) if "all" in asked.recipes else asked.recipes
    cells = [Cell(*words, asked.size) for words in itertools.product(asked.data, asked.backbones, recipes)]
    for seed, cell in itertools.product([] if asked.table else asked.seeds, cells):
        file = asked.keep / f"{cell.name(seed)}.json"
        known = json.loads(file.read_text()) if file.is_file() else {"rows": {}}
        rows = {MASKED, *([NORMS] if asked.norms_alone else []), *([ALL] if asked.finetune else [])}
        if rows <= set(known["rows"]):
            continue
        place = asked.out / cell.name(seed)
        settings = AdaptSettings(
            **cell.settings(), finetune=asked.finetune,
            norms_alone=asked.norms_alone, out=place, seed=seed, threads=asked.threads,
            larger=not asked.masked_only, statistics=not asked.masked_only,
            resume=(place / "settings.json").is_file(),
        )  # fmt: skip
        asked.keep.mkdir(parents=True, exist_ok=True)
        found = kept(cell, seed, learnt(settings, place))
        write_json(file, found | {"rows": known["rows"] | found["rows"]})
    found = [json.loads(file.read_text()) for file in sorted(asked.keep.glob("*.json"))]
    print(table(found))
    if asked.curve is not None:
        curve(found, asked.curve)


if __name__ == "__main__":
    main()
