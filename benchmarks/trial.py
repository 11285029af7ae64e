"""One trial of a score optimizer and its settings: how docs/defaults.md came about.

    python benchmarks/trial.py DATA --optimizer adam --lr 0.07 --spread 0.5 --warmup 0.3 [--backbone …] [--size …]

Prints the head's top-1 before (a probe of the pretrained features) and after, the share of weights off and the time,
as one JSON line. `--optimizer full` trains all weights by SGD instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from selfmask.features.features import features
from selfmask.masking import norm
from selfmask.objectives.supervised import Supervised
from selfmask.run.build import build_masks, build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.settings import AdaptSettings


def top1(plan: Plan, objective: Supervised) -> float:
    """Share of the test images that the objective's head gets right, on the network as it is now."""
    test = plan.splits.test
    assert test is not None
    x = features(plan.backbone, test, size=plan.size, channels_last=plan.channels_last)
    logits = F.linear(x, objective.linear.weight, objective.linear.bias)
    return float((logits.argmax(dim=1) == test.labels).float().mean())


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="package:efficientnet_lite0")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=156)
    parser.add_argument("--optimizer", default="adam", choices=["adam", "tensor-adam", "sgd", "full"])
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--warmup", type=float, default=0.1)
    parser.add_argument("--crop", type=float)
    parser.add_argument("--train-norms", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.set_num_threads(2)
    full = a.optimizer == "full"
    own = {} if a.crop is None else {"crop": a.crop}
    plan = make_plan(
        AdaptSettings(
            a.data, backbone=a.backbone, weights=a.weights, images=a.images, size=a.size, steps=a.steps,
            seed=a.seed, objective="supervised", objective_settings=own,
            optimizer="sgd" if full else a.optimizer, lr=a.lr, spread=a.spread, warmup=a.warmup,
            train_norms=a.train_norms,
        )
    )  # fmt: skip
    objective = build_objective(plan)
    assert isinstance(objective, Supervised)
    objective.prepare(plan.backbone, plan.train)
    before = top1(plan, objective)
    masks = None if full else build_masks(plan)
    if full:
        norm.freeze(plan.backbone.module)
    start = time.perf_counter()
    settings = replace(plan.fit, checkpoint_every=0, log_every=plan.fit.steps)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            plan.backbone,
            masks,
            objective,
            plan.train,
            settings,
            RunFolder(Path(folder)),
            channels_last=plan.channels_last,
        )
    if masks is not None:
        masks.round_norms()
    found = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in vars(a).items() if v is not None},
        "before": round(before, 4),
        "after": round(top1(plan, objective), 4),
        "off": None if masks is None else round(1 - masks.density(), 5),
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
