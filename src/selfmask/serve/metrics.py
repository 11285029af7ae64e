"""What Prometheus asks for. No mask's name is a label: there may be thousands, and they come from files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from selfmask.serve.queue import Job
from selfmask.serve.worker import Counts

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counted(Protocol):
    """What counts by itself: what was done, and the images that wait."""

    @property
    def counts(self) -> Counts: ...
    @property
    def waiting(self) -> int: ...


class _Live(Collector):
    """What others count, when it is asked for."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        counts = self._counted.counts
        yield CounterMetricFamily("selfmask_images", "Images that went through the network", counts.images)
        yield CounterMetricFamily("selfmask_switches", "Times that another mask was put on", counts.switches)
        yield GaugeMetricFamily("selfmask_queue_images", "Images that wait", self._counted.waiting)


class Metrics:
    """The numbers of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        at: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("selfmask_requests", "Requests by kind and status", ["kind", "status"], **at)
        self._bad = Counter("selfmask_bad_images", "Images that could not be read", **at)
        self._latency = Histogram(
            "selfmask_request_seconds", "Of a request", ["kind"], buckets=_SECONDS, **at
        )
        self._waiting = Histogram("selfmask_queue_seconds", "In the queue", buckets=_SECONDS, **at)
        self._batch = Histogram("selfmask_batch_images", "Images of a batch", buckets=_SIZES, **at)

    def follow(self, counted: Counted) -> None:
        """Tell of this too, from now on."""
        self._registry.register(_Live(counted))

    def batch(self, jobs: Sequence[Job]) -> None:
        """A batch begins."""
        now = time.monotonic()
        self._batch.observe(sum(job.images for job in jobs))
        for job in jobs:
            self._waiting.observe(now - job.since)

    def request(self, kind: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(kind, str(status)).inc()
        self._latency.labels(kind).observe(seconds)

    def bad_images(self, count: int) -> None:
        """Images of a request could not be read."""
        self._bad.inc(count)

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)
