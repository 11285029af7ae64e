"""The entropy-coded stream, held against a second decoder in plain Python that follows docs/format.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.artifact import codec
from selfmask.artifact.streams import Reader, Writer
from selfmask.errors import MaskFileError

_PRECISION = 24


def cuts(weights: Sequence[int]) -> list[int]:
    """The cumulative 24-bit probabilities that the integer `weights` (summing to 2^28) stand for."""
    free = (1 << _PRECISION) - len(weights)
    total = sum(weights)
    edges, reached = [], 0
    for i, weight in enumerate(weights):
        edges.append(reached * free // total + i)
        reached += weight
    return [*edges, 1 << _PRECISION]


class Decoder:
    """Reads 32-bit words from the last to the first."""

    def __init__(self, words: Sequence[int]) -> None:
        self.words = [int(w) for w in words]
        self.state = 0
        self._fill()

    def _fill(self) -> None:
        while self.words and self.state < 1 << 32:
            self.state = self.state << 32 | self.words.pop()

    def symbol(self, edges: Sequence[int]) -> int:
        quantile = self.state & ((1 << _PRECISION) - 1)
        symbol = max(i for i in range(len(edges) - 1) if edges[i] <= quantile)
        probability = edges[symbol + 1] - edges[symbol]
        self.state = (self.state >> _PRECISION) * probability + quantile - edges[symbol]
        self._fill()
        return symbol


def positions(total: int, share: float, seed: int) -> np.ndarray:
    found = np.flatnonzero(np.random.default_rng(seed).random(total) < share).astype(np.int64)
    return found if len(found) else np.array([total - 1], np.int64)


@settings(deadline=None, max_examples=40)
@given(total=st.integers(1, 3000), share=st.floats(0, 0.6), seed=st.integers(0, 2**20))
def test_a_second_decoder_in_integers_reads_the_same_symbols(total: int, share: float, seed: int) -> None:
    events = positions(total, share, seed)
    writer = Writer()
    skips = codec.encode_positions(writer, events, total)
    words, plain = writer.finish()
    weights = codec.table(total, len(events))
    assert weights.sum() == 1 << 28
    assert weights.min() >= 0
    decoder, edges = Decoder([int(w) for w in words]), cuts([int(w) for w in weights])
    low = codec.shift(total, len(events))
    bits = np.unpackbits(plain, bitorder="little").tolist()
    at, found = -1, []
    for _ in range(len(events) + skips):
        symbol = decoder.symbol(edges)
        at += symbol << low
        if symbol < codec.SKIP:
            at += 1 + sum(bits.pop(0) << place for place in range(low))
            found.append(at)
    assert found == events.tolist()
    assert decoder.state == 0
    assert not decoder.words


def test_several_streams_in_one_come_back_in_order() -> None:
    writer = Writer()
    parts = [(positions(n, share, n), n) for n, share in ((5000, 0.01), (10, 0.5), (70_000, 0.3), (1, 1.0))]
    skips = [codec.encode_positions(writer, p, n) for p, n in parts]
    reader = Reader(*writer.finish())
    for (events, total), skipped in zip(parts, skips, strict=True):
        assert np.array_equal(codec.decode_positions(reader, total, len(events), skipped), events)
    reader.finish()


def test_the_cost_is_the_entropy_within_a_thousandth() -> None:
    total = 1_000_000
    for share in (0.003, 0.02, 0.1, 0.3):
        events = positions(total, share, 1)
        writer = Writer()
        codec.encode_positions(writer, events, total)
        words, plain = writer.finish()
        entropy = codec.cost(total, len(events))
        assert 0.99 * entropy < 32 * len(words) + 8 * len(plain) < 1.003 * entropy + 64


@pytest.mark.parametrize(("events", "skips"), [(11, 0), (3, 99), (0, 1), (10, 10**30), (10**30, 0)])
def test_impossible_counts_are_refused_before_anything_is_read(events: int, skips: int) -> None:
    with pytest.raises(MaskFileError, match="damaged"):
        codec.decode_positions(Reader(np.zeros(0, np.uint32), np.zeros(0, np.uint8)), 10, events, skips)


def test_what_is_left_over_is_refused() -> None:
    writer = Writer()
    codec.encode_positions(writer, np.array([3, 500], np.int64), 1000)
    words, plain = writer.finish()
    with pytest.raises(MaskFileError, match="does not end"):
        Reader(words, plain).finish()
    with pytest.raises(MaskFileError, match="zero word"):
        Reader(np.zeros(1, np.uint32), plain)
    with pytest.raises(MaskFileError, match="too short"):
        Reader(words, plain[:0]).bits(1)
