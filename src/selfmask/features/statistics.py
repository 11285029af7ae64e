"""The row "statistics only": how much of a gain comes from moved running statistics and not from masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selfmask.errors import DataError, SettingsError
from selfmask.features.features import module_device, view_batches

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet

# A running statistic of momentum 0.1 (torch's default) forgets its start as 0.9^steps: 0.5 % are left after 50.
MIN_STEPS = 50
MAX_STEPS = 500


@contextmanager
def moved_statistics(
    backbone: Backbone,
    images: ImageSet,
    *,
    size: int | None = None,
    batch_size: int = 64,
    steps: int | None = None,
    seed: int = 0,
    batches: Iterable[Tensor] | None = None,
    module: nn.Module | None = None,
) -> Iterator[int]:
    """Inside the block the module's running statistics have moved to `images`; after it every buffer is as before.

    Forward passes in training mode, no mask, no gradient, no weight changed. `steps` batches of `batch_size` images
    in a seeded order: by default one pass over the images, but at least 50 and at most 500 steps. A training run
    hands over its own normalised `batches` (B, 3, H, W) instead, so that the only thing this row lacks is the mask.
    Yields the number of tensors that moved: 0 for a network without running statistics (nothing is run then).

    The buffers are restored bit for bit and every sub-module's mode is put back, whatever is raised in the block.
    Raises `DataError` for fewer than two images: a batch needs a variance.
    """
    if batch_size < 2 or (steps is not None and steps < 1):
        raise SettingsError(f"needs batch_size ≥ 2 and steps ≥ 1, got batch_size={batch_size}, steps={steps}")
    module = backbone.module if module is None else module
    buffers = dict(module.named_buffers())
    saved = {name: buffer.detach().clone() for name, buffer in buffers.items()}
    try:
        if _has_running_statistics(module):
            if batches is None:
                batches = _plain_batches(backbone, images, size, batch_size, steps, seed)
            _pass_in_training_mode(module, batches, seed)
        moved = dict(module.named_buffers())
        yield sum(not torch.equal(moved[name], old) for name, old in saved.items() if old.is_floating_point())
    finally:
        with torch.no_grad():
            for name, old in saved.items():
                part, _, own = name.rpartition(".")
                module.get_submodule(part)._buffers[own] = buffers[name]  # it may have been given a new one
                buffers[name].copy_(old)


def _has_running_statistics(module: nn.Module) -> bool:
    return any(getattr(part, "running_mean", None) is not None for part in module.modules())


def _pass_in_training_mode(module: nn.Module, batches: Iterable[Tensor], seed: int) -> None:
    modes = [(part, part.training) for part in module.modules()]
    device = module_device(module)
    cuda = [device] if device.type == "cuda" else []
    module.train()
    try:
        # Dropout draws from torch's own generator: forked, so that the row changes nothing that comes after it.
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            torch.manual_seed(seed)
            for batch in batches:
                module(batch.to(device))
    finally:
        for part, training in modes:
            part.training = training


def _plain_batches(
    backbone: Backbone, images: ImageSet, size: int | None, batch_size: int, steps: int | None, seed: int
) -> Iterator[Tensor]:
    count = len(images)
    if count < 2:
        raise DataError(f"running statistics need at least 2 images to move to, got {count}")
    batch_size = min(batch_size, count)
    per_pass = count // batch_size
    if steps is None:
        steps = min(max(per_pass, MIN_STEPS), MAX_STEPS)
    generator = torch.Generator().manual_seed(seed)
    passes = -(-steps // per_pass)
    # Whole batches only: a last batch of one or two images would pull the statistics to itself.
    order = torch.cat(
        [torch.randperm(count, generator=generator)[: per_pass * batch_size] for _ in range(passes)]
    )
    for batch in view_batches(
        backbone, images, size, batch_size, order[: steps * batch_size], what="statistics"
    ):
        yield backbone.preprocessing.normalise(batch)
