"""Compaction: turning back on the off-weights that do nothing, so that the file shrinks and the network does not mind.

In each tensor the off-weights whose importance (`masking.importance`) is lowest are turned back on. How many is one
number for all tensors, and then, if asked, one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.maskfile.coding import rows_of, shortest_code
from selfmask.masking.importance import Masks, at_bits, per_bit, ranked, restored

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
