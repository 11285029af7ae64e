"""WebDataset shards, and Hugging Face data sets where the package is there."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from selfmask.errors import DataError, MissingExtraError
from selfmask.images.decode import decode
from selfmask.images.opening import open_data
from selfmask.images.sources import Reading


def write_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


@pytest.fixture
def jpegs(paint: Any) -> list[bytes]:
    made = []
    for k in range(12):
        stream = io.BytesIO()
        paint(k).save(stream, "JPEG")
        made.append(stream.getvalue())
    return made


def test_shards_with_classes(tmp_path: Path, jpegs: list[bytes]) -> None:
    for split, first, count in (("train", 0, 8), ("test", 8, 4)):
        for shard in range(2):
            members = {}
            for k in range(first + shard * count // 2, first + (shard + 1) * count // 2):
                members[f"{k:04d}.jpg"] = jpegs[k]
                members[f"{k:04d}.cls"] = str((9, 10)[k % 2]).encode()
            write_shard(tmp_path / f"{split}-{shard:03d}.tar", members)
    for pattern in (tmp_path, tmp_path / "*.tar"):
        splits = open_data(f"webdataset:{pattern}")
        assert {split: len(part) for split, part in splits.parts().items()} == {"train": 8, "test": 4}
        assert splits.train.classes == ("9", "10")
        assert splits.train.labels.tolist() == [0, 1] * 4
        assert splits.train.names[0] == "train-000.tar/0000"
        assert splits.train.image(3).equal(decode(jpegs[3]))
    some = open_data(f"webdataset:{tmp_path}/train-{{000..001}}.tar", test_share=0.25)
    assert {split: len(part) for split, part in some.parts().items()} == {"train": 8}
    one = open_data(f"webdataset:{tmp_path}/train-000.tar")
    assert len(one.train) == 4


def test_labels_in_json_and_none_at_all(tmp_path: Path, jpegs: list[bytes]) -> None:
    members: dict[str, bytes] = {}
    for k in range(4):
        members[f"some/folder/{k}.jpg"] = jpegs[k]
        members[f"some/folder/{k}.json"] = json.dumps({"label": ["cat", "dog"][k % 2]}).encode()
    members["5.png"] = b"damaged"
    members["readme"] = b""
    write_shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"a\.tar/5: not an image"):
        open_data(f"webdataset:{tmp_path}")
    del members["5.png"]
    write_shard(tmp_path / "a.tar", members)
    splits = open_data(f"webdataset:{tmp_path}", test_share=0.5)
    assert splits.train.classes == ("cat", "dog")
    write_shard(tmp_path / "a.tar", {f"{k}.jpg": jpegs[k] for k in range(3)})
    assert open_data(f"webdataset:{tmp_path}").train.labels.tolist() == [-1] * 3


def test_mistakes_with_shards(tmp_path: Path, jpegs: list[bytes]) -> None:
    with pytest.raises(DataError, match=r"no \.tar files"):
        open_data(f"webdataset:{tmp_path}")
    with pytest.raises(DataError, match="there is no shard"):
        open_data(f"webdataset:{tmp_path}/a-{{00..02}}.tar")
    write_shard(tmp_path / "a.tar", {"1.txt": b"words"})
    with pytest.raises(DataError, match="no images"):
        open_data(f"webdataset:{tmp_path}")
    write_shard(tmp_path / "a.tar", {"1.jpg": jpegs[0]}, "w:gz")
    with pytest.raises(DataError, match="uncompressed"):
        open_data(f"webdataset:{tmp_path}")
    write_shard(tmp_path / "a.tar", {"1.jpg": jpegs[0], "1.json": b"{"})
    with pytest.raises(DataError, match="not valid JSON"):
        open_data(f"webdataset:{tmp_path}")


def test_hf_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"selfmask\[datasets\]"):
        open_data("hf:cifar10")


def test_hf_reads_a_local_data_set(tmp_path: Path, paint: Any) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'datasets'")
    for split, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for k in range(count):
                paint(k).save(tmp_path / "set" / split / label / f"{k}.png")
    splits = open_data(f"hf:{tmp_path / 'set'}")
    assert {split: len(part) for split, part in splits.parts().items()} == {"train": 6, "test": 4}
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.image(0).shape == (3, 24, 40)
    with pytest.raises(DataError, match="cannot be opened"):
        open_data(f"hf:{tmp_path / 'nothing'}")
    loaded = datasets.load_dataset(str(tmp_path / "set"))
    loaded.save_to_disk(tmp_path / "kept")  # in the package's own form, which it opens by another call
    loaded["test"].save_to_disk(tmp_path / "part")
    again = open_data(f"hf:{tmp_path / 'kept'}")
    assert {split: part.names for split, part in again.parts().items()} == {
        split: part.names for split, part in splits.parts().items()
    }
    assert again.train.image(4).equal(splits.train.image(4))
    assert len(open_data(f"hf:{tmp_path / 'part'}", test_share=0).train) == 4


@pytest.mark.parametrize("place", ["header", "cut", "cut in a header"])
def test_a_shard_that_is_damaged_in_its_middle_is_not_half_a_data_set(
    tmp_path: Path, jpegs: list[bytes], place: str
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, {f"{k}.jpg": jpegs[k] for k in range(4)})
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[third + 3] ^= 1
    path.write_bytes(bytes(content) if place == "header" else bytes(content[: third + 100]))
    if place == "cut":  # at the end of a member: nothing says that more were to come
        path.write_bytes(bytes(content[:third]))
        assert len(open_data(f"webdataset:{path}").train) == 2
        return
    with pytest.raises(DataError, match="is damaged, or cut off, after"):
        open_data(f"webdataset:{path}")


def test_an_empty_label_in_a_shard_is_none(tmp_path: Path, jpegs: list[bytes]) -> None:
    members: dict[str, bytes] = {}
    for k, label in enumerate(["cat", "dog", "", None, float("nan"), "cat", "dog"]):
        members |= {f"{k}.jpg": jpegs[k], f"{k}.json": json.dumps({"label": label}).encode()}
    write_shard(tmp_path / "a.tar", members)
    splits = open_data(f"webdataset:{tmp_path / 'a.tar'}", test_share=0.5)
    assert splits.train.classes == ("cat", "dog")


def test_a_shard_may_have_brackets_in_its_name(tmp_path: Path, jpegs: list[bytes]) -> None:
    (tmp_path / "s[1]").mkdir()
    write_shard(tmp_path / "s[1]" / "x.tar", {"0.jpg": jpegs[0]})
    assert len(open_data(f"webdataset:{tmp_path}/s[1]/x.tar").train) == 1


def test_hf_reads_the_image_alone_and_no_empty_label(tmp_path: Path, jpegs: list[bytes]) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'datasets'")
    rows = {
        "image": [{"bytes": one, "path": None} for one in jpegs[:6]],
        "mask": [{"bytes": b"damaged", "path": None}] * 6,
        "label": ["cat", "dog", "", None, "cat", "dog"],
    }
    features = datasets.Features(
        image=datasets.Image(), mask=datasets.Image(), label=datasets.Value("string")
    )
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    splits = open_data(f"hf:{tmp_path / 'set'}", test_share=0.5)
    assert splits.train.classes == ("cat", "dog")
    assert not splits.train.skipped
    assert sum(len(part) for part in splits.parts().values()) == 6


def test_a_shard_that_says_no_split_ends_that_of_the_others_with_a_word(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    for number, name in enumerate(("train-0", "test-0", "extra-0")):
        members = {f"{k}.jpg": jpegs[4 * number + k] for k in range(4)}
        write_shard(tmp_path / f"{name}.tar", members | {f"{k}.cls": str(k % 2).encode() for k in range(4)})
    notes = open_data(f"webdataset:{tmp_path}", test_share=0.25).notes
    assert any("extra-0.tar says none: call it train-" in note for note in notes)


def test_shards_of_one_name_in_two_folders_are_told_apart(tmp_path: Path, jpegs: list[bytes]) -> None:
    for folder, k in (("k1", 0), ("k2", 1)):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "a.tar", {"0.jpg": jpegs[k]})
    assert open_data(f"webdataset:{tmp_path}/k*/a.tar").train.names == ("k1/a.tar/0", "k2/a.tar/0")


def test_labels_may_leave_out_the_shard(tmp_path: Path, jpegs: list[bytes]) -> None:
    for number in range(2):
        write_shard(
            tmp_path / f"train-{number}.tar", {f"{k}.jpg": jpegs[k] for k in range(number, number + 2)}
        )
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n0,a\n2,b\n")
    assert open_data(f"webdataset:{tmp_path}", labels=labels).train.labels.tolist() == [0, -1, -1, 1]
    labels.write_text("file,label\n1,a\n2,b\n")
    with pytest.raises(DataError, match=r"the labels name '1', of which .* has several in one part"):
        open_data(f"webdataset:{tmp_path}", labels=labels)


@pytest.mark.parametrize(
    ("parts", "sizes", "note"),
    [
        (("train", "unsupervised"), {"train": 2, "test": 2}, "not taken: the parts unsupervised."),
        (("train", "test", "extra"), {"train": 4, "test": 4}, "not taken: the parts extra."),
    ],
)
def test_parts_of_a_hub_s_data_set(
    parts: tuple[str, ...],
    sizes: dict[str, int],
    note: str,
    monkeypatch: pytest.MonkeyPatch,
    jpegs: list[bytes],
) -> None:
    _hub_of(monkeypatch, parts, jpegs)
    splits = open_data("hf:some/set", test_share=0.5)
    assert {split: len(part) for split, part in splits.parts().items()} == sizes
    assert note in splits.notes


def test_parts_of_no_known_name_are_named(monkeypatch: pytest.MonkeyPatch, jpegs: list[bytes]) -> None:
    _hub_of(monkeypatch, ("fold1", "fold2"), jpegs)
    with pytest.raises(DataError, match="has the parts fold1, fold2, none of which is train"):
        open_data("hf:some/set")


def _hub_of(monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], jpegs: list[bytes]) -> None:
    """Has the package give four images of two classes for each part."""
    datasets = pytest.importorskip("datasets", reason="needs the extra 'datasets'")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": jpegs[k], "path": None} for k in range(4)], "label": [0, 0, 1, 1]}
    made = {part: datasets.Dataset.from_dict(rows, features=features) for part in parts}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: made)


def test_links_in_a_shard_are_what_they_lead_to(tmp_path: Path, jpegs: list[bytes]) -> None:
    """tar keeps a file of several names once, as whoever links equal labels has them."""
    path = tmp_path / "train.tar"
    write_shard(path, {"0.jpg": jpegs[0], "0.cls": b"cat", "1.jpg": jpegs[1], "1.cls": b"dog"})
    with tarfile.open(path, "a") as tar:
        for name, kind, to in (("2.cls", tarfile.LNKTYPE, "0.cls"), ("2.jpg", tarfile.SYMTYPE, "./1.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    train = open_data(f"webdataset:{path}", test_share=0).train
    assert train.labels.tolist() == [0, 1, 0]
    assert train.image(2).equal(train.image(1))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("3.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "elsewhere.jpg"
        tar.addfile(info)
    with pytest.raises(
        DataError, match=r"'3\.jpg' is a link to 'elsewhere\.jpg', which the shard does not hold"
    ):
        open_data(f"webdataset:{path}")


def test_shards_of_a_whole_folder_as_tar_writes_it(tmp_path: Path, jpegs: list[bytes]) -> None:
    """Names begin with ./, a Mac's tar puts a hidden file before each, and a link may lead to a link."""
    path = tmp_path / "train.tar"
    write_shard(
        path, {"./._0.jpg": b"AppleDouble", "./0.jpg": jpegs[0], "./0.cls": b"cat", "./1.cls": b"dog"}
    )
    with tarfile.open(path, "a") as tar:
        for name, to in (("./1.jpg", "0.jpg"), ("./2.jpg", "./1.jpg"), ("./2.cls", "0.cls")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            tar.addfile(info)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\ntrain.tar/0,cat\n./1,dog\n2,dog\n", "utf-8")
    train = open_data(f"webdataset:{path}", test_share=0).train
    assert train.names == ("train.tar/0", "train.tar/1", "train.tar/2")
    assert train.image(2).equal(train.image(0))
    assert open_data(f"webdataset:{path}", labels=labels, test_share=0).train.labels.tolist() == [0, 1, 1]
    with tarfile.open(path, "a") as tar:
        for name, to in (("./3.jpg", "4.jpg"), ("./4.jpg", "3.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            tar.addfile(info)
    with pytest.raises(DataError, match=r"'\./3\.jpg' is a link"):
        open_data(f"webdataset:{path}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat/1.jpg", "cat/1.jpeg"), "two images of one key, 'cat/1'"),
        (("1.jpg", "2.v1.jpg", "3.v1.jpg"), r"'2\.v1\.jpg' and 1 more are no image of a sample"),
    ],
)
def test_no_image_of_a_shard_is_lost_in_silence(
    tmp_path: Path, jpegs: list[bytes], names: tuple[str, ...], message: str
) -> None:
    write_shard(tmp_path / "a.tar", {name: jpegs[k] for k, name in enumerate(names)})
    with pytest.raises(DataError, match=message):
        open_data(f"webdataset:{tmp_path / 'a.tar'}")


