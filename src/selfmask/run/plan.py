"""From what the user said to everything that a training needs: the plan, with the reasons to print."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import build
from selfmask.errors import DataError, SettingsError
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.opening import open_data
from selfmask.images.splits import Splits, label_budget, stratified
from selfmask.maskfile.loading import load
from selfmask.masking.densities import check_densities
from selfmask.masking.norm import NormStats
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Objective
from selfmask.run.adapt_settings import AdaptSettings
from selfmask.run.defaults import (
    default_rate,
    prefers_channels_last,
    score_recipe,
    step_count,
    view_size,
)
from selfmask.run.objectives import make_objective
from selfmask.run.paper import paper_constants
from selfmask.run.settings import FitSettings


@dataclass
class Plan:
    """Everything chosen. `train` holds the images that are trained on, `labelled` those that a probe may use."""

    settings: AdaptSettings
    objective: str
    backbone: Backbone
    splits: Splits
    train: ImageSet
    labelled: ImageSet
    fit: FitSettings
    norm_stats: NormStats
    size: int
    native: int
    crop: float
    channels_last: bool
    lines: list[str]

    def make_masks(self) -> MaskSet:
        """The mask set that the settings ask for, on the backbone as it is now."""
        return MaskSet(
            self.backbone.module,
            select=_selection(self.settings),
            rule=_rule(self.settings, self.fit, self.objective),
            norm_stats=self.norm_stats,
            seed=self.settings.seed,
        )

    def check_masks(self) -> None:
        """Raise what `make_masks` would raise, at the cost of reading names and sizes: no weight is touched."""
        selection = _selection(self.settings)
        rule = _rule(self.settings, self.fit, self.objective)
        chosen, _ = selection.choose(self.backbone.module)
        check_densities(rule, chosen, selection.weights)

    def make_objective(self) -> Objective:
        """The objective, as it is before `prepare`."""
        return make_objective(self.objective, self)

    def record(self) -> dict[str, Any]:
        """What the mask file keeps of the training: no path, and no image's name."""
        return {
            "objective": self.objective,
            "data": self.train.name,
            "images": len(self.train),
            "labels": int((self.train.labels != UNLABELLED).sum()) if self.objective == "supervised" else 0,
            "classes": list(self.train.classes) if self.objective in ("supervised", "text") else [],
            "size": self.size,
            "norm_stats": self.norm_stats,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.fit).items()
               if k not in ("checkpoint_every", "log_every")},
        }  # fmt: skip


