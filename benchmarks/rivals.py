"""Masks beside what one would pick instead: accuracy against bytes against seconds; the tables of docs/sizes.md.

    python benchmarks/rivals.py --out runs/rivals                       # runs what is missing, then prints the table
    python benchmarks/rivals.py --out runs/rivals --table [--plot docs/rivals]

All methods (`rival_methods.py`) get the same images, views, steps and loop, the same first head (a probe of the
untouched features) and the same rate of that head. The rate of each method is searched with the first seed on images
held out from the training images, of the traffic signs whole tracks; the test images play no part in it. A cell (data,
backbone, size, method, rate, seed) is one JSON file in the folder, with which of the test images were right; one that
is there is not run again. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import assets
import torch
import torch.nn.functional as F
from rich.console import Console
from rival_methods import METHODS, Head, Rival, Stored, stored_masks
from rivals_table import chosen_rate, pack, plot, points, table
from torch import Tensor
from validation_parts import signs_by_track, write

from selfmask.backbones.backbone import Backbone
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.masking import norm
from selfmask.masking.rules import Threshold
from selfmask.objectives.base import Objective
from selfmask.objectives.supervised import Supervised
from selfmask.run.build import build_masks, build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings

DATA: dict[str, assets.Settings] = {
    "cifar10": assets.CIFAR10 | {"images": 2500},
    "clothing": assets.CLOTHING,
    "signs": {"data": "runs/signs_by_track.csv", "mirror": False},
    "digits": assets.DIGITS,
}
BACKBONES: dict[str, assets.Settings] = {
    "resnet18": assets.RESNET_18,
    "efficientnet-lite0": assets.EFFICIENTNET,
    "vit-s14": assets.VIT_S14,
}


@dataclass(frozen=True)
class Cell:
    """One combination; `settings` are all that differs from the defaults of `selfmask adapt`."""

    data: str
    backbone: str
    size: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, data: str, backbone: str, size: int, **more: Any) -> Cell:
        """A transformer takes whole patches: the size is rounded to 14."""
        size = round(size / 14) * 14 if backbone.startswith("vit") else size
        return cls(data, backbone, size, DATA[data] | BACKBONES[backbone] | more)

    @property
    def name(self) -> str:
        return f"{self.data}-{self.backbone}-{self.size}"


def file_of(out: Path, cell: Cell, method: str, rate: float | None, seed: int) -> Path:
    """Where a cell is kept."""
    words = [cell.name, method.replace(", ", "-").replace(" ", "-"), "none" if rate is None else f"{rate:g}"]
    return out / f"{'-'.join(words)}-{seed}.json"


class Setting:
    """A cell with a seed: its images and network, and the head that all methods start from."""

    def __init__(self, cell: Cell, seed: int, threads: int) -> None:
        self.cell, self.seed = cell, seed
        self.plan: Plan = make_plan(
            AdaptSettings(**cell.settings, size=cell.size, seed=seed, objective="supervised", threads=threads)
        )
        assert self.plan.held_out is not None
        assert self.plan.splits.test is not None
        self.held_out, self.test = self.plan.held_out, self.plan.splits.test
        first = build_objective(self.plan)
        first.prepare(self.plan.backbone, self.plan.train)
        self._first = copy.deepcopy(first.state_dict())

    def objective(self) -> Supervised:
        """A new one, with the first head."""
        made: Objective = build_objective(self.plan)
        assert isinstance(made, Supervised)
        made.load_state_dict(self._first)
        return made

    def features(self, backbone: Backbone, images: ImageSet) -> Tensor:
        """Of the network as it is, float32 (N, width)."""
        return features(backbone, images, size=self.plan.size, channels_last=self.plan.channels_last)

    def views(self, images: ImageSet) -> list[Tensor]:
        """Normalised batches of the images as they are evaluated."""
        recipe = self.plan.backbone.preprocessing
        views = images.resized(self.plan.size, recipe.crop, recipe.interpolation)
        return list(recipe.normalise(views).split(64))

    def plan_of(self, name: str, rate: float | None, scores: float | None) -> Plan:
        """The plan of one method: a copy of the network, its optimizer and rate, and for masks how they start.

        `scores`: the rate of the scores where `rate` is the norm weights'.
        """
        method, plan = METHODS[name], self.plan
        recipe = Supervised.recipe_for(method.optimizer)
        fitting = replace(
            plan.fit,
            method=method.optimizer,
            rate=scores or rate or plan.fit.rate,
            warmup=recipe.warmup if method.masks else WARMUP,
            checkpoint_every=0,
            log_every=plan.fit.steps,
        )
        return replace(
            plan,
            backbone=replace(plan.backbone, module=copy.deepcopy(plan.backbone.module)),
            fit=fitting,
            rule=Threshold(spread=recipe.spread),
            train_norms=method.scores is not None,
        )


class Trained:
    """A method after its training. `result`: what its file holds, but for the ways to store it, see `measured`."""

    def __init__(self, setting: Setting, name: str, rate: float | None, scores: float | None) -> None:
        method, plan = METHODS[name], setting.plan_of(name, rate, scores)
        objective, module = setting.objective(), plan.backbone.module
        self._setting, self._plan = setting, plan
        self._masks = build_masks(plan) if method.masks else None
        if self._masks is not None and method.scores is not None:
            self._masks.optimizer = partial(self._masks.optimizer, norms={"lr": rate})
        self._rival = None if method.masks else Rival(method, module)
        if self._rival is not None and not method.moving:
            norm.freeze(module)
        seconds = 0.0
        if rate is not None:
            with tempfile.TemporaryDirectory() as folder:
                fitted = fit(
                    plan.backbone, self._masks, objective, plan.train, plan.fit, RunFolder(Path(folder)),
                    channels_last=plan.channels_last, console=Console(quiet=True),
                )  # fmt: skip
            if fitted.interrupted:  # by a signal; what half a training comes to is not to be kept
                raise KeyboardInterrupt
            seconds = fitted.seconds
        if self._masks is not None:
            self._masks.round_norms()
        module.eval()
        self._head = objective.head()
        labels = setting.held_out.labels
        guessed = linear(setting.features(plan.backbone, setting.held_out), self._head)
        self.result: dict[str, Any] = {
            "data": setting.cell.data, "backbone": setting.cell.backbone, "size": plan.size,
            "method": name, "rate": rate, "scores": scores, "seed": setting.seed,
            "steps": plan.fit.steps, "batch": plan.fit.batch, "images": len(plan.train), "seconds": round(seconds, 1),
            "validation": {
                "images": len(labels),
                "top1": float((guessed.argmax(1) == labels).double().mean()),
                "loss": float(F.cross_entropy(guessed, labels)),
            },
        }  # fmt: skip

    def measured(self) -> dict[str, Any]:
        """The result with each way to store it: bytes, and which test images are right by what the file holds."""
        test, ways = self._setting.test, []
        with tempfile.TemporaryDirectory() as folder:
            for files in self._files(Path(folder)):
                x = self._setting.features(self._plan.backbone, test)
                for stored, head in files:
                    right = linear(x, head).argmax(1) == test.labels
                    top1 = float(right.double().mean())
                    ways.append({**vars(stored), "top1": top1, "right": pack(right)})
        return {**self.result, "test": len(test), "ways": ways}

    def _files(self, folder: Path) -> Iterator[list[tuple[Stored, Head]]]:
        if self._rival is not None:
            yield from self._rival.stored(self._head, folder)
            return
        assert self._masks is not None
        path = self._masks.save(folder / "whole.mask.safetensors", head=self._head)
        self._masks.remove()
        some = self._plan.train
        if len(some) > IMAGES:
            order = torch.randperm(len(some), generator=torch.Generator().manual_seed(0))
            some = some.subset(order[:IMAGES])
        views, held_out = (self._setting.views(images) for images in (some, self._setting.held_out))
        yield from stored_masks(self._plan.backbone.module, path, self._head, views, held_out)


WARMUP = 0.1
"""Share of the steps over which a rival's rate rises; masks have their recipe's."""
IMAGES = 512
"""At most so many training images say which weights of a mask may be given up."""


def linear(x: Tensor, head: Head) -> Tensor:
    """What the head says of the features: logits, float32 (N, classes)."""
    return F.linear(x, head["weight"].float(), head["bias"].float())


def searched(out: Path, cell: Cell, name: str, seed: int) -> list[dict[str, Any]]:
    """What is there of a method's search, in the order of the rates."""
    found = [json.loads(file.read_text()) for file in out.glob(f"{cell.name}-*-{seed}.json")]
    return sorted((one for one in found if one["method"] == name), key=lambda one: one["rate"] or 0)


