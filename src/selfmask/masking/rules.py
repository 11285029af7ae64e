"""Mask rules: from the scores of one tensor to its mask (PAPER §1 and §4).

A rule is a frozen description; the scores live in the mask set. No rule ever turns a whole tensor off (α would
be 0 and w undefined): where it would, the one weight with the highest score stays on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from selfmask.errors import RunError, SettingsError


@runtime_checkable
class Rule(Protocol):
    """What the mask set asks of a rule."""

    def initial_scores(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """S at step 0, in θ's shape and memory layout; float64 for a float64 θ, else float32."""
        ...

    def mask(self, scores: Tensor, name: str, step: int) -> Tensor:
        """M: bool, in the scores' shape, with at least one weight on unless the tensor is empty."""
        ...

    def describe(self) -> dict[str, Any]:
        """The rule as JSON-able data, for the mask file."""
        ...


def score_dtype(theta: Tensor) -> torch.dtype:
    """Scores are held in float32, or in float64 where θ is."""
    return torch.promote_types(theta.dtype, torch.float32)


@dataclass(frozen=True)
class Threshold:
    """M = 1[S > mu] (PAPER Main Eq. 1): the paper's rule. Every weight starts on.

    Args:
        mu: the threshold. By the paper's theorems `mu` and `start` change nothing that the learning rate does not
            (PAPER §3); they are settings so that the theorems can be checked.
        start: the score that weights start at, 1 in the paper.
        spread: scores are drawn uniformly from [start - spread, start + spread] instead. With 0 (the paper's) and
            an optimizer that moves all scores alike, such as Adam, all that ever cross do so within a few steps of
            each other, on the gradient of a network that the others' crossing has just changed.

    >>> Threshold(spread=0.5).mask(torch.tensor([0.7, -0.1, 1.2]), "conv.weight", step=0)
    tensor([ True, False,  True])
    """

    mu: float = 0.0
    start: float = 1.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        _check_plain("Threshold", mu=self.mu, start=self.start, spread=self.spread)
        if self.spread < 0:
            raise SettingsError(f"Threshold: spread must not be negative, got {self.spread}")
        if not self.start - self.spread > self.mu:
            least = f"{self.start} - {self.spread}" if self.spread else f"{self.start}"
            raise SettingsError(
                f"Threshold: scores start at {least}, not above mu = {self.mu}, so weights would start off; "
                "use start - spread > mu"
            )

    def initial_scores(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        scores = torch.full_like(theta, self.start, dtype=score_dtype(theta), requires_grad=False)
        if self.spread:
            # Drawn on the CPU in float64, so that every device and dtype starts from the same scores.
            drawn = 2 * torch.rand(theta.shape, generator=generator, dtype=torch.float64, device="cpu") - 1
            scores += (self.spread * drawn).to(scores)
        return scores

    def mask(self, scores: Tensor, name: str, step: int) -> Tensor:
        return keep_one_on(scores > self.mu, scores, name)

    def describe(self) -> dict[str, Any]:
        return {"name": "threshold", "mu": self.mu, "start": self.start, "spread": self.spread}


@dataclass(frozen=True)
class Progressive:
    """A density that falls linearly from `start` to `end` over the first `steps` steps (PAPER §4, "progressive").

    `end` is one share for every tensor, or a share for each tensor by name (the densities that another mask found).

    >>> schedule = Progressive(end=0.5, steps=100)
    >>> schedule.at(0), schedule.at(50), schedule.at(200)
    (1.0, 0.75, 0.5)
    """

    end: float | Mapping[str, float]
    steps: int
    start: float = 1.0

    def __post_init__(self) -> None:
        ends = self.end if isinstance(self.end, Mapping) else {"": self.end}
        _check_plain(
            "Progressive",
            start=self.start,
            **{f"end of {name!r}" if name else "end": end for name, end in ends.items()},
        )
        for name, end in ends.items():
            if not (0 < end <= self.start <= 1):
                of = f" for {name!r}" if name else ""
                raise SettingsError(
                    f"Progressive: needs 0 < end <= start <= 1, got end={end}{of}, start={self.start}"
                )
        if self.steps < 1:
            raise SettingsError(f"Progressive: needs at least 1 step, got {self.steps}")

    def at(self, step: int, name: str = "") -> float:
        """The density of tensor `name` after `step` steps, in (0, 1]."""
        end = _found(self.end, name) if isinstance(self.end, Mapping) else self.end
        # Not by the formula at the end: what rounding leaves of start there could be one weight more than `end` says.
        return end if step >= self.steps else self.start + (end - self.start) * (step / self.steps)


@dataclass(frozen=True)
class TopK:
    """The highest scores of each tensor are on: exactly round(density · N) of them, and never fewer than one.

    Args:
        density: one share in (0, 1] for every tensor, a share for each tensor by name (the densities that another
            mask found), or a `Progressive` schedule.
        init: equal scores would be broken by position, so they start unequal, with mean 1: "random", drawn
            uniformly from [0, 2) as edge-popup draws its own, or "magnitude", |θ| / mean|θ|.

    Ties are broken in favour of the earlier weight, so that the mask is the same on every machine.

    >>> TopK(0.5).mask(torch.tensor([0.1, 0.4, 0.2, 0.3]), "conv.weight", step=0)
    tensor([False,  True, False,  True])
    """

    density: float | Mapping[str, float] | Progressive = 0.5
    init: Literal["random", "magnitude"] = "random"

    def __post_init__(self) -> None:
        if isinstance(self.density, Mapping):
            for name, share in self.density.items():
                _check_density(share, f" of {name!r}")
        elif not isinstance(self.density, Progressive):
            _check_density(self.density, "")
        if self.init not in ("random", "magnitude"):
            raise SettingsError(f"TopK: init is 'random' or 'magnitude', got {self.init!r}")

    def initial_scores(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        dtype = score_dtype(theta)
        scores = torch.empty_like(theta, dtype=dtype, requires_grad=False)
        if self.init == "random":
            # Drawn on the CPU in float64, so that every device and dtype starts from the same order.
            drawn = torch.rand(theta.shape, generator=generator, dtype=torch.float64, device="cpu") * 2
            return scores.copy_(drawn)
        size = theta.detach().to(dtype).abs()
        mean = size.mean() if theta.numel() else torch.ones(())
        return scores.copy_(size / mean.clamp_min(torch.finfo(dtype).tiny))

    def density_at(self, name: str, step: int) -> float:
        """The share of tensor `name` that is on after `step` steps."""
        if isinstance(self.density, Progressive):
            return self.density.at(step, name)
        return _found(self.density, name) if isinstance(self.density, Mapping) else self.density

    def count(self, name: str, total: int, step: int) -> int:
        """How many of the tensor's `total` weights are on after `step` steps."""
        return min(total, max(1, round(self.density_at(name, step) * total)))

    def least_density(self, name: str) -> float:
        """The smallest share of tensor `name` that is ever on: that at the end of a schedule."""
        return self.density_at(name, self._last_step())

    def least_count(self, name: str, total: int) -> int:
        """The smallest number of the tensor's `total` weights that is ever on."""
        return self.count(name, total, self._last_step())

    def _last_step(self) -> int:
        return self.density.steps if isinstance(self.density, Progressive) else 0

    def mask(self, scores: Tensor, name: str, step: int) -> Tensor:
        total = scores.numel()
        if total == 0:
            return torch.ones_like(scores, dtype=torch.bool)
        return highest(scores, self.count(name, total, step), name)

    def describe(self) -> dict[str, Any]:
        if isinstance(self.density, Progressive):
            d = self.density
            end = dict(d.end) if isinstance(d.end, Mapping) else d.end
            density: Any = {"start": d.start, "end": end, "steps": d.steps}
        else:
            density = dict(self.density) if isinstance(self.density, Mapping) else self.density
        return {"name": "topk", "density": density, "init": self.init}


def _found(densities: Mapping[str, float], name: str) -> float:
    """The density of one tensor among those that another mask found."""
    if name not in densities:
        raise SettingsError(
            f"TopK: no density is given for {name!r}; the densities name {len(densities)} tensors, "
            f"the first is {next(iter(densities), None)!r}. Were they found on another backbone?"
        )
    return float(densities[name])


def _check_plain(what: str, **values: Any) -> None:
    """A tensor or a number of numpy's would train, and could not be written into the file afterwards."""
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise SettingsError(f"{what}: {name} is a plain number, got {value!r}: take float(…) of it")


def _check_density(share: float, of: str) -> None:
    if not (isinstance(share, int | float) and 0 < share <= 1):
        raise SettingsError(f"TopK: a density{of} is a share in (0, 1], got {share!r}; 50 % is 0.5")


def keep_one_on(mask: Tensor, scores: Tensor, name: str) -> Tensor:
    """`mask`, with its highest-scored weight turned on in place if all were off."""
    if mask.numel() and not bool(mask.any()):
        _check_numbers(scores, name)
        index = int(scores.argmax())
        mask[torch.unravel_index(torch.tensor(index), mask.shape)] = True
    return mask


def highest(scores: Tensor, count: int, name: str) -> Tensor:
    """The `count` highest of `scores` (1 <= count <= N) as a bool mask; ties go to the earlier position."""
    total = scores.numel()
    if count == total:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.reshape(-1)
    cut = flat.kthvalue(total - count + 1).values
    mask = flat > cut
    missing = count - int(mask.sum())
    tied = (flat == cut).nonzero().squeeze(1)[:missing]
    if len(tied) < missing:
        _check_numbers(scores, name)
    mask[tied] = True
    return torch.empty_like(scores, dtype=torch.bool).copy_(mask.view(scores.shape))


def _check_numbers(scores: Tensor, name: str) -> None:
    bad = int(scores.isnan().sum())
    if bad:
        raise RunError(
            f"{bad} of the {scores.numel()} scores of {name!r} are not numbers (NaN), so they have no order and "
            "no mask; go back to the last checkpoint, with a smaller rate"
        )
