"""Round trips of masks of any shape, density and base, and the classes of |θ| against a direct computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import MaskFileError
from selfmask.maskfile import classes
from selfmask.maskfile.coding import Coded, Coding, decode, plain, plan, rows_of
from selfmask.maskfile.streams import Reader, Writer

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """θ of rank 0 to 5 with ties, zeros, denormals and ±infinity, and a mask of any density that may follow |θ|."""
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=5)))
    shape = tuple(side * draw(st.sampled_from((1, 1, 1, 30))) for side in shape[:1]) + shape[1:]
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    theta = torch.randn(shape, generator=random)
    kind = draw(st.sampled_from(("plain", "ties", "zeros", "denormal", "one value", "extreme")))
    if kind == "ties":
        theta = (theta * 2).round() / 2
    elif kind == "zeros":
        theta = theta * (torch.rand(shape, generator=random) < 0.5)
    elif kind == "denormal":
        theta = theta * 1e-40
    elif kind == "one value":
        theta = torch.full(shape, -0.25)
    elif kind == "extreme":
        theta = theta * math.inf
        theta = torch.where(theta.isnan(), 0.0, theta)
    density = draw(st.sampled_from((0.0, 1.0, 0.5, 0.99, 0.02)) | st.floats(0, 1))
    mask = torch.rand(shape, generator=random) < density
    if draw(st.booleans()) and theta.dim() > 1:
        mask[::3] = torch.rand(mask[::3].shape, generator=random) < density / 2
    if draw(st.booleans()):
        mask = mask | (theta.abs() < 0.6)
    return theta.to(draw(st.sampled_from(DTYPES))), mask


@settings(deadline=None, max_examples=200)
@given(case=cases(), coding=st.sampled_from(("alone", "base", "packed")))
def test_every_mask_comes_back(case: tuple[torch.Tensor, torch.Tensor], coding: Coding) -> None:
    theta, mask = case
    bits = mask.numpy().reshape(rows_of(mask.shape))
    levels = classes.magnitudes(theta) if coding == "base" else None
    writer = Writer()
    coded = (plain(bits) if coding == "packed" else plan(bits, levels)).write(writer)
    words, packed = writer.finish()
    assert 4 * len(words) + len(packed) <= 1.02 * bits.size / 8 + 12
    assert sum(coded.off) == int((~mask).sum())
    assert coding == "base" or not coded.needs_base
    reader = Reader(words, packed)
    assert np.array_equal(decode(reader, coded, bits.shape, levels), bits)
    reader.finish()


@settings(deadline=None, max_examples=60)
@given(case=cases(), places=st.lists(st.integers(1, 0x7FFF), max_size=6, unique=True))
def test_classes_are_what_comparing_absolute_values_gives(
    case: tuple[torch.Tensor, torch.Tensor], places: list[int]
) -> None:
    theta = case[0].reshape(-1)
    levels = classes.magnitudes(theta)
    thresholds = np.array(sorted(places), np.uint16)
    # The upper 16 bits stand for the number of θ's dtype whose other bits are 0.
    wide = torch.zeros(len(thresholds), theta.element_size() // 2, dtype=torch.int16)
    wide[:, -1] = torch.from_numpy(thresholds.astype(np.int16))
    values = wide.view(theta.dtype).reshape(-1)
    finite = ~values.isnan()
    expected = (values[finite, None] <= theta.abs()).sum(0)
    groups = classes.members(levels, thresholds[finite.numpy()])
    assert sum(classes.sizes(groups)) == len(theta)
    for k, words in enumerate(groups):
        found = classes.select(words, np.arange(classes.sizes([words])[0]))
        assert found.tolist() == (expected == k).nonzero().squeeze(1).tolist()


def test_side_information_pays_where_small_weights_stay_on_and_costs_nothing_where_not() -> None:
    random = torch.Generator().manual_seed(1)
    theta = torch.randn(100_000, generator=random)
    levels = classes.magnitudes(theta)
    large = torch.rand(100_000, generator=random) < 0.1 * (theta.abs() > 1)
    even = torch.rand(100_000, generator=random) < 0.03
    for off, most in ((large, 0.75), (even, 1.001)):
        sizes = []
        for given_levels in (None, levels):
            writer = Writer()
            plan((~off).numpy().reshape(1, -1), given_levels).write(writer)
            words, plain = writer.finish()
            sizes.append(4 * len(words) + len(plain))
        assert sizes[1] <= most * sizes[0]


def test_rows_that_differ_are_told_apart() -> None:
    random = torch.Generator().manual_seed(1)
    shares = torch.tensor([0.001, 0.001, 0.2, 0.02]).repeat(16)[:, None]
    off = torch.rand(64, 500, generator=random) < shares
    sizes = {}
    for shape in ((64, 500), (1, 32_000)):
        writer = Writer()
        coded = plan((~off).numpy().reshape(shape)).write(writer)
        words, plain = writer.finish()
        sizes[shape] = 4 * len(words) + len(plain)
        assert len(coded.rows) == (3 if shape[0] > 1 else 0)
        assert np.array_equal(decode(Reader(words, plain), coded, shape, None), (~off).numpy().reshape(shape))
    assert sizes[64, 500] < 0.95 * sizes[1, 32_000]


def test_a_base_with_other_class_sizes_is_refused() -> None:
    levels = np.zeros(4, np.uint16)
    coded = Coded(False, (0, 3), (), (5,))
    with pytest.raises(MaskFileError, match="base is another"):
        decode(Reader(np.zeros(0, np.uint32), np.zeros(0, np.uint8)), coded, (1, 4), levels)
