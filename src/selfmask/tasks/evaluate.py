"""`selfmask evaluate`: how good a mask is, on labelled images, beside the untouched backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask._common.calls import call
from selfmask._common.escape import printable
from selfmask._common.units import counted
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import backbone_of
from selfmask.errors import DataError, SettingsError
from selfmask.features.measure import measure, measure_both
from selfmask.features.rows import MASKED, PRETRAINED, STATISTICS_ONLY, Outcome, Rows, Verdict
from selfmask.features.statistics import moved_statistics
from selfmask.images.sources import enlarged
from selfmask.maskfile.head import linear_layer
from selfmask.maskfile.mask import Mask
from selfmask.run.process import use_threads
from selfmask.run.split import RunImages
from selfmask.tasks.opening import check_own_size, check_size, open_images_of, open_mask, seen_by, seen_note


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
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""
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
    """The rows of one mask on some images, and what they come to.

    seen: how many of the test images the mask was learnt on; None: not known.
    unmeasured: why the mask's own head has no figure, where it brings one; None: it has one, or there is none.
    enlarged: what is to be said of views larger than pictures are kept.
    """

    mask: Path
    data: str
    rows: Rows
    verdict: Verdict
    seen: int | None
    unmeasured: str | None = None
    enlarged: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the rows."""
        seen = seen_note(self.seen, self.rows.images)
        if seen is not None and self.seen:
            seen += (
                ": to measure on the run's own test images name the run's folder, and leave --data, --seed, "
                "--test-share and --split-file out"
            )
        return tuple(note for note in (seen, self.unmeasured, self.enlarged) if note is not None)

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "mask": str(self.mask), "data": self.data, "seen_in_training": self.seen, "notes": list(self.notes),
            "verdict": asdict(self.verdict), **self.rows.to_json(),
        }  # fmt: skip


def run(settings: EvaluateSettings) -> Evaluation:
    """Measure the untouched network, with moved statistics if wanted, and masked, at each size.

    Of several sizes the mask's own comes first, where it is among them: it is what the verdict is on.

    >>> found = selfmask.evaluate("runs/photos", size=(32, 48), statistics=False)
    >>> [row.name for row in found.rows.rows if "whitened" not in row.name]
    ['pretrained, 32 px', 'pretrained, 48 px', 'masked, 32 px', 'masked, 48 px']
    >>> found.verdict.sentence.startswith("The masked network at 32 px is ")
    True
    """
    use_threads(settings.threads)
    mask = open_mask(settings.run, rejected=True)
    opened = _opened(settings, mask)
    assert opened.splits.test is not None  # `_opened` saw to it
    backbone = backbone_of(mask, settings.backbone, settings.weights, download=settings.download)
    backbone.lay_out()
    sizes = _sizes(backbone, settings.size)
    masked, subject = _at(MASKED, sizes[0], sizes), "The masked network"
    rows = Rows.of(list(_rows(mask, backbone, opened, settings, sizes)), judged=masked)
    verdict = rows.verdict(masked, subject if len(sizes) == 1 else f"{subject} at {sizes[0]} px")
    seen = seen_by(settings.run, mask, opened.splits.test.labelled(), opened)
    return Evaluation(
        mask.path,
        opened.train.name,
        rows,
        verdict,
        seen,
        _unmeasured(mask, opened.train.classes),
        enlarged(max(sizes)),
    )


evaluate = call(EvaluateSettings, run)


def _sizes(backbone: Backbone, asked: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of the views, the mask's own first where it is among those `asked` for."""
    own = backbone.preprocessing.size
    check_own_size(backbone, *asked)
    return tuple(sorted(dict.fromkeys(asked or (own,)), key=lambda size: size != own))


def _at(name: str, size: int, sizes: tuple[int, ...]) -> str:
    """The row's name: with its size, where there are several."""
    return name if len(sizes) == 1 else f"{name}, {size} px"


def _rows(
    mask: Mask, backbone: Backbone, opened: RunImages, settings: EvaluateSettings, sizes: tuple[int, ...]
) -> Iterator[Outcome]:
    train, test, seed = opened.labelled, opened.splits.test, opened.seed
    assert test is not None

    def both(name: str, size: int, head: tuple[Tensor, Tensor] | None = None) -> list[Outcome]:
        return measure_both(
            _at(name, size, sizes), backbone, train, test, size=size, seed=seed, head=head,
            channels_last=backbone.prefers_channels_last,
        )  # fmt: skip

    for size in sizes:
        yield from both(PRETRAINED, size)
        if settings.statistics:
            with moved_statistics(backbone, opened.train, size=size, seed=seed) as moved:
                if moved:
                    yield measure(
                        _at(STATISTICS_ONLY, size, sizes), backbone, train, test, size=size, seed=seed,
                        channels_last=backbone.prefers_channels_last,
                    )  # fmt: skip
    with mask.apply(backbone.module):
        head = _head(mask, train.classes)
        for size in sizes:
            yield from both(MASKED, size, head)


def _opened(settings: EvaluateSettings, mask: Mask) -> RunImages:
    opened = open_images_of(
        settings.run, mask, settings.data, labels=settings.labels, budget=settings.budget,
        split_file=settings.split_file, test_share=settings.test_share, seed=settings.seed,
    )  # fmt: skip
    test = opened.splits.test
    if test is None or len(test.labelled()) == 0 or len(opened.labelled) == 0:
        raise DataError(
            f"evaluation needs labels on training and on test images, {opened.train.name} has "
            f"{len(opened.labelled)} and {0 if test is None else len(test.labelled())}; put the images "
            "into class folders, or give --labels FILE"
        )
    return opened


def _head(mask: Mask, classes: tuple[str, ...]) -> tuple[Tensor, Tensor] | None:
    """The mask's own classifier, where it was learnt on these very classes."""
    return linear_layer(mask.head) if mask.classes == classes else None


def _unmeasured(mask: Mask, classes: tuple[str, ...]) -> str | None:
    if linear_layer(mask.head) is None or mask.classes == classes:
        return None
    own = f"tells {_some(mask.classes)} apart" if mask.classes else "names no classes"
    return f"the mask's own head is not measured: it {own}, the images are {_some(classes)}"


def _some(names: tuple[str, ...]) -> str:
    """How many classes, and a few of their names as they may be shown."""
    few = ", ".join([*printable(names[:3]), *(["…"] if len(names) > 3 else [])])
    return f"{counted(len(names), 'class', 'classes')} ({few})"
