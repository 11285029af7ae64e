"""Does a measure without labels find the size at which an untouched network is at its best? docs/label-free.md.

    python benchmarks/best_size.py --threads 1     # docs/best_size.json

At each size of the ladder that `adapt` tries: k-NN with labels of up to 500 training images, each half by the other,
and of the same images how many second views the first views find. Test images play no part. Needs the folder `shared`
beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from assets import DOCS
from label_free_cells import BACKBONES, DATA

from selfmask.run.best_views import (
    MOST_FOR_SIZE,
    climbed,
    found_share,
    knn_by_halves,
    larger_sizes,
    to_choose_by,
)
from selfmask.run.plan import make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings


def measured(data: str, backbone: str, threads: int) -> dict[str, Any]:
    """Of one network and data set, by size: k-NN and views found, both in [0, 1]."""
    plan = make_plan(
        AdaptSettings(**DATA[data] | BACKBONES[backbone], objective="contrast", seed=0, threads=threads)
    )
    images = to_choose_by(plan, MOST_FOR_SIZE)
    assert images is not None
    sizes = {}
    for size in (plan.size, *larger_sizes(plan)):
        sizes[size] = [knn_by_halves(plan, images, size, f"{size} px"), found_share(plan, images, size)]
        print(data, backbone, size, sizes[size], flush=True)
    return {"data": data, "backbone": backbone, "images": len(images), "sizes": sizes}


def best(values: Mapping[int, float]) -> int:
    """The size that `adapt` takes."""
    found = climbed(values, values.__getitem__)
    return max(found, key=found.__getitem__)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the measures by size, the size that each chooses, and what the choice without labels costs."""
    lines = [
        "| data | backbone | k-NN, views found by px | by labels | without | costs, points |",
        f"|{'---|' * 6}",
    ]
    for one in found:
        sizes = {int(size): pair for size, pair in one["sizes"].items()}
        labelled, free = (best({size: pair[k] for size, pair in sizes.items()}) for k in (0, 1))
        each = ", ".join(f"{size}: {knn:.3f}, {views:.2f}" for size, (knn, views) in sizes.items())
        cost = 100 * (sizes[labelled][0] - sizes[free][0])
        lines.append(f"| {one['data']} | {one['backbone']} | {each} | {labelled} | {free} | {cost:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, default=DOCS / "best_size.json")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    known: list[dict[str, Any]] = json.loads(asked.keep.read_text()) if asked.keep.is_file() else []
    there = {(one["data"], one["backbone"]) for one in known}
    for cell in itertools.product(DATA, list(BACKBONES)[:2]):
        if cell not in there:
            known.append(measured(*cell, asked.threads))
            write_json(asked.keep, known)
    print(table(known))


if __name__ == "__main__":
    main()
