"""Splits and label budgets: sizes, proportions, seeds, nesting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import DataError, SettingsError
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.opening import open_data
from selfmask.images.splits import in_proportion, label_budget, stratified

labels_of = st.lists(st.integers(-1, 4), min_size=1, max_size=120).map(torch.tensor)


def blank(labels: torch.Tensor) -> ImageSet:
    return ImageSet.from_array(torch.zeros((len(labels), 3, 2, 2), dtype=torch.uint8), labels)


@settings(deadline=None, max_examples=60)
@given(labels=labels_of, share=st.floats(0.05, 0.9), seed=st.integers(0, 5))
def test_stratified_divides_each_class_in_proportion(labels: torch.Tensor, share: float, seed: int) -> None:
    rest, held = stratified(labels, share, seed)
    assert sorted(torch.cat([rest, held]).tolist()) == list(range(len(labels)))
    assert (labels[held] >= 0).all()
    for label in labels[labels >= 0].unique().tolist():
        count = int((labels == label).sum())
        taken = int((labels[held] == label).sum())
        assert taken <= count - 1
        assert abs(taken - share * count) <= 1 + 1e-9
        if count > 1:
            assert taken >= 1
    again = stratified(labels, share, seed)
    assert torch.equal(rest, again[0])
    assert torch.equal(held, again[1])


@settings(deadline=None, max_examples=60)
@given(labels=labels_of, count=st.integers(1, 120), seed=st.integers(0, 5))
def test_so_many_are_drawn_in_proportion(labels: torch.Tensor, count: int, seed: int) -> None:
    known = int((labels != UNLABELLED).sum())
    found = in_proportion(labels, count, seed)
    assert len(found) == len(found.unique()) == min(count, known)
    classes, counts = torch.unique(labels[labels != UNLABELLED], return_counts=True)
    if count >= len(classes):
        assert torch.equal(labels[found].unique(), classes)
    for label, there in zip(classes.tolist(), counts.tolist(), strict=True):
        own = int((labels[found] == label).sum())
        assert own <= there
        if counts.min() * count >= known:  # nobody had to be given one
            assert abs(own - there * len(found) / known) < 1


def test_stratified_draws_by_seed() -> None:
    assert stratified(torch.tensor([0, 0, 1, 1]), 0.5, -1)[0].shape == (2,)
    labels = torch.arange(10).repeat(50)
    held = [stratified(labels, 0.2, seed)[1].tolist() for seed in (0, 1)]
    assert len(held[0]) == len(held[1]) == 100
    assert held[0] != held[1]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_stratified_refuses_a_share_that_is_none(share: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        stratified(torch.zeros(4, dtype=torch.int64), share, 0)


def test_digits_are_split_as_promised() -> None:
    splits = open_data("digits")
    assert list(splits.parts()) == ["train", "test"]
    train, test = splits.parts().values()
    assert (len(train), len(test)) == (1000, 797)
    assert train.classes == tuple("0123456789")
    assert not train.flips
    assert set(train.names).isdisjoint(test.names)
    assert (torch.bincount(train.labels) - torch.bincount(test.labels) * 1000 / 797).abs().max() < 2
    assert train.image(0).shape == (3, 8, 8)
    pixels = torch.stack([train.image(k) for k in range(200)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert open_data("digits", seed=1).train.fingerprint() != train.fingerprint()


@settings(deadline=None, max_examples=40)
@given(labels=labels_of.filter(lambda labels: bool((labels >= 0).any())), seed=st.integers(0, 3))
def test_a_budget_keeps_so_many_labels_and_all_images(labels: torch.Tensor, seed: int) -> None:
    images = blank(labels)
    kept_before: set[int] = set()
    for budget, wanted in (("1 per class", 1), ("3 per class", 3), ("7 per class", 7)):
        kept = label_budget(images, budget, seed).labels
        assert len(kept) == len(labels)
        assert all(kept[k] in (-1, labels[k]) for k in range(len(labels)))
        for label in labels[labels >= 0].unique().tolist():
            assert int((kept == label).sum()) == min(wanted, int((labels == label).sum()))
        now = set((kept >= 0).nonzero().flatten().tolist())
        assert kept_before <= now
        kept_before = now


def test_budgets_in_percent() -> None:
    images = blank(torch.tensor([0] * 200 + [1] * 40 + [-1] * 9))
    assert torch.bincount(label_budget(images, "10 %").labelled().labels).tolist() == [20, 4]
    assert torch.bincount(label_budget(images, "0.25%").labelled().labels).tolist() == [1, 1]
    assert int((label_budget(images, "10%").labels == -1).sum()) == 249 - 24
    assert label_budget(images, "all") is images


@pytest.mark.parametrize("budget", ["", "five", "0 per class", "0 %", "101 %", "-3 per class", "5"])
def test_a_budget_in_other_words_is_refused(budget: str) -> None:
    with pytest.raises(SettingsError, match="5 per class"):
        label_budget(blank(torch.tensor([0, 1])), budget)


def test_a_budget_needs_labels() -> None:
    with pytest.raises(DataError, match="no labels"):
        label_budget(blank(torch.tensor([-1, -1])), "5 per class")


def test_another_seed_draws_others() -> None:
    labels = torch.arange(60) % 3
    assert not torch.equal(in_proportion(labels, 30, 0), in_proportion(labels, 30, 1))
    assert torch.equal(in_proportion(labels, 30, 1), in_proportion(labels, 30, 1))
