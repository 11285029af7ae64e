"""`selfmask adapt --max-bytes`: the mask in so many bytes, and what that costs on images held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfmask._common.escape import one_line
from selfmask.errors import SettingsError
from selfmask.features.features import module_device
from selfmask.features.intervals import paired_interval
from selfmask.features.rows import Estimate
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most
from selfmask.maskfile.loading import load
from selfmask.maskset import MaskSet
from selfmask.run.build import build_masks
from selfmask.run.measuring import held_out_right
from selfmask.run.plan import Plan
from selfmask.run.result import Spent

MOST = 512
"""So many images at most say what is given up."""


def save_within(
    masks: MaskSet, plan: Plan, path: Path, max_bytes: int, head: dict[str, Tensor], **more: Any
) -> tuple[Spent, dict[str, Tensor]]:
    """Save `masks` in at most `max_bytes`; returns what that took, and the head as it is stored.

    `more`: as for `MaskSet.save`. What is given up is judged on the images held out, else on some that were trained on.
    """
    held = plan.held_out
    judged = at_most(plan.train if held is None else held, MOST, plan.settings.seed)
    before = held_out_right(plan, head)
    try:
        masks.save(path, head=head, max_bytes=max_bytes, images=_batches(plan, judged), **more)
    except SettingsError as error:
        masks.save(path, head=head, **more)
        raise SettingsError(
            f"{error}; the whole mask, {path.stat().st_size:,} bytes, is kept as {one_line(str(path))}"
        ) from error
    mask = load(path)
    record = mask.metadata.get("budget")
    spent = Spent(max_bytes, mask.bytes()["file"], record)
    after = None if record is None or before is None else held_out_right(plan, mask.head)
    if before is not None and after is not None:
        change = Estimate(*paired_interval(after, before))
        spent = Spent(max_bytes, spent.file, record, len(after), change)
    return spent, mask.head


def check_room(plan: Plan, place: Path, max_bytes: int, head: dict[str, Tensor], **more: Any) -> None:
    """Raises `SettingsError` where even what is there before the training does not fit into `max_bytes`.

    Nothing stays at `place`, to which it is written for that; `more`: as for `MaskSet.save`.
    """
    some = at_most(plan.train, plan.fit.batch, plan.settings.seed)
    masks = build_masks(plan)
    try:
        masks.save(place, head=head, max_bytes=max_bytes, images=_batches(plan, some), **more)
    except SettingsError as error:
        raise SettingsError(f"{error}. Nothing was trained yet: start again into a new --out") from error
    finally:
        masks.remove()
        place.unlink(missing_ok=True)


def _batches(plan: Plan, images: ImageSet) -> list[Tensor]:
    recipe, layout = plan.backbone.preprocessing, torch.contiguous_format
    if plan.channels_last:
        layout = torch.channels_last
    views = images.resized(plan.size, recipe.crop, recipe.interpolation)
    device = module_device(plan.backbone.module)
    return [
        recipe.normalise(part.to(device)).contiguous(memory_format=layout)
        for part in views.split(plan.fit.batch)
    ]
