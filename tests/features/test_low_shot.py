"""Label budgets: stratified, nested, rounded up; and the protocol's points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import SettingsError
from selfmask.features.low_shot import SHARES, label_share, low_shot


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=300), st.integers(0, 99))
def test_shares_are_stratified_nested_and_leave_no_class_out(labels: list[int], seed: int) -> None:
    y = torch.tensor(labels)
    larger = set(range(len(labels)))
    chosen = torch.arange(0)
    for share in (1.0, *SHARES):
        chosen = label_share(y, share, seed)
        assert set(chosen.tolist()) <= larger
        larger = set(chosen.tolist())
        assert chosen.tolist() == sorted(larger)
        for value in set(labels) - {-1}:
            count = int((y == value).sum())
            kept = int((y[chosen] == value).sum())
            assert max(1, share * count - 1e-6) <= kept < share * count + 1
    assert not bool((y[chosen] == -1).any())


def test_points_improve_with_labels() -> None:
    means = torch.randn(4, 20)
    y = torch.arange(1000) % 4
    x = means[y] + 2.0 * torch.randn(1000, 20)
    points = low_shot(x[:800], y[:800], x[800:], y[800:], shares=(0.5, 0.0025), seeds=(0, 1))
    assert [point.labels for point in points] == [400, 400, 4, 4]
    assert min(point.accuracy for point in points[:2]) > max(point.accuracy for point in points[2:])
    assert all(point.low < point.accuracy < point.high for point in points)
    assert points[0].to_json()["share"] == 0.5


@pytest.mark.parametrize("share", [0.0, 1.1, -1])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"\(0, 1\]"):
        label_share(torch.zeros(3, dtype=torch.int64), share, 0)
