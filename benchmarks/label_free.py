"""Label-free recipes side by side: data sets, backbones, objectives, score optimizers, seeds; docs/label-free.md.

    python benchmarks/label_free.py --out runs/label_free                # the default, 3 seeds, then the table
    python benchmarks/label_free.py --out runs/label_free --recipes all --seeds 0
    python benchmarks/label_free.py --out runs/label_free --backbones resnet-18
    python benchmarks/label_free.py --out runs/label_free --table        # prints only
    python benchmarks/label_free.py --table --plot runs/pictures         # and draws rows and gains

Labels serve to measure k-NN before and after, never to train. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from assets import DOCS
from label_free_cells import BACKBONES, DATA, FIRST, RECIPES, Cell
from label_free_table import ALL, MASKED, NORMS, curve, picture, table

from selfmask.run.adapt import learn_mask
from selfmask.run.plan import make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings


def kept(cell: Cell, seed: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's result what the table is made of: each row's accuracies and gains as (value, low, high)."""
    rows = {
        row["name"]: {
            what: [round(row[what][end], 6) for end in ("value", "low", "high")]
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
    learnt_in, steps = found["training"]["steps"], make_plan(settings).fit.steps
    if learnt_in != steps:
        sys.exit(f"{place} holds a run of {learnt_in} steps, but its recipe now takes {steps}: move it away")
    return found


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
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the rows, and the gain by passes")
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
    if asked.plot is not None:
        picture(found, asked.plot)
        curve(found, asked.plot)


if __name__ == "__main__":
    main()
