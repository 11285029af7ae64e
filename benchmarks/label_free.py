"""Label-free recipes side by side: data sets, objectives, score optimizers, seeds; the table of docs/label-free.md.

    python benchmarks/label_free.py --out runs/label_free                # the default recipe, 3 seeds, then the table
    python benchmarks/label_free.py --out runs/label_free --recipes all --seeds 0
    python benchmarks/label_free.py --out runs/label_free --table        # prints only

Labels serve to measure k-NN before and after, never to train. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from selfmask.training import AdaptSettings, adapt

SHARED = Path(__file__).resolve().parents[2] / "shared"

DATA: dict[str, dict[str, Any]] = {
    "cifar10": {"data": str(SHARED / "data/cifar10"), "images": 5000, "size": 64},
    "clothing": {"data": str(SHARED / "data/clothing"), "size": 64},
    "dtd10": {"data": str(SHARED / "data/dtd10"), "size": 96},
}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {"objective": "distil"},
    "distil, tensor-adam 0.015, 3 epochs": {
        "objective": "distil", "optimizer": "tensor-adam", "lr": 0.015, "epochs": 3
    },
    "distil, tensor-adam": {"objective": "distil", "optimizer": "tensor-adam"},
    "selflabel": {"objective": "selflabel"},
    "swav": {"objective": "swav"},
}  # fmt: skip


def folder(out: Path, data: str, recipe: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / f"{data}-{recipe}-{seed}".replace(", ", "-").replace(" ", "-")


def table(out: Path, recipes: list[str], seeds: list[int]) -> str:
    """Markdown: k-NN, mean over the seeds, and how many seeds gained at least 5 points and beyond the interval."""
    lines = [
        "| data | recipe | seeds | pretrained | statistics only | masked | full fine-tuning | gain, points | "
        "≥ 5 points, beyond interval | over statistics only | weights off | mask file | training |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for data in DATA:
        for recipe in recipes:
            files = [folder(out, data, recipe, seed) / "result.json" for seed in seeds]
            results = [json.loads(file.read_text()) for file in files if file.is_file()]
            if results:
                lines.append(_line(data, recipe, results))
    return "\n".join(lines)


def _line(data: str, recipe: str, results: list[dict[str, Any]]) -> str:
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
    cells = [data, recipe, str(len(results)), *map(_mean, (before, moved, after, full)), each,
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
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "all"], default=["default"])
    parser.add_argument("--finetune", action="store_true", help="full fine-tuning as well")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    recipes = list(RECIPES) if "all" in asked.recipes else asked.recipes
    for seed in asked.seeds:
        for data in asked.data:
            for recipe in recipes:
                place = folder(asked.out, data, recipe, seed)
                if asked.table or (place / "result.json").is_file():
                    continue
                settings: dict[str, Any] = DATA[data] | RECIPES[recipe]
                resume = (place / "settings.json").is_file()
                adapt(AdaptSettings(**settings, finetune=asked.finetune, out=place, seed=seed, resume=resume))
    print(table(asked.out, list(RECIPES) if asked.table else recipes, asked.seeds))


if __name__ == "__main__":
    main()
