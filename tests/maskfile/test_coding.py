"""Round trips of masks of any shape and density."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.maskfile.coding import decode, plain_code, rows_of, shortest_code
from selfmask.maskfile.streams import Reader, Writer


@st.composite
def cases(draw: st.DrawFn) -> torch.Tensor:
    """A mask of rank 0 to 5 and any density, which may differ from row to row."""
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=5)))
    shape = tuple(side * draw(st.sampled_from((1, 1, 1, 30))) for side in shape[:1]) + shape[1:]
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    density = draw(st.sampled_from((0.0, 1.0, 0.5, 0.99, 0.02)) | st.floats(0, 1))
    mask = torch.rand(shape, generator=random) < density
    if draw(st.booleans()) and mask.dim() > 1:
        mask[::3] = torch.rand(mask[::3].shape, generator=random) < density / 2
    if draw(st.booleans()):
        mask = mask | (torch.rand(shape, generator=random) < 0.45)
    return mask


@settings(deadline=None, max_examples=200)
@given(mask=cases(), packed=st.booleans())
def test_every_mask_comes_back(mask: torch.Tensor, packed: bool) -> None:
    bits = mask.numpy().reshape(rows_of(mask.shape))
    writer = Writer()
    coded = (plain_code(bits) if packed else shortest_code(bits)).write(writer)
    words, rest = writer.finish()
    assert 4 * len(words) + len(rest) <= 1.02 * bits.size / 8 + 12
    assert sum(coded.off) == int((~mask).sum())
    reader = Reader(words, rest)
    assert np.array_equal(decode(reader, coded, bits.shape), bits)
    reader.finish()


def test_rows_that_differ_are_told_apart() -> None:
    random = torch.Generator().manual_seed(1)
    shares = torch.tensor([0.001, 0.001, 0.2, 0.02]).repeat(16)[:, None]
    off = torch.rand(64, 500, generator=random) < shares
    sizes = {}
    for shape in ((64, 500), (1, 32_000)):
        writer = Writer()
        coded = shortest_code((~off).numpy().reshape(shape)).write(writer)
        words, plain = writer.finish()
        sizes[shape] = 4 * len(words) + len(plain)
        assert len(coded.rows) == (3 if shape[0] > 1 else 0)
        assert np.array_equal(decode(Reader(words, plain), coded, shape), (~off).numpy().reshape(shape))
    assert sizes[64, 500] < 0.95 * sizes[1, 32_000]
