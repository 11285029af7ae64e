"""`selfmask compact`: a smaller mask file that is as good, within a tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from torch import Tensor

from selfmask._common.calls import call
from selfmask._common.console import SafeConsole
from selfmask._common.units import byte_count
from selfmask.backbones.spec import backbone_of
from selfmask.errors import SettingsError
from selfmask.features.measure import HeadCost, head_cost
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import plain
from selfmask.maskfile.saving import stored_head
from selfmask.masking.importance import by_magnitude, sensitivity
from selfmask.run.folder import RunFolder
from selfmask.run.spending import MOST
from selfmask.tasks.compaction import Compaction, smallest, to_bits
from selfmask.tasks.in_bytes import InBytes, hold
from selfmask.tasks.judge import Judge, Tested, judge
from selfmask.tasks.opening import (
    check_out,
    check_own_size,
    check_size,
    file_of,
    learnt_at,
    open_images_of,
    open_mask,
    seen_by,
    seen_note,
)


@dataclass(frozen=True)
class CompactSettings:
    """Turn those off-weights back on that do nothing, and write the smallest mask within a tolerance."""

    mask: Path
    """The mask file, or a run's folder."""
    data: str
    """Images to judge by: what `selfmask adapt` takes. Their training part is used, with labels where there are any."""
    out: Path | None = None
    """The new mask file; without it, NAME.small.safetensors beside NAME.safetensors, if there is none yet."""
    max_drop: float = 0.3
    """How many points the score may fall: k-NN top-1 in per cent, or 100 × the cosine to the features before (without
    labels, and where k-NN is always right)."""
    bits: float | None = None
    """In place of a tolerance: leave this share of the masks' bits, in (0, 1), whatever that costs; 0.5 halves them."""
    max_bytes: int | str | None = None
    """In place of a tolerance: the new file takes no more, head and metadata included: 10240, 10k (× 1024), 10kB
    (× 1000). Bits of the head and of the norm weights are given up too; what that costs is measured and said."""
    by: Literal["sensitivity", "magnitude"] = "sensitivity"
    """How the weights that do nothing are found: by what the features say on some images, or by |θ| alone."""
    images: int = 2000
    """At most so many images are judged by; with labels a third of them is held out to score on."""
    steps: int = 6
    """Halvings of the share that is turned back on: each scores once."""
    refine: int = 4
    """After that, so many of the costliest tensors are tried on their own."""
    size: int | None = None
    """Side of the images in pixels; without it, the one that the mask was learnt at."""
    head_dtype: Literal["float16", "int8", "int4"] | None = None
    """Also round the head that the file carries: float16 takes half of float32's bytes, int8 a quarter, int4 an
    eighth. What that costs on the test images is measured and said."""
    seed: int = 0
    """Of the choice of images and of the signs that sensitivity draws."""
    backbone: str | None = None
    """The backbone, where the mask file does not say which it was learnt on."""
    weights: Path | None = None
    """The backbone's own file of weights, if it had one."""
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < math.inf:
            raise SettingsError(f"max_drop is in points, 0 or more, got {self.max_drop}")
        if self.bits is not None and not 0 < self.bits < 1:
            raise SettingsError(
                f"bits is the share of the masks' bits that is left, in (0, 1), got {self.bits}"
            )
        if self.max_bytes is not None:
            byte_count(self.max_bytes, "--max-bytes")
            if self.bits is not None:
                raise SettingsError("give --bits or --max-bytes, not both")
        if self.images < 6:
            raise SettingsError(f"images is 6 or more, got {self.images}")
        check_size(self.size)
        if self.out is not None:
            check_out(
                self.out, mask_file=self.mask, file_of_weights=self.weights, list_of_images=file_of(self.data)
            )
        if self.out is None and self.written.exists():
            raise SettingsError(f"{self.written} is there already: name the new file with --out")

    @property
    def written(self) -> Path:
        """Where the new file goes."""
        if self.out is not None:
            return self.out
        mask = RunFolder(self.mask).mask_file if self.mask.is_dir() else self.mask
        return mask.with_suffix(".small" + mask.suffix)


@dataclass(frozen=True)
class Compacted:
    """The new file, and what it cost.

    measure: "k-NN" or "cosine", what the search was judged by. saturated: k-NN was right on nearly all held-out images,
    and so told nothing. bytes: of the old and of the new file by part. record: what the new file keeps of this.
    notes: why the tolerance may not hold on other images.
    """

    out: Path
    measure: Literal["k-NN", "cosine"]
    saturated: bool
    search: Compaction
    tested: Tested | None
    head: HeadCost | None
    head_rounded: bool
    before: dict[str, int]
    after: dict[str, int]
    record: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """Whether nothing that was tried is smaller and within the tolerance."""
        return self.search.chosen == self.search.before

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "out": str(self.out),
            "bytes": {"before": self.before, "after": self.after},
            **self.record,
            "notes": list(self.notes),
            "curve": [point.describe() for point in self.search.curve],
        }