def test_parts_of_a_sample_beside_its_image_are_passed_over(tmp_path: Path, jpegs: list[bytes]) -> None:
    write_shard(tmp_path / "a.tar", {"1.jpg": jpegs[0], "1.mask.jpg": jpegs[1], "2.jpg": jpegs[2]})
    assert open_data(f"webdataset:{tmp_path / 'a.tar'}").train.names == ("a.tar/1", "a.tar/2")


def test_a_shard_that_is_written_anew_meanwhile_gives_no_other_image(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, {f"{k}.jpg": jpegs[0] for k in range(4)})
    train = open_data(f"webdataset:{path}", reading=Reading(cache_bytes=0)).train
    train.image(1)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"could be read when .* but not now: a\.tar was written anew"):
        train.image(1)


def test_a_label_in_a_shard_is_one_name_and_the_first_key_s(tmp_path: Path, jpegs: list[bytes]) -> None:
    members = {"0.jpg": jpegs[0], "0.json": b'{"label": null, "class": "junk"}', "1.jpg": jpegs[1]}
    write_shard(tmp_path / "a.tar", members)
    assert open_data(f"webdataset:{tmp_path / 'a.tar'}").train.classes == ()
    write_shard(tmp_path / "b.tar", members | {"1.json": b'{"label": [1, 2]}'})
    with pytest.raises(DataError, match=r"1\.json: expected one name or number, got \[1, 2\]"):
        open_data(f"webdataset:{tmp_path / 'b.tar'}")
