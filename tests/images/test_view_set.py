"""Views made once are those of the image set, whatever part of them is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from selfmask.errors import DataError
from selfmask.images.image_set import ImageSet
from selfmask.images.listing import Entry
from selfmask.images.opening import open_data
from selfmask.images.view_set import view_set

VIEW = (20, 0.9, "bicubic")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        pixels = torch.randint(0, 256, (30 + number, 35, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    return tmp_path


def test_the_same_views_and_what_cannot_be_read(folder: Path) -> None:
    whole: ImageSet = open_data(folder).train
    entries = [Entry(name, folder / name) for name in whole.names]
    (folder / "bad.png").write_bytes(b"\x89PNG no more")
    entries[7:7] = [Entry("bad.png", folder / "bad.png"), Entry("gone", folder / "gone.png")]
    found, skipped = view_set(entries, *VIEW)
    assert [one.name for one in skipped] == ["bad.png", "gone"]
    assert "does not exist" in skipped[1].reason
    assert found.names == whole.names
    assert torch.equal(found.resized(*VIEW), whole.resized(*VIEW))
    some = [31, 4, 4, 7]
    assert torch.equal(found.subset(some).subset([1, 3]).resized(*VIEW), whole.resized(*VIEW)[[4, 7]])
    with pytest.raises(DataError, match="were asked for"):
        found.resized(21, 0.9, "bicubic")


def test_none_can_be_read(tmp_path: Path) -> None:
    found, skipped = view_set([Entry("x", tmp_path / "x.png")], *VIEW)
    assert (len(found), len(skipped)) == (0, 1)
