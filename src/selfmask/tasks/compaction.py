"""Compaction: turning back on the off-weights that do nothing, so that the file shrinks and the network does not mind.

Learning by Adam turns off many weights whose absence changes nothing. Which ones is judged by an importance for each
weight, |θ| or what the features say (`sensitivity`): in each tensor the off-weights whose importance is lowest are
turned back on. How many is one number for all tensors, and then, if asked, one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfmask._common.entropy import entropy_bits
from selfmask.errors import SettingsError
from selfmask.maskfile.coding import rows_of, shortest_code

Masks = dict[str, Tensor]
Score = Callable[[Masks], float]


@dataclass(frozen=True)
class Point:
    """One point of the rate-distortion curve.

    Attributes:
        share: the share of the off-weights that were turned back on, in [0, 1].
        bits: the coded masks' bits for each masked weight.
        score: what the scoring function gave.
    """

    share: float
    bits: float
    score: float

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {"share": self.share, "bits": self.bits, "score": self.score}


@dataclass(frozen=True)
class Compaction:
    """The smallest masks within the tolerance, and every point that was tried on the way."""

    masks: Masks
    chosen: Point
    before: Point
    curve: tuple[Point, ...]


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
        model: the adapted network (masks applied), images to features; its parameters keep their values, and their
            gradients are cleared.
        theta: the base weights by parameter name.
        batches: normalised images, float32 (B, 3, H, W).
        seed: of the random signs.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in theta]
    required = [p.requires_grad for p in chosen]
    squares = {name: torch.zeros(weight.shape) for name, weight in theta.items()}
    training = model.training
    model.eval()
    images = 0
    try:
        for p in chosen:
            p.requires_grad_(True)
        for batch in batches:
            features = model(batch)
            signs = torch.randint(0, 2, features.shape, generator=random).to(features) * 2 - 1
            gradients = torch.autograd.grad((features * signs).sum(), chosen)
            images += len(batch)
            for (name, total), gradient in zip(squares.items(), gradients, strict=True):
                total += (gradient * theta[name].to(gradient)).square().float().cpu()
    finally:
        for p, old in zip(chosen, required, strict=True):
            p.requires_grad_(old)
        model.train(training)
    if images == 0:
        raise SettingsError("sensitivity: there are no images to judge the weights by")
    return {name: (total / images).sqrt() for name, total in squares.items()}


def per_bit(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importances for each bit of the file that turning the weight on would save.

    An off-weight of a tensor with few of them takes more bits: about H(p) / p, p the tensor's share off.
    """
    found = {}
    for name, mask in masks.items():
        off = int((~mask).sum())
        bits = entropy_bits(off, mask.numel()) / off if off else 1.0
        value = importance[name]
        found[name] = torch.where(value > 0, value / bits, value * bits)
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


def coded_bits(masks: Mapping[str, Tensor]) -> float:
    """About the bits for each masked weight that the file takes."""
    bits = 0.0
    for mask in masks.values():
        bits += shortest_code(mask.cpu().contiguous().numpy().reshape(rows_of(mask.shape))).bits
    return bits / max(sum(m.numel() for m in masks.values()), 1)


def to_bits(
    masks: Mapping[str, Tensor],
    importance: Mapping[str, Tensor],
    score: Score,
    *,
    share: float,
) -> Compaction:
    """The masks with `share` of their bits (see `at_bits`), whatever that costs; arguments as for `smallest`."""
    chosen = at_bits(masks, per_bit(masks, importance), share)
    before, after = _point(masks, dict(masks), score), _point(masks, chosen, score)
    return Compaction(chosen, after, before, (before, after))


def smallest(
    masks: Mapping[str, Tensor],
    importance: Mapping[str, Tensor],
    score: Score,
    *,
    max_drop: float,
    steps: int = 6,
    refine: int = 0,
) -> Compaction:
    """The smallest masks found whose score is at most `max_drop` below that of `masks`.

    Args:
        masks: bool by name.
        importance: of each weight, >= 0, in any one unit; what counts is the importance for each bit saved.
        score: masks to a figure, higher is better, in the unit of `max_drop`. It is called about `steps` + `refine`
            times, so judge on images that the final report does not use.
        max_drop: >= 0.
        steps: halvings of the share that is turned back on.
        refine: after that, in so many of the costliest tensors half of what is still off is tried on.

    Raises:
        SettingsError: a setting is out of range.
    """
    if not max_drop >= 0:
        raise SettingsError(f"max_drop is 0 or more, got {max_drop}")
    if steps < 1 or refine < 0:
        raise SettingsError(f"compaction takes steps >= 1 and refine >= 0, got {steps} and {refine}")
    ranks = ranked(masks, per_bit(masks, importance))
    before = _point(masks, dict(masks), score)
    floor = before.score - max_drop
    tried = [before]
    best, chosen = dict(masks), before
    low, high = 0.0, 1.0
    for _ in range(steps):
        cut = (low + high) / 2
        candidate = restored(masks, ranks, cut)
        point = _point(masks, candidate, score)
        tried.append(point)
        low, high = (cut, high) if point.score >= floor else (low, cut)
        # Where most weights are off, the first that come back make a mask longer.
        if point.score >= floor and point.bits < chosen.bits:
            best, chosen = candidate, point
    off = sorted(best, key=lambda name: int((~best[name]).sum()), reverse=True)
    for name in off[:refine]:
        left = ranks[name][~best[name]]
        if len(left) < 2:
            continue
        candidate = best | {name: best[name] | (ranks[name] < left.median())}
        point = _point(masks, candidate, score)
        tried.append(point)
        if point.score >= floor and point.bits < chosen.bits:
            best, chosen = candidate, point
    return Compaction(best, chosen, before, tuple(tried))


def _point(masks: Mapping[str, Tensor], candidate: Masks, score: Score) -> Point:
    before = sum(int((~m).sum()) for m in masks.values())
    after = sum(int((~m).sum()) for m in candidate.values())
    return Point(1 - after / before if before else 0.0, coded_bits(candidate), float(score(candidate)))
