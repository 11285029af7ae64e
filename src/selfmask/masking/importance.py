"""Which of the weights that are off matter least: an importance for each, and masks with the least of them back on.

Learning by Adam turns off many weights whose absence changes nothing. Importance is |θ| or what the features say
(`sensitivity`); what counts is the importance for each bit of the file that turning the weight on saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from selfmask._common.entropy import entropy_bits
from selfmask._common.modes import eval_mode
from selfmask.errors import SettingsError

Masks = dict[str, Tensor]


def restored(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor], cut: float) -> Masks:
    """The masks with every off-weight turned back on whose importance is below `cut`.

    At least one weight of each tensor was on before, so each is still a valid mask. `importance` is in one unit for all
    tensors (see `ranked`).
    """
    return {name: mask | (importance[name] < cut) for name, mask in masks.items()}


def by_magnitude(theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each weight the share of its tensor's weights with a smaller |θ|, in [0, 1): the quantile of |θ|."""
    found = {}
    for name, weight in theta.items():
        size = weight.detach().abs().float().reshape(-1)
        ordered = size.sort().values
        rank = torch.searchsorted(ordered, size)
        found[name] = (rank / max(len(size), 1)).reshape(weight.shape).cpu()
    return found


def sensitivity(
    model: nn.Module, theta: Mapping[str, Tensor], batches: Iterable[Tensor], *, seed: int = 0
) -> dict[str, Tensor]:
    """How much the features would change with each weight's bit: the root of E[(θ · ∂(v·f)/∂w)²], float32 on the CPU.

    v is a random sign for each image and feature, so one backward pass a batch estimates the sum over the images of
    the squared change of the features f to first order. No labels are needed.

    Args:
        model: the adapted network (masks applied), images to features; its parameters and their gradients stay as
            they are.
        theta: the base weights by parameter name.
        batches: normalised images, float32 (B, 3, H, W).
        seed: of the random signs.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in theta]
    required = [p.requires_grad for p in chosen]
    squares = {name: torch.zeros(weight.shape, device="cpu") for name, weight in theta.items()}
    images = 0
    try:
        for p in chosen:
            p.requires_grad_(True)
        with torch.enable_grad(), eval_mode(model):
            for batch in batches:
                features = model(batch)
                signs = (
                    torch.randint(0, 2, features.shape, generator=random, device="cpu").to(features) * 2 - 1
                )
                # What the forward pass does not use has no gradient, and moves nothing.
                gradients = torch.autograd.grad((features * signs).sum(), chosen, allow_unused=True)
                images += len(batch)
                for (name, total), gradient in zip(squares.items(), gradients, strict=True):
                    if gradient is None:
                        continue
                    change = gradient.float() * theta[name].to(gradient.device).float()
                    total += change.square().cpu()
    finally:
        for p, old in zip(chosen, required, strict=True):
            p.requires_grad_(old)
    if images == 0:
        raise SettingsError("sensitivity: there are no images to judge the weights by")
    return {name: (total / images).sqrt() for name, total in squares.items()}


def per_bit(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importances, 0 or more, for each bit of the file that turning the weight on would save.

    An off-weight of a tensor with few of them takes more bits: about H(p) / p, p the tensor's share off.
    """
    found = {}
    for name, mask in masks.items():
        off = int((~mask).sum())
        bits = entropy_bits(off, mask.numel()) / off if off else 1.0
        found[name] = importance[name] / bits
    return found


def at_bits(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor], share: float) -> Masks:
    """The masks with so many of the least important off-weights turned on that `share` of the bits is left.

    Bits are the entropy of each tensor's bits, Σ N·H(p), which is close to what the file takes. The share is met from
    below. Raises `SettingsError` where it is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise SettingsError(f"the share of the bits to keep lies in (0, 1], got {share}")
    ranks = ranked(masks, importance)
    sorted_ranks = {name: ranks[name][~mask].sort().values for name, mask in masks.items()}

    def bits(cut: float) -> float:
        return sum(
            entropy_bits(int((values >= cut).sum()), masks[name].numel())
            for name, values in sorted_ranks.items()
        )

    before = bits(0.0)
    low, high = 0.0, 1.0
    if share == 1:
        return dict(masks)
    for _ in range(24):
        cut = (low + high) / 2
        low, high = (cut, high) if bits(cut) > share * before else (low, cut)
    return restored(masks, ranks, high)


def ranked(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importances as ranks among all off-weights of all tensors, in [0, 1): `cut` is then the share turned back on."""
    values = torch.cat([importance[name][~mask].reshape(-1) for name, mask in masks.items()])
    ordered = values.sort().values
    amount = max(len(values), 1)
    return {name: (torch.searchsorted(ordered, importance[name].contiguous()) / amount) for name in masks}
