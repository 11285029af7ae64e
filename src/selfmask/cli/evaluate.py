"""`selfmask evaluate`: how good a mask is, on labelled images of your choice, beside the pretrained backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from selfmask.backbones.spec import backbone_of
from selfmask.cli.output import print_json
from selfmask.errors import DataError
from selfmask.features.measure import measure
from selfmask.features.passes import showing
from selfmask.features.rows import MASKED, PRETRAINED, STATISTICS_ONLY, Rows
from selfmask.features.statistics import moved_statistics
from selfmask.images.opening import open_data
from selfmask.images.splits import Splits, label_budget
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure k-NN, linear probe and (where the mask brings one) its head, before and after the mask."""

    run: Path
    """A run's folder, or a mask file."""
    data: str
    """Labelled images: a folder with class sub-folders (train/ and test/ of such, if there are), a list, a name."""
    labels: Path | None = None
    """A CSV of file,label: the only labels that k-NN and probe may use."""
    budget: str | None = None
    """Let k-NN and probe use only so many labels: "5 per class", "1 %"."""
    split_file: Path | None = None
    """Which image is for training and which for test."""
    test_share: float = 0.2
    """Share of the images held out for the test where the data has no test part of its own."""
    backbone: str | None = None
    """The backbone, where the mask file does not name it."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    statistics: bool = True
    """Also show "statistics only": running statistics moved to the images, no mask."""
    seed: int = 0
    """Of splits, budgets and the probe's validation part."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: EvaluateSettings) -> int:
    """Measure and print."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    mask = RunFolder(settings.run).mask() if settings.run.is_dir() else load(settings.run)
    splits = _labelled(settings)
    with showing(Console(stderr=True)):
        rows = compare_with_base(mask, splits, settings)
    if settings.json:
        print_json({"mask": str(mask.path), "data": splits.train.name, **rows.to_json()})
    else:
        Console().print(rows.table())
    return 0


def compare_with_base(mask: Mask, splits: Splits, settings: EvaluateSettings) -> Rows:
    """The rows pretrained, statistics only (if wanted) and masked."""
    backbone = backbone_of(mask, settings.backbone, settings.weights)
    assert splits.test is not None  # `_labelled` saw to it
    channels_last = backbone.prefers_channels_last
    if channels_last:
        backbone.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train, test, seed = splits.train.labelled(), splits.test, settings.seed
    outcomes = [measure(PRETRAINED, backbone, train, test, seed=seed, channels_last=channels_last)]
    if settings.statistics:
        with moved_statistics(backbone, splits.train, seed=seed) as moved:
            if moved:
                outcomes.append(
                    measure(STATISTICS_ONLY, backbone, train, test, seed=seed, channels_last=channels_last)
                )
    with mask.apply(backbone.module):
        head = _head(mask, train.classes)
        outcomes.append(
            measure(MASKED, backbone, train, test, seed=seed, channels_last=channels_last, head=head)
        )
    return Rows.of(outcomes)


def _labelled(settings: EvaluateSettings) -> Splits:
    splits = open_data(
        settings.data, split_file=settings.split_file, labels=settings.labels, seed=settings.seed,
        test_share=settings.test_share,
    )  # fmt: skip
    train = splits.train
    if settings.budget is not None:
        train = label_budget(train, settings.budget, settings.seed)
    if splits.test is None or len(splits.test.labelled()) == 0 or len(train.labelled()) == 0:
        raise DataError(
            f"evaluation needs labels on training and on test images, {settings.data} has "
            f"{len(train.labelled())} and {0 if splits.test is None else len(splits.test.labelled())}; put the images "
            "into class folders, or give --labels FILE"
        )
    return Splits(train, splits.validation, splits.test, splits.notes)


def _head(mask: Mask, classes: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The mask's own classifier, where it was learnt on these very classes."""
    training = mask.metadata.get("training")
    learnt = training.get("classes") if isinstance(training, dict) else None
    if not {"weight", "bias"} <= set(mask.head) or not isinstance(learnt, list) or tuple(learnt) != classes:
        return None
    return mask.head["weight"].float(), mask.head["bias"].float()
