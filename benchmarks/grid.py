"""The default recipe on several data sets, backbones and seeds: the first table of docs/results.md.

    python benchmarks/grid.py --out runs/grid            # runs what is missing, then prints the table
    python benchmarks/grid.py --out runs/grid --table    # prints only

Needs the real weights and images in the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import assets
import torch

from selfmask.run.adapt import learn_mask
from selfmask.run.settings import AdaptSettings


@dataclass(frozen=True)
class Cell:
    """One combination of data and backbone, and what differs from the defaults."""

    data: str
    backbone: str
    settings: dict[str, Any]


BACKBONES: dict[str, assets.Settings] = {
    "EfficientNet-Lite0": assets.EFFICIENTNET,
    "ResNet-18": assets.RESNET_18,
    "ResNet-50": assets.RESNET_50,
    "ViT-S/14": assets.VIT_S14,
}
DATA: dict[str, assets.Settings] = {
    "CIFAR-10, 2 500 images": assets.CIFAR10 | {"images": 2500, "size": 64},
    "clothing, 3 068 photographs": assets.CLOTHING | {"size": 64, "steps": 150},
    "digits": assets.DIGITS,
}


VIT_SIZES = {"CIFAR-10": 56, "clothing": 70, "digits": 56}  # multiples of its patches


def cells() -> list[Cell]:
    """Every combination; full fine-tuning on the photographic sets, except with the two large backbones."""
    found: list[Cell] = []
    for data, of_data in DATA.items():
        name = data.split(",")[0]
        for backbone, of_backbone in BACKBONES.items():
            settings = {**of_data, **of_backbone}
            if backbone == "ViT-S/14":
                settings["size"] = VIT_SIZES[name]
            settings["finetune"] = name != "digits" and backbone not in ("ResNet-50", "ViT-S/14")
            found.append(Cell(data, backbone, settings))
    return found


def folder(out: Path, cell: Cell, seed: int) -> Path:
    """Where a run is kept."""
    name = f"{cell.data.split(',')[0]}-{cell.backbone}-{seed}".lower().replace("/", "")
    return out / name


def table(out: Path, seeds: list[int]) -> str:
    """Markdown: means over the seeds (and the standard deviation where there are three)."""
    lines = [
        "| data | backbone | seeds | probe, pretrained | statistics only | masked | full fine-tuning | gain, points | "
        "weights off | mask file | training |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells():
        results = [
            json.loads(path.read_text())
            for seed in seeds
            if (path := folder(out, cell, seed) / "result.json").is_file()
        ]
        if not results:
            continue
        rows = [{row["name"]: row for row in result["rows"]["rows"]} for result in results]
        full = [r["full fine-tuning"]["head"]["value"] for r in rows
                if cell.settings["finetune"] and "full fine-tuning" in r]  # fmt: skip
        gains = [r["masked"]["head_gain"] for r in rows]
        better = sum(gain["low"] > 0 for gain in gains)
        lines.append(
            f"| {cell.data} | {cell.backbone} | {len(results)} | "
            f"{_mean([r['pretrained']['probe']['value'] for r in rows])} | "
            f"{_mean([r['statistics only']['probe']['value'] for r in rows])} | "
            f"{_mean([r['masked']['head']['value'] for r in rows])} | "
            f"{_mean(full) if full else '–'} | "
            f"{100 * statistics.mean(g['value'] for g in gains):+.1f} ({better} of {len(gains)} beyond the interval) | "
            f"{100 * statistics.mean(1 - r['masks']['density'] for r in results):.2f} % | "
            f"{statistics.mean(r['bytes']['file'] for r in results) / 1000:.0f} kB | "
            f"{statistics.mean(r['seconds']['training'] for r in results):.0f} s |"
        )
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=[], help="words that data or backbone must contain")
    parser.add_argument("--optimizer", help="of the scores, instead of the default")
    parser.add_argument("--lr", type=float, help="its peak rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        for cell in cells():
            place = folder(arguments.out, cell, seed)
            wanted = all(word in f"{cell.data} {cell.backbone}" for word in arguments.only)
            if arguments.table or not wanted or (place / "result.json").is_file():
                continue
            own = {"optimizer": arguments.optimizer, "lr": arguments.lr}
            if arguments.optimizer is not None:
                own["finetune"] = False  # stands in the default's table
            learn_mask(AdaptSettings(**(cell.settings | own), out=place, seed=seed, resume=place.is_dir()))
    print(table(arguments.out, arguments.seeds))


if __name__ == "__main__":
    main()