def make_plan(settings: AdaptSettings) -> Plan:
    """Open the data, build the backbone, and choose what was left open."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    splits = open_data(
        settings.data,
        split_file=settings.split_file,
        labels=settings.labels,
        seed=settings.seed,
        test_share=settings.test_share,
    )
    images = splits.train
    if settings.images is not None:
        images = _some(images, settings.images, settings.seed)
    if settings.budget is not None:
        images = label_budget(images, settings.budget, settings.seed)
    labelled = images.labelled()
    objective = _objective(settings, images, labelled)
    train = labelled if objective == "supervised" else images

    device = _device(settings.device)
    backbone = build(settings.backbone, weights=settings.weights)
    native = backbone.preprocessing.size  # what it was pretrained at: targets without labels are taken there
    paper = paper_constants(backbone.family, objective) if settings.preset == "paper" else {}
    size = settings.size or paper.get("size") or view_size(
        images, backbone.preprocessing.size, on_cpu=device.type == "cpu", spec=settings.backbone
    )  # fmt: skip
    if size != backbone.preprocessing.size and backbone.family in ("vit", "clip", "swin"):
        backbone = build(settings.backbone, weights=settings.weights, image_size=size)
    # Tiny images have no border to spare: the evaluation view then shows all of them.
    crop = backbone.preprocessing.crop if size > 160 else 1.0
    backbone.preprocessing = replace(backbone.preprocessing, size=size, crop=crop)
    backbone.module.to(device)
    channels_last = prefers_channels_last(backbone.family)
    if channels_last:
        backbone.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    fit = _fit_settings(settings, paper, len(train), objective)
    norm_stats: NormStats = settings.norm_stats or paper.get("norm_stats", "frozen")
    plan = Plan(
        settings,
        objective,
        backbone,
        splits,
        train,
        labelled,
        fit,
        norm_stats,
        size,
        native,
        crop,
        channels_last,
        [],
    )
    plan.lines = _lines(plan)
    return plan


def _fit_settings(settings: AdaptSettings, paper: dict[str, Any], images: int, objective: str) -> FitSettings:
    epochs = (
        settings.epochs if settings.epochs is not None or settings.steps is not None else paper.get("epochs")
    )
    recipe = score_recipe(objective, settings.optimizer or paper.get("optimizer"))
    method = recipe.method
    if method == "sgd" and settings.lr is None and "lr" not in paper:
        raise SettingsError(
            "--optimizer sgd needs --lr: the right one differs a thousandfold between networks"
        )
    fit = FitSettings(
        steps=step_count(images, settings.batch, epochs, settings.steps),
        batch=settings.batch,
        method=method,
        warmup=settings.warmup if settings.warmup is not None else paper.get("warmup", recipe.warmup),
        precision=settings.precision,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
    )
    rate = settings.lr or paper.get("lr") or default_rate(fit, recipe)
    return replace(fit, rate=rate)


def _objective(settings: AdaptSettings, images: ImageSet, labelled: ImageSet) -> str:
    if settings.objective == "auto":
        return "supervised" if 2 * len(labelled) >= len(images) and len(labelled) else "distil"
    if settings.objective == "supervised" and len(labelled) == 0:
        raise DataError(
            f"--objective supervised needs labels, and none of the {len(images)} images of {images.name} has one: "
            "put them into class folders, give --labels FILE, or leave --objective out to adapt without labels"
        )
    return settings.objective


def _selection(settings: AdaptSettings) -> Selection:
    select: Any = settings.select or "auto"
    if isinstance(select, str) and "," in select:
        select = [part.strip() for part in select.split(",")]
    weights = None
    if settings.weights_share is not None:
        kind, _, percent = settings.weights_share.partition(":")
        try:
            share = float(percent) / 100
        except ValueError:
            share = -1.0
        if kind not in ("largest", "random") or not 0 < share <= 1:
            raise SettingsError(
                f'--weights-share reads "largest:50" or "random:50", got {settings.weights_share!r}'
            )
        weights = LargestShare(share) if kind == "largest" else RandomShare(share)
    return Selection(select, weights, settings.stages)


def _spread(settings: AdaptSettings, fit: FitSettings, objective: str) -> float:
    """How far from 1 the scores of the threshold rule start."""
    if settings.spread is not None:
        return settings.spread
    return 0.0 if settings.preset == "paper" else score_recipe(objective, fit.method).spread


def _rule(settings: AdaptSettings, fit: FitSettings, objective: str) -> Rule:
    if settings.rule == "threshold":
        return Threshold(spread=_spread(settings, fit, objective))
    density: float | dict[str, float] = 0.5
    if settings.density_from is not None:
        density = _found(settings.density_from)
    elif settings.density is not None:
        density = settings.density
    if settings.rule == "progressive":
        return TopK(Progressive(end=density, steps=fit.steps), settings.scores)
    return TopK(density, settings.scores)


def _found(path: Path) -> dict[str, float]:
    """The densities of a mask file, tensor by tensor."""
    try:
        found = load(path)
    except OSError as error:
        raise SettingsError(
            f"--density-from names a mask file, and {path} cannot be read: {error.strerror}"
        ) from None
    return {name: found.on[name] / max(found.numel(name), 1) for name in found.names}


def _some(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`count` of the images: in proportion to the classes where all have one, else drawn evenly."""
    if count >= len(images):
        return images
    if bool((images.labels != UNLABELLED).all()):
        return images.subset(stratified(images.labels, count / len(images), seed)[1])
    generator = torch.Generator().manual_seed(seed)
    return images.subset(torch.randperm(len(images), generator=generator)[:count].sort().values)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            index = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", index)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"--device is auto, cpu, cuda, cuda:1 or mps, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"--device {name}: this machine has no CUDA device that torch can use; leave it out"
        )
    return device


def _lines(plan: Plan) -> list[str]:
    fit, data = plan.fit, plan.train
    spread = _spread(plan.settings, fit, plan.objective) if plan.settings.rule == "threshold" else 0.0
    test = "no test images" if plan.splits.test is None else f"{len(plan.splits.test)} test images"
    return [
        *plan.splits.notes,
        f"data: {data.name}, {len(data)} training images, {test}, {len(data.classes)} classes",
        f"backbone: {plan.backbone.spec}, family {plan.backbone.family}, {plan.backbone.width} features, "
        f"views of {plan.size} px",
        f"objective: {plan.objective}; batch norms {plan.norm_stats}",
        f"training: {fit.steps} steps of {fit.batch} images ({fit.steps * fit.batch / len(data):.1f} epochs), "
        f"{fit.method} on the scores, peak rate {fit.rate:.3g}, rising over {fit.warmup:.0%} of the steps"
        + (f"; scores start between {1 - spread:g} and {1 + spread:g}" if spread else ""),
    ]
