"""The queue: every job is given out once, in order within a mask, and nobody waits longer than was said."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import SettingsError
from selfmask.serve.queue import MaskQueue, QueueClosedError, QueueFullError

BATCH_SECONDS = 1.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Seen:
    """A job as the test knows it."""

    number: int
    mask: str
    images: int
    came: float
    answer: Future[Any]
    older: int = 0
    out: float | None = None
    cancelled: bool = False
    batch: list[int] = field(default_factory=list)


ARRIVAL = st.tuples(st.sampled_from("aaaaabbcd"), st.integers(1, 9), st.sampled_from([0, 0, 0.1, 0.7, 3]))
STEP = st.one_of(ARRIVAL, ARRIVAL, st.just("take"), st.tuples(st.just("cancel"), st.integers(0, 30)))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(STEP, max_size=60), st.integers(9, 40), st.integers(1, 12), st.sampled_from([0.0, 0.5, 2.0, 5.0])
)
def test_any_order_of_arrival(steps: list[Any], length: int, batch: int, patience: float) -> None:
    clock = Clock()
    queue: MaskQueue[Seen] = MaskQueue(length, batch, patience, clock)
    waiting: list[Seen] = []
    accepted: list[Seen] = []

    def take() -> None:
        alive = [one for one in waiting if not one.cancelled]
        if not alive:
            return
        jobs = queue.take()
        assert jobs
        ours = [job.work for job in jobs]
        assert len({one.mask for one in ours}) == 1
        assert sum(one.images for one in ours) <= batch or len(ours) == 1
        assert not any(one.cancelled or one.out is not None for one in ours)
        late = clock.now - alive[0].came >= patience
        if late and waiting[0] is alive[0]:  # a job that was taken back at the head may cost one batch
            assert alive[0] in ours
        for job in jobs:
            job.work.out = clock.now
            waiting.remove(job.work)
            job.answer.set_result(job.work.number)
        clock.now += BATCH_SECONDS
        same = [one for one in waiting if one.mask == ours[0].mask and not one.cancelled]
        assert all(one.number > max(o.number for o in ours) for one in same)

    for step in steps:
        if step == "take":
            take()
        elif step[0] == "cancel":
            if step[1] < len(accepted) and accepted[step[1]].answer.cancel():
                accepted[step[1]].cancelled = True
        else:
            mask, images, pause = step
            clock.now += pause
            there = len(queue)
            one = Seen(len(accepted), mask, images, clock.now, Future(), len(waiting))
            try:
                one.answer = queue.put(mask, images, one)
            except QueueFullError:
                assert there + images > length
                continue
            assert there + images <= length
            accepted.append(one)
            waiting.append(one)
    queue.close()
    with pytest.raises(QueueClosedError):
        queue.put("a", 1, Seen(0, "a", 1, 0, Future()))
    while any(not one.cancelled for one in waiting):
        take()
    assert queue.take() == []
    assert len(queue) == 0
    for one in accepted:
        if not one.cancelled:
            assert one.answer.result(timeout=0) == one.number


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("aaaaaabbcd"), st.integers(1, 4)), max_size=80),
    st.sampled_from([0.0, 2.0, 6.0]),
)
def test_nobody_waits_longer_than_patience_and_those_before(arrivals: list[Any], patience: float) -> None:
    """One worker that takes a second for a batch: a wait is ≤ patience + the batches of those that came before."""
    clock = Clock()
    queue: MaskQueue[Seen] = MaskQueue(1000, 8, patience, clock)
    coming = sorted(arrivals, key=lambda one: one[0])
    waiting: list[Seen] = []
    done: list[Seen] = []
    while coming or waiting:
        while coming and coming[0][0] <= clock.now:
            _, mask, images = coming.pop(0)
            one = Seen(len(done) + len(waiting), mask, images, clock.now, Future(), len(waiting))
            queue.put(mask, images, one)
            waiting.append(one)
        if waiting:
            for job in queue.take():
                job.work.out = clock.now
                waiting.remove(job.work)
                done.append(job.work)
        clock.now += BATCH_SECONDS
    for one in done:
        assert one.out is not None
        assert one.out - one.came <= patience + BATCH_SECONDS * (one.older + 1)


def test_a_mask_goes_on_and_then_the_one_most_wanted() -> None:
    clock = Clock()
    queue: MaskQueue[str] = MaskQueue(100, 4, 10, clock)
    for mask, images in (("a", 1), ("b", 3), ("a", 3), ("c", 2), ("b", 1), ("a", 3)):
        queue.put(mask, images, mask)
    assert [(job.mask, job.images) for job in queue.take()] == [("a", 1), ("a", 3)]
    assert [(job.mask, job.images) for job in queue.take()] == [("a", 3)]
    queue.put("a", 1, "a")
    assert [job.mask for job in queue.take()] == ["a"]
    assert [job.mask for job in queue.take()] == ["b", "b"]
    queue.put("b", 1, "b")
    clock.now = 10
    assert [job.mask for job in queue.take()] == ["c"]  # it has waited long enough


def test_many_threads_and_each_job_once() -> None:
    queue: MaskQueue[int] = MaskQueue(10_000, 16, 0.001)
    answers: list[Future[Any]] = []
    lock = threading.Lock()

    def put(start: int) -> None:
        for number in range(start, start + 100):
            answer = queue.put(f"m{number % 7}", 1, number)
            with lock:
                answers.append(answer)

    def work() -> None:
        while jobs := queue.take():
            for job in jobs:
                job.answer.set_result(job.work)  # a second time would raise

    threads = [threading.Thread(target=put, args=(100 * k,)) for k in range(8)]
    worker = threading.Thread(target=work)
    for thread in (*threads, worker):
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert sorted(answer.result(timeout=0) for answer in answers) == list(range(800))


def test_what_a_queue_can_be() -> None:
    for wrong in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, -1.0), (1, 1, float("nan"))):
        with pytest.raises(SettingsError, match="a queue holds 1 image or more"):
            MaskQueue(*wrong)
    with pytest.raises(QueueFullError):
        MaskQueue[str](3, 8, 1.0).put("a", 4, "too many at once")


def test_what_is_taken_back_makes_room_at_once() -> None:
    queue = MaskQueue[str](2, 8, 1.0)
    first, second = queue.put("a", 1, "one"), queue.put("b", 1, "two")
    assert first.cancel()
    assert len(queue) == 1
    queue.put("b", 1, "three")
    assert [job.work for job in queue.take()] == ["two", "three"]
    assert len(queue) == 0
    assert not second.cancel()
