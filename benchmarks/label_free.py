"""Label-free recipes side by side: data sets, backbones, objectives, score optimizers, seeds; docs/label-free.md.

    python benchmarks/label_free.py --out runs/label_free                # the default, 3 seeds, then the table
    python benchmarks/label_free.py --out runs/label_free --recipes all --seeds 0
    python benchmarks/label_free.py --out runs/label_free --backbones resnet-18
    python benchmarks/label_free.py --out runs/label_free --table        # prints only

Labels serve to measure k-NN before and after, never to train. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfmask.run.adapt import learn_mask
from selfmask.run.settings import AdaptSettings

SHARED = Path(__file__).resolve().parents[2] / "shared"

DATA: dict[str, dict[str, Any]] = {
    "cifar10": {"data": str(SHARED / "data/cifar10"), "images": 5000, "size": 64},
    "clothing": {"data": str(SHARED / "data/clothing"), "size": 64},
    "dtd10": {"data": str(SHARED / "data/dtd10"), "size": 96},
    "gtsrb": {"data": str(SHARED / "data/gtsrb"), "size": 64, "mirror": False},
}
RECIPES: dict[str, dict[str, Any]] = {
    "contrast": {"objective": "contrast"},
    "distil": {"objective": "distil"},
    "distil, tensor-adam 0.015, 3 epochs": {
        "objective": "distil", "optimizer": "tensor-adam", "lr": 0.015, "epochs": 3
    },
    "distil, tensor-adam": {"objective": "distil", "optimizer": "tensor-adam"},
    "distil, targets at 210 px": {"objective": "distil", "objective_settings": {"target_size": 210}},
    "swav": {"objective": "swav"},
}  # fmt: skip
FIRST = "efficientnet-lite0"
BACKBONES: dict[str, dict[str, Any]] = {
    FIRST: {},
    "resnet-18": {"backbone": "timm:resnet18", "weights": SHARED / "weights/resnet18_in1k.safetensors"},
    "vit-s14": {
        "backbone": "timm:vit_small_patch14_dinov2",
        "weights": SHARED / "weights/vit_small_patch14_dinov2_224.safetensors",
        "size": 70,  # a multiple of its patches
    },
}


@dataclass(frozen=True)
class Cell:
    """One kind of run."""

    data: str
    backbone: str
    recipe: str

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return DATA[self.data] | BACKBONES[self.backbone] | RECIPES[self.recipe]

    def folder(self, out: Path, seed: int) -> Path:
        """Where a run is kept."""
        words = [self.data, *([] if self.backbone == FIRST else [self.backbone]), self.recipe, str(seed)]
        return out / "-".join(words).replace(", ", "-").replace(" ", "-")


def table(out: Path, cells: list[Cell], seeds: list[int]) -> str:
    """Markdown: k-NN, mean over the seeds, and how many seeds gained at least 5 points and beyond the interval."""
    lines = [
        "| data | backbone | recipe | seeds | pretrained | statistics only | masked | full fine-tuning | gain, points "
        "| ≥ 5 points, beyond interval | over statistics only | weights off | mask file | training |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        files = [cell.folder(out, seed) / "result.json" for seed in seeds]
        results = [json.loads(file.read_text()) for file in files if file.is_file()]
        if results:
            lines.append(_line(cell, results))
    return "\n".join(lines)


def _line(cell: Cell, results: list[dict[str, Any]]) -> str:
    rows = [{row["name"]: row for row in result["rows"]["rows"]} for result in results]
    gains = [row["masked"]["knn_gain"] for row in rows]
    good = sum(gain["value"] >= 0.05 and gain["low"] > 0 for gain in gains)
    before, moved, after = ([row[name]["knn"]["value"] for row in rows]
                            for name in ("pretrained", "statistics only", "masked"))  # fmt: skip
    full = [row["full fine-tuning"]["knn"]["value"] for row in rows if "full fine-tuning" in row]
    each = ", ".join(f"{100 * gain['value']:+.1f}" for gain in gains)
    over = ", ".join(f"{100 * (a - b):+.1f}" for a, b in zip(after, moved, strict=True))
    off = statistics.mean(1 - result["masks"]["density"] for result in results)
    size = statistics.mean(result["bytes"]["file"] for result in results) / 1000
    seconds = statistics.mean(result["seconds"]["training"] for result in results)
    cells = [cell.data, cell.backbone, cell.recipe, str(len(results)), *map(_mean, (before, moved, after, full)), each,
             f"{good} of {len(results)}", over, f"{100 * off:.2f} %", f"{size:.0f} kB", f"{seconds:.0f} s"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "–"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/label_free"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["cifar10", "clothing"])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=[FIRST])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "all"], default=["contrast"])
    parser.add_argument("--finetune", action="store_true", help="full fine-tuning as well")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    recipes = list(RECIPES) if "all" in asked.recipes else asked.recipes
    cells = _cells(asked.data, asked.backbones, recipes)
    for seed in asked.seeds:
        for cell in cells:
            place = cell.folder(asked.out, seed)
            if asked.table or (place / "result.json").is_file():
                continue
            resume = (place / "settings.json").is_file()
            learn_mask(
                AdaptSettings(
                    **cell.settings(), finetune=asked.finetune, out=place, seed=seed, resume=resume,
                    threads=asked.threads,
                )
            )  # fmt: skip
    everything = _cells(list(DATA), list(BACKBONES), list(RECIPES))
    print(table(asked.out, everything if asked.table else cells, asked.seeds))


def _cells(data: list[str], backbones: list[str], recipes: list[str]) -> list[Cell]:
    return [Cell(*words) for words in itertools.product(data, backbones, recipes)]


if __name__ == "__main__":
    main()