def rate_of_scores(out: Path, cell: Cell, name: str, seed: int) -> float | None:
    """That of a method with norm weights; None of the others. Raises `SystemExit` where its search is still missing."""
    scores = METHODS[name].scores
    if not isinstance(scores, str):
        return scores
    found = searched(out, cell, scores, seed)
    if not found:
        sys.exit(
            f"{name!r} takes the rate of {scores!r}, which is not searched for {cell.name} in {out}: run it first"
        )
    return chosen_rate(found)


def to_try(out: Path, cell: Cell, name: str, seed: int) -> Iterator[float | None]:
    """The rates that are still missing of a search: each is asked for when those before it are there."""
    method = METHODS[name]
    there = {one["rate"] for one in searched(out, cell, name, seed)}
    yield from (rate for rate in method.rates or (None,) if rate not in there)
    while method.rates:
        found = searched(out, cell, name, seed)
        best = chosen_rate(found)
        assert best is not None
        rate = method.beyond([one["rate"] for one in found], best)
        if rate is None:
            return
        yield rate


def fill(out: Path, cell: Cell, names: list[str], seeds: list[int], threads: int) -> None:
    """Run what is missing of a cell: with the first seed all rates, with the others the chosen one.

    Only what is chosen is measured on the test images. A search that was stopped may train its best once more.
    """
    for seed in seeds:
        setting: Setting | None = None
        for name in names:
            last: Trained | None = None
            scores = rate_of_scores(out, cell, name, seeds[0])
            if seed == seeds[0]:
                rates = to_try(out, cell, name, seed)
            else:
                only = chosen_rate(searched(out, cell, name, seeds[0]))
                rates = iter(() if file_of(out, cell, name, only, seed).is_file() else (only,))
            for rate in rates:
                setting = setting or Setting(cell, seed, threads)
                trained = Trained(setting, name, rate, scores)
                path = file_of(out, cell, name, rate, seed)
                write_json(path, trained.result)
                held = trained.result["validation"]
                print(f"{path.stem}: held out {held['top1']:.4f}, loss {held['loss']:.4f}", flush=True)
                if chosen_rate(searched(out, cell, name, seed)) == rate:
                    last = trained
            rate = chosen_rate(searched(out, cell, name, seed))
            path = file_of(out, cell, name, rate, seed)
            if "ways" in json.loads(path.read_text()):
                continue
            if last is None or last.result["rate"] != rate:
                setting = setting or Setting(cell, seed, threads)
                last = Trained(setting, name, rate, scores)
            found = last.measured()
            write_json(path, found)
            ways = ", ".join(f"{way['way']} {way['top1']:.4f} in {way['file']:,}" for way in found["ways"])
            print(f"{path.stem}: {ways}", flush=True)


def main() -> None:
    """Run what is missing, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["cifar10"])
    parser.add_argument(
        "--backbones", nargs="+", choices=list(BACKBONES), default=["resnet18", "efficientnet-lite0"]
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the first is searched with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--plot", type=Path, help="a folder, for PNG, SVG, CSV and JSON")
    asked = parser.parse_args()
    if not asked.table:
        if "signs" in asked.data:
            write(Path(DATA["signs"]["data"]), signs_by_track())
        for data in asked.data:
            for backbone in asked.backbones:
                fill(
                    asked.out, Cell.of(data, backbone, asked.size), asked.methods, asked.seeds, asked.threads
                )
    found = [json.loads(path.read_text()) for path in sorted(asked.out.glob("*.json"))]
    made = points(found, {name: method.rates for name, method in METHODS.items()}, asked.seeds)
    print(table(made, list(METHODS)))
    if asked.plot is not None:
        plot(made, list(METHODS), asked.plot)


if __name__ == "__main__":
    main()
