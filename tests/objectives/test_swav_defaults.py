"""The chosen settings, at the sizes where they matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.objectives.swav import Swav
from selfmask.objectives.swav_defaults import crops_for, prototypes_for, queue_for


@pytest.mark.parametrize(
    ("images", "wanted"), [(50_000, 500), (5000, 50), (3068, 30), (800, 30), (100, 25), (8, 2), (10**6, 3000)]
)
def test_prototypes(images: int, wanted: int) -> None:
    assert prototypes_for(images).value == wanted


def test_the_papers_queue_at_the_papers_size() -> None:
    assert queue_for(50_000, 500, 64).value == 512


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 100_000), st.integers(2, 512))
def test_queues_are_whole_batches_within_a_quarter_of_the_images(images: int, batch: int) -> None:
    length = queue_for(images, prototypes_for(images).value, batch).value
    assert length % batch == 0
    assert length <= images / 4


def test_crops_are_the_papers_on_large_photographs() -> None:
    crops = crops_for(224, 375).value
    assert (crops.large, crops.small, crops.count, crops.split, crops.least) == (224, 96, (2, 6), 0.14, 0.05)


def test_tiny_photographs_get_no_small_crops() -> None:
    choice = crops_for(64, 32)
    assert choice.value.count == (2, 0)
    assert choice.value.least >= 0.25
    assert "32 px" in choice.why


@settings(deadline=None, max_examples=40)
@given(st.integers(32, 256), st.integers(16, 600))
def test_a_small_crop_shows_at_least_sixteen_pixels(size: int, short_side: int) -> None:
    crops = crops_for(size, short_side).value
    assert 0 < crops.least <= crops.split <= 1
    assert crops.least**0.5 * short_side >= 15.99 or crops.least == 1


def test_swav_says_what_was_chosen() -> None:
    objective = Swav(16, 5000, 64, short_side=32)
    text = "\n".join(objective.lines)
    for part in ("prototypes: 50", "queue: ", "crops: 2 crops of 64", "start kmeans"):
        assert part in text
    assert len(objective.views) == 2