def run(settings: CompactSettings, console: Console | None = None) -> Compacted | InBytes:
    """Build, judge, search, write; report on the test part, which the search has not seen.

    >>> small = selfmask.compact("runs/photos", "photos/", bits=0.5, out="half.mask.safetensors")
    >>> small.after["masks"] < small.before["masks"]
    True
    """
    console = console or SafeConsole(stderr=True)
    mask = open_mask(settings.mask)
    rounded = settings.head_dtype is not None
    if rounded and not mask.head:
        raise SettingsError(f"--head-dtype {settings.head_dtype}: {mask.path.name} carries no head")
    stored = stored_head(mask.stored_head, settings.head_dtype)
    backbone = backbone_of(mask, settings.backbone, settings.weights, download=settings.download)
    opened = open_images_of(settings.mask, mask, settings.data)
    splits = opened.splits
    size = settings.size or learnt_at(mask) or backbone.preprocessing.size
    check_own_size(backbone, size)
    if settings.max_bytes is not None:
        most = byte_count(settings.max_bytes, "--max-bytes")
        with console.status("weighing what to give up"):
            return hold(
                settings.mask,
                mask,
                stored,
                backbone,
                opened,
                most,
                settings.written,
                size,
                min(settings.images, MOST),
            )
    masks = mask.masks()
    with judge(mask, backbone, splits.train, size, settings.images, settings.seed) as judged:
        with console.status("judging weights"):
            importance = _importance(settings, judged)
        with console.status("searching"):
            found = _search(settings, judged, masks, importance)
        with console.status("testing"):
            tested = _tested(judged, masks, found, splits.test)
            doubts = _doubts(settings, judged, tested)
            if tested is not None and splits.test is not None:
                seen = seen_note(seen_by(settings.mask, mask, splits.test, opened), tested.images)
                doubts += [] if seen is None else [seen]
            cost = _head_cost(settings, judged, mask, found.masks, plain(stored), splits.test)
    record: dict[str, Any] = {
        "by": settings.by,
        **({"max_drop": settings.max_drop} if settings.bits is None else {"bits": settings.bits}),
        "data": splits.train.name,
        "before": found.before.describe(),
        "after": found.chosen.describe(),
        "test": None if tested is None else tested.document(),
    }
    if rounded:
        record["head"] = None if cost is None else cost.describe()
    path = save_derived(settings.written, mask, found.masks, note={"compaction": record}, head=stored)
    return Compacted(
        out=path,
        measure="cosine" if judged.by_cosine else "k-NN",
        saturated=judged.by_cosine and judged.reference is not None,
        search=found,
        tested=tested,
        head=cost,
        head_rounded=rounded,
        before=mask.bytes(),
        after=load(path).bytes(),
        record=record,
        notes=tuple(doubts),
    )


compact = call(CompactSettings, run)


def _search(
    settings: CompactSettings, judged: Judge, masks: dict[str, Tensor], importance: dict[str, Tensor]
) -> Compaction:
    if settings.bits is not None:
        return to_bits(masks, importance, judged.score, share=settings.bits)
    return smallest(
        masks, importance, judged.score, max_drop=settings.max_drop, steps=settings.steps, refine=settings.refine
    )  # fmt: skip


def _doubts(settings: CompactSettings, judged: Judge, tested: Tested | None) -> list[str]:
    """Why the tolerance may not hold on other images."""
    found = []
    one = 100 / len(judged.held_out)
    if settings.bits is None and not judged.by_cosine and one > settings.max_drop:
        found.append(
            f"one of the {len(judged.held_out)} held-out images is {one:.1f} points, more than the tolerance of "
            f"{settings.max_drop:g}: more --images would tell more"
        )
    if tested is not None and settings.bits is None:
        lost = 100 * (tested.before - tested.after)
        if lost > settings.max_drop and tested.interval[1] < 0:
            found.append(
                f"on the test images {lost:.1f} points were lost, more than the tolerance of {settings.max_drop:g}"
            )
    return found


def _importance(settings: CompactSettings, judged: Judge) -> dict[str, Tensor]:
    if settings.by == "magnitude":
        return by_magnitude(judged.theta)
    images = judged.reference or judged.held_out
    return sensitivity(judged.backbone.module, judged.theta, judged.batches(images), seed=settings.seed)


def _tested(
    judged: Judge, before: dict[str, Tensor], found: Compaction, test: ImageSet | None
) -> Tested | None:
    if test is None or judged.reference is None or len(test.labelled()) == 0:
        return None
    test = test.labelled()
    judged.wear(before)
    old = judged.correct(test)
    judged.wear(found.masks)
    new = judged.correct(test)
    return Tested.of(old, new)


def _head_cost(
    settings: CompactSettings,
    judged: Judge,
    mask: Mask,
    masks: dict[str, Tensor],
    head: dict[str, Tensor],
    test: ImageSet | None,
) -> HeadCost | None:
    """The cost of the rounded head under the new masks, where the test images are of the head's own classes."""
    dtype = settings.head_dtype
    if dtype is None or test is None or mask.classes != test.classes:
        return None
    judged.wear(masks)
    return head_cost(judged.backbone, test, mask.head, head, dtype, size=judged.size)
