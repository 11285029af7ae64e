"""`selfmask evaluate`: how good a mask is, on labelled images, beside the untouched backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfmask._common.calls import call
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import backbone_of
from selfmask.errors import DataError, SettingsError
from selfmask.features.measure import measure
from selfmask.features.rows import MASKED, PRETRAINED, STATISTICS_ONLY, Outcome, Rows
from selfmask.features.statistics import moved_statistics
from selfmask.images.opening import open_data
from selfmask.images.splits import Splits, label_budget
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder
from selfmask.run.settings import AdaptSettings
from selfmask.tasks.opening import check_size, learnt_classes, open_mask


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure k-NN, linear probe and (where the mask brings one) its head, before and after the mask."""

    run: Path
    """A run's folder, or a mask file."""
    data: str | None = None
    """Labelled images: a folder with class sub-folders (train/ and test/ of such, if there are), a list, a name.
    Default: the run's own, split as the run split them."""
    size: tuple[int, ...] = ()
    """Sides of the views in pixels, a row each: "would a larger view do?" 64,128,224 say. Default: the mask's own."""
    labels: Path | None = None
    """A CSV of file,label: the only labels that k-NN and probe may use."""
    budget: str | None = None
    """Let k-NN and probe use only so many labels: "5 per class", "1 %"."""
    split_file: Path | None = None
    """Which image is for training and which for test."""
    test_share: float | None = None
    """Share of the images held out for the test where the data has no test part of its own. Default: the run's, or
    0.2."""
    backbone: str | None = None
    """The backbone, where the mask file does not name it."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    statistics: bool = True
    """Also show "statistics only": running statistics moved to the images, no mask."""
    seed: int | None = None
    """Of splits, budgets and the probe's validation part. Default: the run's, or 0."""
    threads: int | None = None
    """CPU threads. Default: all cores."""

    def __post_init__(self) -> None:
        for size in self.size:
            check_size(size)
        if self.data is None and not self.run.is_dir():
            raise SettingsError(
                f"{self.run}: name the images to measure on (--data), or a run's folder that has them"
            )


@dataclass(frozen=True)
class Evaluation:
    """The rows of one mask on one set of images."""

    mask: Path
    data: str
    rows: Rows

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {"mask": str(self.mask), "data": self.data, **self.rows.to_json()}


def run(settings: EvaluateSettings) -> Evaluation:
    """Measure the untouched network, with moved statistics if wanted, and masked, at each size."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    mask = open_mask(settings.run)
    splits, seed = _labelled(settings, mask)
    backbone = backbone_of(mask, settings.backbone, settings.weights)
    if backbone.prefers_channels_last:
        backbone.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Evaluation(
        mask.path, splits.train.name, Rows.of(list(_rows(mask, backbone, splits, seed, settings)))
    )


evaluate = call(EvaluateSettings, run)


def _rows(
    mask: Mask, backbone: Backbone, splits: Splits, seed: int, settings: EvaluateSettings
) -> Iterator[Outcome]:
    own = backbone.preprocessing.size
    sizes = settings.size or (own,)
    if backbone.is_transformer and set(sizes) != {own}:
        raise SettingsError(
            f"--size {','.join(map(str, sizes))}: the mask was learnt on a transformer of {own} px, whose position "
            f"embeddings are those of that size: leave --size out"
        )
    assert splits.test is not None  # `_labelled` saw to it
    train, test = splits.train.labelled(), splits.test

    def row(name: str, size: int, head: tuple[Tensor, Tensor] | None = None) -> Outcome:
        at = name if len(sizes) == 1 else f"{name}, {size} px"
        return measure(
            at, backbone, train, test, size=size, seed=seed, channels_last=backbone.prefers_channels_last, head=head
        )  # fmt: skip

    for size in sizes:
        yield row(PRETRAINED, size)
        if settings.statistics:
            with moved_statistics(backbone, splits.train, size=size, seed=seed) as moved:
                if moved:
                    yield row(STATISTICS_ONLY, size)
    with mask.apply(backbone.module):
        head = _head(mask, train.classes)
        for size in sizes:
            yield row(MASKED, size, head)


def _labelled(settings: EvaluateSettings, mask: Mask) -> tuple[Splits, int]:
    """The images and the seed: what was given, else the run's own."""
    recorded: AdaptSettings | None = None
    folder = RunFolder(settings.run)
    if settings.run.is_dir() and folder.settings.is_file():
        recorded = AdaptSettings.read({**folder.recorded(), "objective": "auto", "objective_settings": {}})
    own = recorded if recorded is not None and settings.data in (None, recorded.data) else None
    seed = settings.seed if settings.seed is not None else _recorded_seed(own, mask)
    share = settings.test_share if settings.test_share is not None else own.test_share if own else 0.2
    data = settings.data or (own.data if own else None)
    if data is None:
        raise SettingsError(
            f"{settings.run} does not say which images it was learnt on: name some with --data"
        )
    splits = open_data(
        data,
        split_file=settings.split_file or (own.split_file if own else None),
        labels=settings.labels or (own.labels if own else None),
        seed=seed,
        test_share=share,
    )
    train = splits.train
    budget = settings.budget or (own.budget if own else None)
    if budget is not None:
        train = label_budget(train, budget, seed)
    if splits.test is None or len(splits.test.labelled()) == 0 or len(train.labelled()) == 0:
        raise DataError(
            f"evaluation needs labels on training and on test images, {data} has "
            f"{len(train.labelled())} and {0 if splits.test is None else len(splits.test.labelled())}; put the images "
            "into class folders, or give --labels FILE"
        )
    return replace(splits, train=train), seed


def _recorded_seed(own: AdaptSettings | None, mask: Mask) -> int:
    if own is not None:
        return own.seed
    training = mask.metadata.get("training")
    seed = training.get("seed") if isinstance(training, dict) else None
    return seed if type(seed) is int else 0


def _head(mask: Mask, classes: tuple[str, ...]) -> tuple[Tensor, Tensor] | None:
    """The mask's own classifier, where it was learnt on these very classes."""
    if not {"weight", "bias"} <= set(mask.head) or learnt_classes(mask) != classes:
        return None
    return mask.head["weight"].float(), mask.head["bias"].float()
