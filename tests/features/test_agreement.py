"""Measures without labels, against scikit-learn, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from selfmask.backbones.spec import build
from selfmask.errors import DataError
from selfmask.features.agreement import Agreement, Look, look, nearest
from selfmask.features.rows import Verdict
from selfmask.images.image_set import ImageSet


def images(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet.from_array(pixels)


def seen(found: int, of: int = 100, neighbours: torch.Tensor | None = None) -> Look:
    return Look(
        torch.arange(of) < found, torch.zeros(of, 10, dtype=torch.int64) if neighbours is None else neighbours
    )


def sharing(kept: int, of: int = 100) -> torch.Tensor:
    """Neighbours of which `kept` in ten are the numbers from 0 on."""
    return torch.arange(10).where(torch.arange(10) < kept, 1000 + torch.arange(10)).expand(of, 10)


@given(st.integers(11, 40), st.integers(0, 1000))
def test_the_nearest_are_those_of_scikit_learn(count: int, seed: int) -> None:
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    found = (
        NearestNeighbors(n_neighbors=11, metric="cosine")
        .fit(x.numpy())
        .kneighbors(x.numpy(), return_distance=False)
    )
    expected = [set(row.tolist()) - {at} for at, row in enumerate(found)]
    assert [set(row.tolist()) for row in nearest(x)] == expected


def test_neighbours_need_enough_finite_features() -> None:
    with pytest.raises(DataError, match="11 images or more, got 10"):
        nearest(torch.randn(10, 3))
    with pytest.raises(DataError, match="not finite"):
        nearest(torch.full((20, 3), float("nan")))


def test_a_look_is_repeated_and_goes_by_its_seed() -> None:
    backbone = build("timm:test_resnet", pretrained=False)
    seeds = [look(backbone, images(60), size=32, seed=seed, channels_last=False) for seed in (0, 0, 1)]
    assert torch.equal(seeds[0].found, seeds[1].found)
    assert all(torch.equal(seeds[0].nearest, other.nearest) for other in seeds)
    assert not torch.equal(seeds[0].found, seeds[2].found)
    assert 0 < float(seeds[0].found.float().mean()) < 1


@pytest.mark.parametrize(
    ("found", "kept", "kind"),
    [
        ((40, 60), (5, 5), "better"),
        ((40, 41), (5, 6), "better"),  # neighbours alone
        ((40, 41), (5, 5), "no different"),
        ((60, 40), (5, 6), "worse"),  # views alone
        ((40, 60), (8, 7), "better"),  # an eighth less is not forgetting yet
        ((40, 60), (5, 4), "worse"),  # more views are found, and what was known is forgotten
    ],
)
def test_the_kind(found: tuple[int, int], kept: tuple[int, int], kind: str) -> None:
    before, after = (seen(f, neighbours=sharing(k)) for f, k in zip(found, kept, strict=True))
    agreement = Agreement.of(before, after, sharing(10), larger=96, unseen=True)
    assert agreement.kind == kind
    assert agreement.found == pytest.approx([f / 100 for f in found])
    assert agreement.shared == pytest.approx([k / 10 for k in kept])
    assert agreement.shared_gain is not None
    assert agreement.shared_gain.value == pytest.approx((kept[1] - kept[0]) / 10)


def test_the_interval_of_what_is_shared_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 11, 200)
    after = torch.stack([sharing(int(count), 1)[0] for count in counts])
    found = Agreement.of(
        seen(9, 200, sharing(5, 200)), seen(9, 200, after), sharing(10, 200), larger=96, unseen=True
    )
    change = counts / 10 - 0.5
    margin = 1.96 * change.std(ddof=1) / np.sqrt(200)
    gain = found.shared_gain
    assert gain is not None
    assert (gain.low, gain.high) == pytest.approx((change.mean() - margin, change.mean() + margin))


def test_without_a_larger_view_nothing_is_said_of_neighbours() -> None:
    found = Agreement.of(seen(40), seen(60), None, larger=None, unseen=False)
    assert (found.kind, found.shared, found.larger) == ("better", None, None)
    assert found.sentence == (
        "Told without labels, on 100 images that it was trained on, the masked network finds the other view of 60 % of "
        "them, untouched 40 % (95 % interval of the difference +11.8 to +27.6): that speaks for the mask."
    )


@pytest.mark.parametrize(
    ("labels", "found", "keep"),
    [
        ("better", 40, False), ("no different", 40, True), ("worse", 40, True), ("no different", 70, False),
        ("worse", 70, True), ("not measured", 40, True), ("not measured", 70, False),
    ],
)  # fmt: skip
def test_the_base_is_to_be_kept_unless_labels_or_in_their_stead_this_say_that_it_helped(
    labels: str, found: int, keep: bool
) -> None:
    agreement = Agreement.of(seen(40), seen(found), None, larger=None, unseen=True)
    verdict = agreement.beside(Verdict(labels, "By labels."))  # pyright: ignore[reportArgumentType]
    assert verdict.sentence.endswith("Keep the base.") == keep
    assert verdict.kind == (agreement.kind if labels == "not measured" else labels)
    assert verdict.sentence.startswith("Told" if labels == "not measured" else "By labels. Told")
