"""What an objective is told to bring before it trains."""

from __future__ import annotations

import math

import pytest

from selfmask.features.forecast import LIMITS, forecast


@pytest.mark.parametrize("objective", LIMITS)
def test_a_gain_is_expected_below_the_limit_alone(objective: str) -> None:
    measure, limit = LIMITS[objective]
    said = []
    for share in (math.nextafter(limit, 0), limit):
        # The other measure plays no part.
        shares = {"found": 0.0, "shared": 0.0} | {measure: share}
        found = forecast(objective, shares["found"], shares["shared"], 160)
        assert found is not None
        assert f"less than {100 * limit:.0f} %" in found.sentence
        said.append(found.helps)
    assert said == [True, False]


def test_little_is_expected_where_much_is_shared() -> None:
    said = [forecast("contrast", 0.1, share, 160) for share in (0.5, 0.6, 0.9)]
    assert [one and one.sentence.partition(":")[0] for one in said] == [
        "contrast should help", "contrast may help a little", "contrast may well not help",
    ]  # fmt: skip
    assert [one and one.helps for one in said] == [True, True, False]


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert forecast("supervised", 0.5, 0.5, 160) is None
    assert forecast("contrast", 0.5, None, None) is None, "the network takes no larger views"
    assert forecast("swav", 0.5, None, None) is not None
