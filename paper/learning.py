"""One cell: the training that it asks for, and what is measured of it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import experts
import numpy as np
import torch
import torch.nn.functional as F
from cells import Cell, Found
from low_shot import DRAWS, SHARES
from rich.console import Console
from torch import Tensor

from selfmask.features.features import features, module_device
from selfmask.features.measure import measure
from selfmask.features.probe import fit_probe
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most, label_budget
from selfmask.maskfile.head import linear_layer
from selfmask.masking.rules import Threshold
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Objective
from selfmask.reports.density import layers
from selfmask.run.build import build_masks, build_objective
from selfmask.run.finetuning import FINETUNE_RATE, base_restored
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.provenance import machine, versions
from selfmask.run.result import read_json, write_json
from selfmask.run.settings import AdaptSettings


def learn(cell: Cell, out: Path) -> Found | None:
    """What its file is to hold; None where a signal stopped the training, whose checkpoint is kept."""
    if cell.how == "cascade":
        return experts.learn(cell, out)
    began = time.monotonic()
    plan = make_plan(AdaptSettings(**{"evaluate": False, "threads": 1, **cell.asked(out)}))
    assert plan.splits.test is not None
    test = plan.held_out or at_most(plan.splits.test, cell.test, seed=0)
    found: Found = {
        "data": cell.data, "backbone": cell.backbone, "seed": cell.seed, **cell.tags,
        "settings": {k: v for k, v in cell.settings.items() if not isinstance(v, Path)},
        "images": len(plan.train), "test": len(test), "size": plan.size,
    }  # fmt: skip
    training = 0.0
    if cell.how == "untouched":
        found |= _measured(cell, plan, test, None)
    else:
        with base_restored(plan) if cell.how == "full" else nullcontext():
            trained = _trained(cell, plan, test, RunFolder(out / cell.name))
        if trained is None:
            return None
        training = trained.pop("training")
        found |= trained
    seconds = {"training": round(training, 1), "total": round(time.monotonic() - began, 1)}
    found |= {
        "seconds": seconds,
        "machine": machine(module_device(plan.backbone.module)),
        "versions": versions(),
    }
    return found


def _trained(cell: Cell, plan: Plan, test: ImageSet, folder: RunFolder) -> Found | None:
    folder.path.mkdir(parents=True, exist_ok=True)
    objective = build_objective(plan)
    resume, before = folder.checkpoint.is_file(), folder.path / "before.json"
    if not resume:
        objective.prepare(plan.backbone, plan.train)
        head = linear_layer(objective.head())
        write_json(before, {} if head is None else {"before": _top1(plan, test, head)})
    found: Found = read_json(before)
    masks = None if cell.how == "full" else build_masks(replace(plan, rule=cell.rule or plan.rule))
    fitting = replace(plan.fit, log_every=1 if "log" in cell.keep else plan.fit.steps)
    if cell.how == "full":
        fitting = replace(fitting, method="adam", rate=FINETUNE_RATE, warmup=0.1)
    start = cell.rule or Threshold()
    fitted = fit(
        plan.backbone, masks, objective, plan.train, fitting, folder, resume=resume, console=Console(quiet=True),
        watch=None if masks is None or "log" not in cell.keep else lambda _: {"fall": _fall(masks, start)},
        channels_last=plan.channels_last,
    )  # fmt: skip
    if fitted.interrupted:
        return None
    found |= {"steps": fitting.steps, "batch": fitting.batch, "rate": fitting.rate}
    found["training"] = fitted.seconds
    found |= _measured(cell, plan, test, objective)
    if "log" in cell.keep:
        log = folder.log().steps
        found["log"] = {name: [entry[name] for entry in log] for name in ("loss", "off", "fall")}
    if masks is not None:
        found |= _of_masks(cell, plan, masks, folder)
        masks.remove()
    folder.checkpoint.unlink()
    return found


def _measured(cell: Cell, plan: Plan, test: ImageSet, objective: Objective | None) -> Found:
    head = None if objective is None else linear_layer(objective.head())
    if cell.measures == ("head",):
        return {} if head is None else {"head": _top1(plan, test, head)}
    if cell.measures == ("low-shot",):
        return {"low-shot": _low_shot(plan, test)}
    outcome = measure(
        "row", plan.backbone, plan.labelled, test,
        size=plan.size, head=head, seed=cell.seed, channels_last=plan.channels_last,
    )  # fmt: skip
    rows = {name: getattr(outcome, name) for name in cell.measures}
    return {name: float(right.double().mean()) for name, right in rows.items() if right is not None}


def _top1(plan: Plan, test: ImageSet, head: tuple[Tensor, Tensor]) -> float:
    x = features(plan.backbone, test, size=plan.size, channels_last=plan.channels_last)
    return float((F.linear(x, *head).argmax(1) == test.labels).double().mean())


def _low_shot(plan: Plan, test: ImageSet) -> dict[str, float]:
    """Top-1 of probes on some of the labels, the mean of five draws, by their share in percent."""
    x, test_x = (
        features(plan.backbone, part, size=plan.size, channels_last=plan.channels_last)
        for part in (plan.labelled, test)
    )
    found: dict[str, float] = {}
    for share in SHARES:
        right = []
        for draw in range(DRAWS):
            kept = label_budget(plan.labelled, f"{share:g} %", seed=draw).labels >= 0
            probe = fit_probe(x[kept], plan.labelled.labels[kept], seed=draw)
            right.append(float((probe.predict(test_x) == test.labels).double().mean()))
        found[f"{share:g}"] = sum(right) / DRAWS
    return found


@torch.no_grad()
def _fall(masks: MaskSet, rule: Threshold) -> float:
    """(S0 − mean S) / (S0 − μ): 0 at the start, 1 where the average weight is about to be switched off."""
    total = sum(s.double().sum().item() for s in masks.scores.values())
    average = total / sum(s.numel() for s in masks.scores.values())
    return (rule.start - average) / (rule.start - rule.mu)


def _of_masks(cell: Cell, plan: Plan, masks: MaskSet, folder: RunFolder) -> Found:
    """Density and bytes; where it is asked for, the layers: kind, part, depth, weights and those of them on."""
    masks.save(folder.mask_file, backbone=plan.backbone.describe(), training=plan.record())
    status, found = masks.status(), masks.masks()
    kept: Found = {
        "weights": status.weights, "density": status.density, "flipped": status.flipped / status.weights,
        "bytes": folder.mask().bytes(), "packers": packed(found),
    }  # fmt: skip
    if "layers" in cell.keep:
        kept["layers"] = [
            [layer.place.kind, layer.place.part, layer.place.depth, layer.weights, layer.on]
            for layer in layers(found)
        ]
    return kept


def packed(masks: dict[str, Tensor]) -> dict[str, Any]:
    """Bytes that general programs make of the bits, one after another (Supp. Tables 2 and 3)."""
    bits = np.packbits(np.concatenate([mask.numpy().reshape(-1) for mask in masks.values()])).tobytes()
    return {
        "bits": len(bits), "gzip": len(gzip.compress(bits)), "bz2": len(bz2.compress(bits)),
        "lzma": len(lzma.compress(bits)),
    }  # fmt: skip
