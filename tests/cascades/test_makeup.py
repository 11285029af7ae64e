"""The make-up of clusters, counted a second way."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.cascades.evaluation import make_up
from selfmask.errors import DataError


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 4)), max_size=60))
def test_shares_are_those_of_a_plain_count(images: list[tuple[int, int]]) -> None:
    experts = torch.tensor([expert for expert, _ in images], dtype=torch.int64)
    labels = torch.tensor([label for _, label in images], dtype=torch.int64)
    for cluster in make_up(experts, labels, list("abcde"), 3):
        mine = [label for expert, label in images if expert == cluster.expert]
        counts = Counter(label for label in mine if label >= 0)
        expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert cluster.images == len(mine)
        assert cluster.labelled == sum(counts.values())
        assert cluster.classes == tuple("abcde"[label] for label, _ in expected)
        so_far = 0
        for share, (_, count) in zip(cluster.covered, expected, strict=True):
            so_far += count
            assert share == pytest.approx(so_far / cluster.labelled)


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="an expert and a label"):
        make_up(torch.zeros(3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), ["a", "b"], 1)
