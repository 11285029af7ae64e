"""The entropy-coded stream, held against a second decoder in plain Python that follows docs/format.md."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import MaskFileError
from selfmask.maskfile import codec
from selfmask.maskfile.codec import MAX_SHIFT, RATES, GapModel, Golomb, Model
from selfmask.maskfile.fitting import gap_model
from selfmask.maskfile.streams import Reader, Writer

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


def decoded(reader: Reader, total: int, events: int, model: Model) -> np.ndarray:
    parts = [*codec.decode_positions(reader, total, events, model)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def second_table(model: GapModel, total: int) -> list[int]:
    """docs/format.md, "The distribution of gaps", in Python integers, one symbol at a time."""
    eighths = [2147483648, 1969251188, 1805811301, 1655936265, 1518500250, 1392470869, 1276901417, 1170923762]
    tails = []
    for start, _ in buckets(total):
        tail = 0
        for weight, rate in zip(model.weights, model.rates, strict=True):
            u = (1 << 31) - (eighths[rate % 8] >> rate // 8)
            exponent = start
            while exponent >= 16:
                u, exponent = u * u >> 31, exponent // 2
            power = 1 << 31
            for _ in range(exponent):
                power = power * u >> 31
            tail += weight * power
        tails.append(min(tail // 256, tails[-1] if tails else 1 << 31))
    scaled = [t >> 3 for t in tails] + [0]
    return [a - b for a, b in itertools.pairwise(scaled)]


def buckets(total: int) -> list[tuple[int, int]]:
    """The first gap of every bucket that begins below `total`, and the number of plain bits after its symbol."""
    found = [(g, 0) for g in range(16)]
    start, bits = 16, 1
    while start < total:
        found += [(start + (k << bits), bits) for k in range(8)]
        start, bits = 2 * start, bits + 1
    return [b for b in found if b[0] < total]


models = st.builds(
    lambda rates, cut: (
        GapModel((256,), (rates[0],)) if len(rates) == 1 else GapModel((cut, 256 - cut), rates)
    ),
    st.lists(st.integers(0, RATES - 1), min_size=1, max_size=2).map(tuple),
    st.integers(1, 255),
)


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 5000), share=st.floats(0, 0.6), seed=st.integers(0, 2**20), model=models | st.none()
)
def test_a_second_decoder_in_integers_reads_the_same_positions(
    total: int, share: float, seed: int, model: GapModel | None
) -> None:
    events = positions(total, share, seed)
    if model is None:
        fitted = gap_model(events, total)[0]
        model = fitted if isinstance(fitted, GapModel) else GapModel((256,), (30,))
    table = second_table(model, total)
    assert table == model.table(total).tolist()
    assert sum(table) == 1 << 28
    assert min(table) >= 0
    writer = Writer()
    codec.encode_positions(writer, events, total, model)
    words, plain = writer.finish()
    spans, edges = buckets(total), cuts(table)
    decoder = Decoder([int(w) for w in words])
    symbols = [decoder.symbol(edges) if len(table) > 1 else 0 for _ in events]
    bits = np.unpackbits(plain, bitorder="little").tolist()
    rest = [0] * len(symbols)
    for width in range(1, 30):
        for place in range(width):
            for k, symbol in enumerate(symbols):
                if spans[symbol][1] == width:
                    rest[k] |= bits.pop(0) << place
    gaps = [spans[symbol][0] + low for symbol, low in zip(symbols, rest, strict=True)]
    assert (np.cumsum(np.array(gaps) + 1) - 1).tolist() == events.tolist()
    assert decoder.state == 0
    assert not decoder.words
    reader = Reader(words, plain)
    assert np.array_equal(decoded(reader, total, len(events), model), events)
    reader.finish()


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 5000),
    share=st.floats(0, 0.6),
    seed=st.integers(0, 2**20),
    shift=st.integers(0, 13),
    threefold=st.booleans(),
)
def test_a_second_decoder_reads_golomb_codes(
    total: int, share: float, seed: int, shift: int, threefold: bool
) -> None:
    """docs/format.md, "Golomb codes", one bit at a time."""
    events = positions(total, share, seed)
    model = Golomb(shift, threefold)
    writer = Writer()
    codec.encode_positions(writer, events, total, model)
    words, plain = writer.finish()
    assert len(words) == 0
    bits = np.unpackbits(plain, bitorder="little").tolist()
    assert 0 <= len(bits) - model.bits(np.diff(events, prepend=-1) - 1) < 8
    length = sum(bits.pop(0) << place for place in range(32))
    unary = "".join(str(bits.pop(0)) for _ in range(length))
    gaps = [len(zeros) * (3 << shift if threefold else 1 << shift) for zeros in unary.split("1")[:-1]]
    if threefold:
        beyond = [k for k in range(len(gaps)) if bits.pop(0)]
        for k in beyond:
            gaps[k] += (1 + bits.pop(0)) << shift
    for place in range(shift):
        for k in range(len(gaps)):
            gaps[k] += bits.pop(0) << place
    assert sum(bits) == 0
    assert (np.cumsum(np.array(gaps) + 1) - 1).tolist() == events.tolist()
    reader = Reader(words, plain)
    assert np.array_equal(decoded(reader, total, len(events), model), events)
    reader.finish()


def test_gaps_without_structure_are_golomb_coded_and_bunches_are_not() -> None:
    total = 400_000
    even = positions(total, 0.15, 1)
    model, bits = gap_model(even, total)
    assert isinstance(model, Golomb)
    assert model.shift <= MAX_SHIFT
    writer = Writer()
    codec.encode_positions(writer, even, total, model)
    words, plain = writer.finish()
    assert 8 * len(plain) == pytest.approx(bits, rel=1e-3)
    assert np.array_equal(decoded(Reader(words, plain), total, len(even), model), even)
    random = np.random.default_rng(0)
    bunched = np.flatnonzero(random.random(total) < np.repeat(random.random(total // 100) < 0.1, 100) * 0.3)
    assert isinstance(gap_model(bunched, total)[0], GapModel)


def damaged_golomb(change: str) -> tuple[np.ndarray, np.ndarray]:
    """Streams of two events, gaps 3 and 496, with one thing wrong."""
    writer = Writer()
    codec.encode_positions(writer, np.array([3, 500], np.int64), 1000, Golomb(6))
    words, plain = writer.finish()
    bits = np.unpackbits(plain, bitorder="little")
    if change == "no second one":
        bits[32 + 1 : 32 + 9] = 0
    elif change == "too many ones":
        bits[32 + 2] = 1
    elif change == "length":
        bits[5] ^= 1
    elif change == "last is no one":
        bits[32 + 8], bits[32 + 4] = 0, 1
    return words, np.packbits(bits, bitorder="little")


@pytest.mark.parametrize("change", ["no second one", "too many ones", "length", "last is no one"])
def test_damaged_golomb_codes_are_refused(change: str) -> None:
    words, plain = damaged_golomb(change)
    with pytest.raises(MaskFileError, match="unary codes"):
        decoded(Reader(words, plain), 1000, 2, Golomb(6))


def test_golomb_codes_beyond_the_cell_are_refused() -> None:
    words, plain = damaged_golomb("nothing")
    with pytest.raises(MaskFileError, match="beyond"):
        decoded(Reader(words, plain), 490, 2, Golomb(6))
    with pytest.raises(MaskFileError, match="unary codes"):
        decoded(Reader(words, plain), 1000, 2, Golomb(40))
    with pytest.raises(MaskFileError, match="too short"):
        decoded(Reader(words, plain[:-1]), 1000, 2, Golomb(6))


@settings(deadline=None)
@given(gap=st.integers(0, 2**40))
def test_every_gap_has_one_bucket(gap: int) -> None:
    symbol = codec.symbol(np.array([gap]))
    assert codec.last_symbol(gap + 1) == int(symbol[0])
    low = int(codec.lowest(symbol)[0])
    assert low <= gap < low + (1 << int(codec.width(symbol)[0]))
    assert int(codec.lowest(symbol + 1)[0]) == low + (1 << int(codec.width(symbol)[0]))


def test_several_streams_in_one_come_back_in_order() -> None:
    writer = Writer()
    parts = [(positions(n, share, n), n) for n, share in ((5000, 0.01), (10, 0.5), (70_000, 0.3), (1, 1.0))]
    fitted = [gap_model(p, n)[0] for p, n in parts]
    for (p, n), model in zip(parts, fitted, strict=True):
        codec.encode_positions(writer, p, n, model)
    reader = Reader(*writer.finish())
    for (p, n), model in zip(parts, fitted, strict=True):
        assert np.array_equal(decoded(reader, n, len(p), model), p)
    reader.finish()


def test_more_gaps_than_are_coded_at_a_time() -> None:
    total = 5_000_000
    events = positions(total, 0.25, 3)
    assert len(events) > 1 << 20
    model, bits = gap_model(events, total)
    writer = Writer()
    codec.encode_positions(writer, events, total, model)
    words, plain = writer.finish()
    assert 32 * len(words) + 8 * len(plain) == pytest.approx(bits, rel=1e-3)
    stretches = [*codec.decode_positions(Reader(words, plain), total, len(events), model)]
    assert [len(stretch) for stretch in stretches] == [1 << 20, len(events) - (1 << 20)], (
        "memory for one at a time"
    )
    assert np.array_equal(np.concatenate(stretches), events)


def test_a_mask_without_structure_costs_its_entropy_within_a_hundredth() -> None:
    total = 1_000_000
    for share in (0.003, 0.02, 0.1, 0.3):
        events = positions(total, share, 1)
        _, bits = gap_model(events, total)
        p = len(events) / total
        entropy = -total * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
        assert 0.99 * entropy < bits < 1.01 * entropy


def test_bunches_cost_less_than_the_entropy() -> None:
    random = np.random.default_rng(0)
    dense = random.random(200_000) < np.repeat(random.random(2000) < 0.1, 100) * 0.2
    events = np.flatnonzero(dense)
    p = dense.mean()
    assert gap_model(events, dense.size)[1] < 0.8 * dense.size * -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


@pytest.mark.parametrize("events", [11, 10**30, -1])
def test_impossible_counts_are_refused_before_anything_is_read(events: int) -> None:
    with pytest.raises(MaskFileError, match="damaged"):
        decoded(Reader(np.zeros(0, np.uint32), np.zeros(0, np.uint8)), 10, events, GapModel((256,), (8,)))


def test_what_is_left_over_is_refused() -> None:
    writer = Writer()
    codec.encode_positions(writer, np.array([3, 500], np.int64), 1000, GapModel((256,), (64,)))
    words, plain = writer.finish()
    with pytest.raises(MaskFileError, match="does not end"):
        Reader(words, plain).finish()
    with pytest.raises(MaskFileError, match="zero word"):
        Reader(np.zeros(1, np.uint32), plain)
    with pytest.raises(MaskFileError, match="too short"):
        Reader(words, plain[:0]).bits(1)
