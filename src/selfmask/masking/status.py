"""What a mask looks like in numbers: weights, density, bits flipped, bytes; per tensor and in total."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from selfmask._common.entropy import entropy_bits
from selfmask.errors import EmptyMaskWarning


@dataclass(frozen=True)
class TensorStatus:
    """One masked tensor. `flipped` counts the bits that differ from the mask before the first step."""

    name: str
    shape: tuple[int, ...]
    weights: int
    on: int
    flipped: int

    @property
    def density(self) -> float:
        """The share of weights on, in [0, 1]; 1 for an empty tensor."""
        return self.on / self.weights if self.weights else 1.0

    @property
    def entropy_bits(self) -> float:
        """N · H(density): the bits that the mask takes if nothing but its density is known."""
        return entropy_bits(self.on, self.weights)


@dataclass(frozen=True)
class Status:
    """All masked tensors of a model; `print(status)` shows the table. `norms`: how many norm weights are trained."""

    tensors: tuple[TensorStatus, ...]
    steps: int
    norms: int = 0

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def on(self) -> int:
        return sum(t.on for t in self.tensors)

    @property
    def off(self) -> int:
        return self.weights - self.on

    @property
    def flipped(self) -> int:
        return sum(t.flipped for t in self.tensors)

    @property
    def density(self) -> float:
        """The share of weights on, in [0, 1]."""
        return self.on / self.weights if self.weights else 1.0

    def warn_if_empty(self, name: str) -> None:
        """Warn (`EmptyMaskWarning`) of the file `name` where steps were taken and nothing came of them."""
        if self.steps and not self.off and not self.norms:
            warnings.warn(
                f"{name}: no weight is off after {self.steps} steps, so the masks change nothing. Take more steps or a "
                "higher rate: with Adam, rates that add up to 4.5 in all",
                EmptyMaskWarning,
                stacklevel=3,
            )

    @property
    def packed_bytes(self) -> int:
        """Bytes of the masks at one bit a weight, each tensor on whole bytes."""
        return sum((t.weights + 7) // 8 for t in self.tensors)

    @property
    def entropy_bytes(self) -> int:
        """Bytes of the masks at the entropy of their densities, tensor by tensor."""
        return math.ceil(sum(t.entropy_bits for t in self.tensors) / 8)

    def as_dict(self) -> dict[str, Any]:
        """The whole status as JSON-able data."""
        return {
            "weights": self.weights,
            "on": self.on,
            "density": self.density,
            "flipped": self.flipped,
            "steps": self.steps,
            "packed_bytes": self.packed_bytes,
            "entropy_bytes": self.entropy_bytes,
            "norms": self.norms,
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "weights": t.weights,
                    "on": t.on,
                    "flipped": t.flipped,
                }
                for t in self.tensors
            ],
        }

    def __str__(self) -> str:
        width = max([len(t.name) for t in self.tensors] + [6])
        lines = [f"{'tensor':<{width}}  {'weights':>11}  {'on':>8}  {'flipped':>9}"]
        lines += [
            f"{t.name:<{width}}  {t.weights:>11,}  {100 * t.density:>7.2f}%  {t.flipped:>9,}"
            for t in self.tensors
        ]
        lines.append(
            f"{'total':<{width}}  {self.weights:>11,}  {100 * self.density:>7.2f}%  {self.flipped:>9,}"
        )
        lines.append(
            f"after {self.steps} steps; {self.packed_bytes:,} bytes at one bit a weight, "
            f"{self.entropy_bytes:,} at the entropy of the densities"
        )
        if self.norms:
            lines.append(f"beside them {self.norms:,} norm weights, a byte each")
        return "\n".join(lines)
