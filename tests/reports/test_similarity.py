"""Similarity of masks, against scikit-learn, sets and random masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.reports.similarity import OffBits, cluster_order, similarity

Masks = dict[str, Tensor]


def draw(
    seed: int, density: float = 0.8, shapes: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (2, 2, 3))
) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return {f"t{i}": torch.rand(shape, generator=generator) < density for i, shape in enumerate(shapes)}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1)), min_size=2, max_size=5))
def test_agrees_with_scikit_learn(drawn: list[tuple[int, float]]) -> None:
    several = [draw(seed, density) for seed, density in drawn]
    found = similarity([OffBits.of(masks) for masks in several], [str(i) for i in range(len(several))])
    flat = [np.concatenate([(~mask).flatten().numpy() for mask in masks.values()]) for masks in several]
    for i, j in itertools.product(range(len(several)), repeat=2):
        both_empty = not (flat[i] | flat[j]).any()
        expected = 1.0 if i == j or both_empty else jaccard_score(flat[i], flat[j])
        assert found.jaccard[i, j] == pytest.approx(expected)
        assert found.hamming[i, j] == pytest.approx(np.mean(flat[i] != flat[j]))
    assert sorted(found.order) == list(range(len(several)))


def test_what_chance_gives() -> None:
    """The expected values are met by many independent pairs of masks with exactly these counts."""
    generator = torch.Generator().manual_seed(1)
    off_a, off_b, sizes = (8, 30), (12, 5), (20, 60)

    def shuffled(counts: tuple[int, ...]) -> Masks:
        masks = {}
        for i, (off, size) in enumerate(zip(counts, sizes, strict=True)):
            mask = torch.ones(size, dtype=torch.bool)
            mask[torch.randperm(size, generator=generator)[:off]] = False
            masks[f"t{i}"] = mask
        return masks

    pairs = [similarity([OffBits.of(shuffled(off_a)), OffBits.of(shuffled(off_b))], "ab") for _ in range(400)]
    both = 8 * 12 / 20 + 30 * 5 / 60
    assert pairs[0].expected_jaccard[0, 1] == pytest.approx(both / (8 + 12 + 30 + 5 - both))
    assert pairs[0].expected_hamming[0, 1] == pytest.approx((55 - 2 * both) / 80)
    assert np.mean([p.hamming[0, 1] for p in pairs]) == pytest.approx(
        pairs[0].expected_hamming[0, 1], rel=0.02
    )
    assert np.mean([p.jaccard[0, 1] for p in pairs]) == pytest.approx(
        pairs[0].expected_jaccard[0, 1], rel=0.05
    )


def test_alike_masks_stand_side_by_side() -> None:
    families = [draw(seed) for seed in range(3)]
    several, labels = [], []
    for number, family in itertools.product(range(4), range(3)):
        masks = {name: mask.clone() for name, mask in families[family].items()}
        masks["t1"][number] ^= True
        several.append(masks)
        labels.append(f"family {family}")
    found = similarity([OffBits.of(masks) for masks in several], labels)
    ordered = [labels[i] for i in found.order]
    assert [label for label, _ in itertools.groupby(ordered)] == sorted(set(labels), key=ordered.index)


def test_masks_that_turn_nothing_off_are_alike() -> None:
    found = similarity([OffBits.of(draw(1, 1.0)), OffBits.of(draw(2, 1.0))], "ab")
    assert found.jaccard[0, 1] == found.expected_jaccard[0, 1] == 1
    assert found.hamming[0, 1] == 0


def test_masks_of_two_networks_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"t1, \(7,\) against \(8,\)"):
        similarity([OffBits.of(draw(1)), OffBits.of(draw(1, shapes=((3, 5), (8,), (2, 2, 3))))], "ab")
    with pytest.raises(SettingsError, match="3 labels were given for 1 masks"):
        similarity([OffBits.of(draw(1))], "abc")


def test_one_and_two_masks_need_no_tree() -> None:
    assert cluster_order(np.zeros((1, 1))) == (0,)
    assert cluster_order(np.array([[0, 0.5], [0.5, 0]])) == (0, 1)
