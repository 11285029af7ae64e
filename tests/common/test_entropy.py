"""Binary entropy against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from selfmask._common.entropy import entropy_bits


@pytest.mark.parametrize(("events", "total"), [(0, 10), (10, 10), (3, 10), (1, 1_000_000), (0, 0)])
def test_numbers(events: int, total: int) -> None:
    expected = total * entropy([events / total, 1 - events / total], base=2) if total else 0.0
    found = entropy_bits(events, total)
    assert isinstance(found, float)
    assert found == pytest.approx(expected, abs=1e-12)


def test_arrays_element_by_element() -> None:
    events, total = np.array([0.0, 3.0, 5.0]), np.array([4.0, 10.0, 10.0])
    expected = [entropy_bits(k, n) for k, n in zip(events, total, strict=True)]
    assert entropy_bits(events, total).tolist() == expected
