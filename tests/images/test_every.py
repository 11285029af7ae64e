"""Images one after another are those of the listings, in their order, and a file's words lead nowhere else."""

from __future__ import annotations

import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfmask.errors import DataError
from selfmask.images.every import absolute, every_image, find_images
from selfmask.images.folder import flat_listing
from selfmask.images.shards import shard_listing
from selfmask.images.sources import decoded

NAMES = st.text(alphabet="ab-. /éA", min_size=1, max_size=3).filter(lambda s: s.strip(". /") == s)


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 9, 200)).save(path)
    return path


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(NAMES.map(lambda s: s.replace("/", "-")), min_size=1, max_size=3), min_size=1, max_size=8
    )
)
def test_a_folder_in_the_order_of_its_paths(
    tmp_path_factory: pytest.TempPathFactory, places: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for place in places:
        path = root.joinpath(*place).with_name(f"{place[-1]}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert [entry.name for entry in every_image(root)] == expected
    assert [entry.name for entry in flat_listing(root).entries] == expected


def test_other_places(tmp_path: Path) -> None:
    photo = picture(tmp_path / "deep" / "er" / "a.png", 7)
    assert [(e.name, e.content) for e in every_image(str(photo))] == [("a.png", photo)]
    (tmp_path / "l.csv").write_text("file,label\ndeep/er/a.png,x\nnone.png,x\n")
    assert [e.name for e in every_image(tmp_path / "l.csv")] == ["deep/er/a.png", "none.png"]
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        tar.add(photo, "k1.png")
        tar.add(photo, "k2.png")
    shards = f"webdataset:{tmp_path}"
    found = list(every_image(shards))
    assert [e.name for e in found] == [e.name for e in shard_listing(str(tmp_path)).entries]
    assert torch.equal(decoded(found[1].content, None), decoded(photo, None))
    digits = list(every_image("digits"))
    assert len(digits) == 1797
    assert decoded(digits[5].content, None).shape == (3, 8, 8)
    assert find_images(shards, ["train-0.tar/k2", "x"], download=False).keys() == {"train-0.tar/k2"}


def test_a_hub_s_data_set_row_by_row(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    part = datasets.Dataset.from_dict(
        {"image": [str(picture(tmp_path / f"{k}.png", k)) for k in range(3)]}, features
    )
    (tmp_path / "d").mkdir()
    part.to_parquet(str(tmp_path / "d" / "train.parquet"))
    found = list(every_image(f"hf:{tmp_path / 'd'}"))
    assert [e.name for e in found] == ["train/000000", "train/000001", "train/000002"]
    assert [int(decoded(e.content, None)[0, 0, 0]) for e in found] == [0, 1, 2]


def test_the_same_place_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    said = [absolute(spec) for spec in ("in", "flat:in", "in/a.png", "digits", "hf:x/y")]
    assert said == [f"{tmp_path}/in", f"flat:{tmp_path}/in", f"{tmp_path}/in/a.png", "digits", "hf:x/y"]


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    secret = picture(tmp_path / "secret.png")
    inside = picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.txt").write_text("no image")
    names = ["a.png", "../secret.png", str(secret), "b.txt", "a.png\0", "none.png"]
    assert find_images(tmp_path / "in", names, download=False) == {"a.png": inside}


def test_no_host_is_contacted_because_a_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFMASK_DATA", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a host was contacted"))
    for spec, said in (("hf:stranger/set", "name it yourself"), ("cifar10", "is not in")):
        with pytest.raises(DataError, match=said):
            find_images(spec, ["x"], download=False)


@pytest.mark.parametrize("spec", ["", "no/such/place", "nosuchset"])
def test_nothing_there(spec: str) -> None:
    with pytest.raises(DataError):
        list(every_image(spec))


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no images.*notes\.txt"):
        list(every_image(tmp_path))


def test_pixels_of_an_array() -> None:
    entry = next(iter(every_image("digits")))
    assert not isinstance(entry.content, Path)
    assert np.asarray(entry.content()).shape == (8, 8, 3)
