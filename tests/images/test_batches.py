"""The order of training images, and the thread that makes batches ahead."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.images.batches import Batches, RawBatch, batch_indices, steps_per_epoch
from selfmask.images.image_set import ImageSet
from selfmask.images.views import Augment, light

VIEWS = (light(8), Augment(6, jitter=1.0, brightness=0.5, blur=0.5))


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (23, 3, 9, 11), dtype=torch.uint8)
    return ImageSet.from_array(pixels, torch.arange(23) % 4 - 1, classes=["a", "b", "c"])


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("selfmask")]


def _interrupted(batches: Batches) -> None:
    for _ in batches:
        raise KeyboardInterrupt


def same(a: RawBatch, b: RawBatch) -> bool:
    pairs = zip([*a.views, a.labels, a.indices], [*b.views, b.labels, b.indices], strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 9), drop_last=st.booleans())
def test_every_epoch_visits_each_image_at_most_once(n: int, batch: int, seed: int, drop_last: bool) -> None:
    per_epoch = steps_per_epoch(n, batch, drop_last)
    steps = range(3 * per_epoch)
    drawn = [batch_indices(n, batch, seed, step, drop_last) for step in steps]
    if drop_last:
        assert {len(indices) for indices in drawn} == {batch}
    if drop_last and n < batch:
        counts = torch.bincount(torch.cat(drawn), minlength=n)
        assert counts.max() - counts.min() <= 1
        return
    for epoch in range(3):
        seen = torch.cat(drawn[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(seen) == (n // batch * batch if drop_last else n)
        assert len(seen.unique()) == len(seen)


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = {tuple(batch_indices(50, 50, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_batches_hold_what_was_asked_for(images: ImageSet) -> None:
    with Batches(images, VIEWS, batch=5, seed=3, stop=9) as batches:
        made = list(batches)
    assert [step for step, _ in made] == list(range(9))
    for step, batch in made:
        assert torch.equal(batch.indices, batch_indices(23, 5, 3, step))
        assert torch.equal(batch.labels, images.labels[batch.indices])
        assert [tuple(view.shape) for view in batch.views] == [(5, 3, 8, 8), (5, 3, 6, 6)]


def test_starting_later_ahead_or_in_parallel_changes_nothing(images: ImageSet) -> None:
    whole = dict(Batches(images, VIEWS, batch=6, seed=1, stop=8))
    choices: list[dict[str, Any]] = [{"start": 5}, {"ahead": 5}, {"workers": 3}, {"start": 7, "workers": 2}]
    for options in choices:
        for step, batch in Batches(images, VIEWS, batch=6, seed=1, stop=8, **options):
            assert same(batch, whole[step])
    assert not same(dict(Batches(images, VIEWS, batch=6, seed=2, stop=1))[0], whole[0])
    assert not same(whole[0], whole[3])


def test_an_image_is_seen_differently_each_time(images: ImageSet) -> None:
    one = images.subset([0])
    made = [batch.views[0][0] for _, batch in Batches(one, (light(8),) * 2, batch=1, seed=0, stop=6)]
    assert len({tuple(view.flatten().tolist()) for view in made}) == 6
    _, batch = next(iter(Batches(one, (light(8),) * 2, batch=1, seed=0)))
    assert not torch.equal(*batch.views)


def test_processes_share_a_batch_without_overlap(images: ImageSet) -> None:
    whole = dict(Batches(images, VIEWS, batch=6, seed=1, stop=4))
    parts = [dict(Batches(images, VIEWS, batch=6, seed=1, stop=4, rank=r, world=3)) for r in range(3)]
    for step, batch in whole.items():
        for k in range(len(VIEWS)):
            assert torch.equal(torch.cat([part[step].views[k] for part in parts]), batch.views[k])
        assert torch.equal(torch.cat([part[step].indices for part in parts]), batch.indices)


def test_the_thread_ends_with_the_loop(images: ImageSet) -> None:
    assert alive() == []
    for _ in Batches(images, VIEWS, batch=4, seed=0, stop=3):
        pass
    assert alive() == []
    for step, _ in Batches(images, VIEWS, batch=4, seed=0):
        if step == 2:
            break
    assert alive() == []
    batches = Batches(images, VIEWS, batch=4, seed=0, workers=2)
    stream = iter(batches)
    next(stream)
    batches.close()
    batches.close()
    assert alive() == []
    with pytest.raises(KeyboardInterrupt), Batches(images, VIEWS, batch=4, seed=0) as batches:
        _interrupted(batches)
    assert alive() == []


def test_closing_from_another_thread_ends_the_loop(images: ImageSet) -> None:
    batches = Batches(images, VIEWS, batch=4, seed=0)
    for step, _ in batches:
        if step == 1:
            closer = threading.Thread(target=batches.close)
            closer.start()
            closer.join()
    assert alive() == []


def test_no_more_is_made_than_was_asked_for(images: ImageSet) -> None:
    made = []

    class Counting(Batches):
        def make(self, step: int, pool: object = None) -> RawBatch:
            made.append(step)
            return super().make(step)

    with Counting(images, VIEWS, batch=4, seed=0, ahead=2) as batches:
        stream = iter(batches)
        next(stream)
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2, 3]  # one taken, two ready, one waiting for room


def test_errors_in_the_thread_reach_the_loop() -> None:
    class Broken:
        def __len__(self) -> int:
            return 8

        def read(self, position: int) -> Tensor:
            if position == 5:
                raise DataError("image 5 went missing")
            return torch.zeros((3, 4, 4), dtype=torch.uint8)

    images = ImageSet(Broken(), names=[str(k) for k in range(8)], labels=None, name="broken")
    with pytest.raises(DataError, match="image 5"):
        list(Batches(images, (light(4),), batch=2, seed=0, stop=4))
    assert alive() == []


def test_impossible_batches_are_refused(images: ImageSet) -> None:
    mistakes: list[dict[str, Any]] = [{"batch": 0}, {"batch": 5, "world": 2}, {"batch": 4, "ahead": 0}]
    for wrong in [*mistakes, {"batch": 4, "rank": 1}]:
        with pytest.raises(SettingsError):
            Batches(images, VIEWS, seed=0, **wrong)
    with pytest.raises(DataError, match="no images"):
        Batches(images.subset([]), VIEWS, batch=2, seed=0)
    with pytest.raises(SettingsError, match="step"):
        batch_indices(5, 2, 0, -1)
    batches = Batches(images, VIEWS, batch=4, seed=0, stop=1)
    list(batches)
    with pytest.raises(DataError, match="already"):
        list(batches)
