"""Intervals against Wilson's formula, worked examples and simulated coverage."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import DataError
from selfmask.features.intervals import accuracy_interval, paired_interval


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.data())
def test_accuracy_interval_is_wilsons(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    accuracy, low, high = accuracy_interval(torch.arange(total) < right)
    z, rate = 1.959963984540054, right / total
    centre = rate + z**2 / (2 * total)
    half = z * math.sqrt(rate * (1 - rate) / total + z**2 / (4 * total**2))
    assert accuracy == rate
    assert low == pytest.approx((centre - half) / (1 + z**2 / total) if right else 0, abs=1e-12)
    assert high == pytest.approx((centre + half) / (1 + z**2 / total) if right < total else 1, abs=1e-12)
    assert 0 <= low <= accuracy <= high <= 1


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # From Newcombe 1998.
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),
        # By hand: Wilson at 30 of 30 reaches down to 30 / (30 + z²); twice that gap, squared and added.
        ((0, 30, 0, 0), (1.0, 1 - 2**0.5 * (1 - 30 / 33.8414588), 1.0)),
    ],
)
def test_paired_interval_gives_worked_examples(
    cells: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    assert paired_interval(*answers(*cells)) == pytest.approx(expected, abs=6e-5)


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(0, 200)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_interval_is_antisymmetric_and_holds_the_difference(cells: tuple[int, ...]) -> None:
    a, b = answers(*cells)
    difference, low, high = paired_interval(a, b)
    assert -1 <= low <= difference <= high <= 1
    assert paired_interval(b, a) == pytest.approx((-difference, -high, -low), abs=1e-12)
    assert difference == pytest.approx((cells[1] - cells[2]) / sum(cells))


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0))
def test_the_paired_interval_is_newcombe_s_tenth(cells: tuple[int, ...]) -> None:
    """His formula once more, with scipy's quantile: e and f right by both and by neither, n/2 off e·h − f·g above 0."""
    both, only_a, only_b, neither = cells
    n = sum(cells)
    z = float(scipy.stats.norm.ppf(0.975))

    def wilson(right: int) -> tuple[float, float]:
        centre, half = 2 * right + z * z, z * math.sqrt(z * z + 4 * right * (1 - right / n))
        return (centre - half) / (2 * (n + z * z)), (centre + half) / (2 * (n + z * z))

    p1, p2 = (both + only_a) / n, (both + only_b) / n
    (l1, u1), (l2, u2) = wilson(both + only_a), wilson(both + only_b)
    table = both * neither - only_a * only_b
    table = max(table - n / 2, 0) if table > 0 else table
    below = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = table / math.sqrt(below) if below else 0.0
    low = p1 - p2 - math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = p1 - p2 + math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    assert paired_interval(*answers(*cells)) == pytest.approx((p1 - p2, max(low, -1), min(high, 1)), abs=1e-9)


def test_pairing_narrows_the_interval_and_covers_as_promised() -> None:
    generator = torch.Generator().manual_seed(0)
    hits, trials, count = 0, 2000, 200
    low, high = 0.0, 0.0
    for _ in range(trials):
        cell = torch.multinomial(
            torch.tensor([0.6, 0.12, 0.05, 0.23]), count, replacement=True, generator=generator
        )
        _, low, high = paired_interval(cell < 2, (cell == 0) | (cell == 2))
        hits += low <= 0.07 <= high
    assert 0.935 < hits / trials < 0.97
    assert high - low < 0.15  # two separate Wilson intervals of these accuracies are 0.13 wide each


def test_intervals_refuse_what_they_cannot_count() -> None:
    with pytest.raises(DataError, match="at least one test image"):
        accuracy_interval(torch.zeros(0, dtype=torch.bool))
    with pytest.raises(DataError, match="bool tensor"):
        accuracy_interval(torch.ones(3))
    with pytest.raises(DataError, match="same images"):
        paired_interval(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
