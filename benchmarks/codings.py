"""Bits a weight of trained masks under general packers and our codings.

    python benchmarks/codings.py --make runs/codings [--only WORD...]    # trains the masks that are missing
    python benchmarks/codings.py RUN-OR-MASK...                          # the table

Two backbones, two data sets, scores moved by SGD and by Adam, with labels and without. The masks of supervised Adam are
those of `benchmarks/grid.py`; --make trains the others, shortly (about a minute each on one core), and says by k-NN
on 1 000 test images whether they learnt anything. The rate of SGD on the scores is taken from the network itself: such
that `CROSSING` of the scores would cross if the mean gradient of the first batches stayed.

`entropy` is Σ N·H(share on) over the tensors; "ours" counts streams and models.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import assets
import numpy as np
import torch
import zstandard
from torch import Tensor

from selfmask._common.entropy import entropy_bits
from selfmask.features.features import features
from selfmask.features.knn import knn
from selfmask.images.batches import Batches
from selfmask.maskfile.coding import rows_of, shortest_code
from selfmask.maskfile.index import model_bytes
from selfmask.maskfile.loading import load
from selfmask.maskfile.streams import Writer
from selfmask.objectives.base import Batch
from selfmask.run.adapt import learn_mask
from selfmask.run.build import build_masks, build_objective
from selfmask.run.plan import Plan, make_plan
from selfmask.run.schedule import path_length
from selfmask.run.settings import AdaptSettings

CROSSING = 0.02
BATCHES = 4
BACKBONES: dict[str, assets.Settings] = {
    "efficientnet-lite0": assets.EFFICIENTNET | {"steps": 100},
    "resnet-18": assets.RESNET_18 | {"steps": 60},
}
DATA: dict[str, assets.Settings] = {
    "cifar-10": assets.CIFAR10 | {"size": 64},
    "clothing": assets.CLOTHING | {"size": 64},
}
RECIPES: dict[str, dict[str, Any]] = {
    "labels-sgd": {"objective": "supervised", "optimizer": "sgd", "images": 2000},
    "none-sgd": {"objective": "distil", "optimizer": "sgd", "images": 1000},
    "none-adam": {
        "objective": "distil", "optimizer": "adam", "spread": 0.95, "lr": 0.015, "warmup": 0.1, "images": 1000
    },
}  # fmt: skip


def sgd_rate(settings: AdaptSettings) -> float:
    """The rate at which `CROSSING` of the scores would cross under the mean gradient of the first batches."""
    chosen = make_plan(replace(settings, lr=1.0, images=320))
    objective = build_objective(chosen)
    objective.prepare(chosen.backbone, chosen.train)
    module = chosen.backbone.module
    masks = build_masks(chosen)
    module.train()
    batches = Batches(chosen.train, objective.views, batch=64, seed=0, start=0, stop=BATCHES)
    with batches:
        for step, raw in batches:
            views = [chosen.backbone.preprocessing.normalise(view) for view in raw.views]
            objective.loss(module, Batch(views, raw.labels, raw.indices), step, BATCHES)[0].backward()
    pull = [
        (theta * weight.grad).abs().reshape(-1) / BATCHES
        for theta, weight in ((t.theta, t.weight) for t in masks.masked.tensors.values())
        if weight.grad is not None
    ]
    masks.remove()
    values = torch.cat(pull)
    at = float(values.kthvalue(round((1 - CROSSING) * len(values))).values)
    # Momentum multiplies a lasting gradient by 1 / (1 − momentum).
    return (1 - chosen.fit.momentum) / (at * path_length(chosen.fit))


def knn_of(chosen: Plan, images: int = 1000) -> float:
    """k-NN top-1 of the network as it is now, on at most `images` of each part."""
    assert chosen.splits.test is not None
    parts = [chosen.labelled, chosen.splits.test.labelled()]
    random = torch.Generator().manual_seed(0)
    parts = [p.subset(torch.randperm(len(p), generator=random)[:images].tolist()) for p in parts]
    x, y = (features(chosen.backbone, p, size=chosen.size, channels_last=chosen.channels_last) for p in parts)
    return float((knn(x, parts[0].labels, y) == parts[1].labels).float().mean())


def make(out: Path, only: list[str]) -> None:
    """Train what is missing."""
    for data, of_data in DATA.items():
        for backbone, of_backbone in BACKBONES.items():
            for recipe, of_recipe in RECIPES.items():
                name = f"{data}-{backbone}-{recipe}"
                place = out / name
                if (place / "knn.json").is_file() or not all(word in name for word in only):
                    continue
                settings = AdaptSettings(**of_data, **of_backbone, **of_recipe, out=place, evaluate=False)
                if settings.optimizer == "sgd":
                    settings = replace(settings, lr=sgd_rate(settings))
                learn_mask(settings)
                chosen = make_plan(settings)
                before = knn_of(chosen)
                mask = load(place / "mask.safetensors")
                with mask.apply(chosen.backbone.module):
                    after = knn_of(chosen)
                found = {"before": before, "after": after, "rate": settings.lr, "off": 1 - mask.density()}
                (place / "knn.json").write_text(json.dumps(found))
                print(name, found, flush=True)


def entropy(masks: dict[str, Tensor]) -> float:
    """Σ N·H(share on) over the tensors, in bits."""
    return sum(entropy_bits(int(mask.sum()), mask.numel()) for mask in masks.values())


def coded(masks: dict[str, Tensor]) -> int:
    """Bytes of the streams and models."""
    writer = Writer()
    side = 0
    for mask in masks.values():
        found = shortest_code(mask.contiguous().numpy().reshape(rows_of(mask.shape))).write(writer)
        side += sum(len(model_bytes(m)) for m in found.models)
    words, plain = writer.finish()
    return words.nbytes + plain.nbytes + side


def measure(path: Path) -> dict[str, Any]:
    """Bits a weight of one mask, by coding."""
    mask = load(path / "mask.safetensors" if path.is_dir() else path)
    masks = mask.masks()
    raw = np.concatenate([np.packbits(m.numpy(), bitorder="little") for m in masks.values()]).tobytes()
    sizes = {
        "raw": len(raw),
        "gzip -9": len(gzip.compress(raw, 9)),
        "zstd -19": len(zstandard.ZstdCompressor(19).compress(raw)),
        "lzma -9": len(lzma.compress(raw, preset=9)),
        "entropy": entropy(masks) / 8,
        "ours": coded(masks),
    }
    kept = path / "knn.json"
    return {
        "mask": path.name,
        "off": 1 - mask.density(),
        "bits": {name: 8 * size / mask.index.weights for name, size in sizes.items()},
        "knn": json.loads(kept.read_text()) if kept.is_file() else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(rows[0]["bits"])
    lines = [
        f"| mask | off | {' | '.join(names)} | ours / lzma | ours / entropy | k-NN before, after |",
        "|---|---|" + "---|" * (len(names) + 3),
    ]
    for row in rows:
        bits = row["bits"]
        ours = bits["ours"]
        learnt = f"{row['knn']['before']:.3f}, {row['knn']['after']:.3f}" if row["knn"] else ""
        cells = [row["mask"], f"{100 * row['off']:.2f} %", *(f"{bits[n]:.4f}" for n in names)]
        cells += [f"{ours / bits['lzma -9']:.3f}", f"{ours / bits['entropy']:.3f}", learnt]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("masks", nargs="*", type=Path)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="words that the names must contain")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.make:
        make(asked.make, asked.only)
    rows = [measure(path) for path in asked.masks]
    if rows:
        print(json.dumps(rows, ensure_ascii=False, indent=2) if asked.json else table(rows))


if __name__ == "__main__":
    main()
