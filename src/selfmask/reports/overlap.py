"""How much of what two masks switch off is the same, and how much of it chance alone would make the same.

Two masks that each switch off a tenth agree on four fifths of their bits by chance, so each figure has its expected
value for independent masks of the same densities, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Overlap:
    """Counts of one tensor's weights, or of several tensors'.

    Attributes:
        total: the weights.
        off_a, off_b: how many of them each mask switches off.
        off_both: how many both switch off.
        off_both_by_chance: how many both would, had each drawn its own at random within every tensor.
    """

    total: int
    off_a: int
    off_b: int
    off_both: int
    off_both_by_chance: float

    @classmethod
    def of_tensor(cls, total: int, off_a: int, off_b: int, off_both: int) -> Overlap:
        """The overlap in one tensor of `total` weights."""
        return cls(total, off_a, off_b, off_both, off_a * off_b / total if total else 0.0)

    @classmethod
    def over(cls, several: Iterable[Overlap]) -> Overlap:
        """The overlap in several tensors together."""
        parts = tuple(several)
        return cls(*(sum(getattr(part, field) for part in parts) for field in cls.__dataclass_fields__))

    @property
    def hamming(self) -> int:
        """The number of weights that are on in one mask and off in the other."""
        return self.off_a + self.off_b - 2 * self.off_both

    @property
    def expected_hamming(self) -> float:
        """`hamming` of independent masks of the same densities (exact)."""
        return self.off_a + self.off_b - 2 * self.off_both_by_chance

    @property
    def jaccard(self) -> float:
        """Off in both over off in either, in [0, 1]; 1 where nothing is off in either."""
        return self._share(self.off_both)

    @property
    def expected_jaccard(self) -> float:
        """`jaccard` of independent masks of the same densities (the ratio of the expected counts)."""
        return self._share(self.off_both_by_chance)

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        derived = {
            "hamming": self.hamming,
            "jaccard": self.jaccard,
            "expected_jaccard": self.expected_jaccard,
        }
        return {**asdict(self), **derived}

    def _share(self, both: float) -> float:
        either = self.off_a + self.off_b - both
        return both / either if either else 1.0
