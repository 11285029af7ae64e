"""Lists, shards and folders of strangers: what enters is kept as it is, and what is wrong is one error of ours."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import DataError
from selfmask.images.opening import open_data
from selfmask.images.shards import shard_listing
from selfmask.images.sources import FileSource, Reading
from selfmask.images.tables import read_labels, read_rows, read_splits

Folder = Callable[..., Path]
ODD_NAMES = ["two\nlines", "$x_1$", "[red]x[/red]", "<b>&amp;", "\u202eright to left", "\x1b[31mred", "half\ud800",
             "byte\udcff", "\u2028", "a,b;c\td", '"quoted"', "ünï", "None", "nan", "-1"]  # fmt: skip


def test_a_cell_of_a_csv_may_have_lines(tmp_path: Path) -> None:
    """Cut at every line end, the second half of a class became the name of a file."""
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["file", "label"], ["a.png", "one\nclass"], ["b\r\n.png", "x\u2028y\x0bz"], ["c.png", "d"]]
        )
    assert [(row.file, row.label, row.line) for row in read_rows(path)] == [
        ("a.png", "one\nclass", 2), ("b\r\n.png", "x\u2028y\x0bz", 4), ("c.png", "d", 6),
    ]  # fmt: skip
    path.write_text("file,label\na.png,x\n\nb.png\n,y\n")
    with pytest.raises(DataError, match="line 5: no file"):
        read_rows(path)
    path.write_text(
        'file,label\r\na.png,"x\r\nb.png,y\r\n'
    )  # a quote that does not end takes all that follows
    with pytest.raises(DataError, match="line 2: not a table"):
        read_rows(path)


def test_a_line_of_jsonl_ends_where_json_says(tmp_path: Path) -> None:
    """U+2028 and the like may stand in a JSON text as they are."""
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"file": "a.png", "label": "x\u2028y\x85z"}\r\n\n{"file": "b.png"}\n', encoding="utf-8", newline=""
    )
    assert [(row.file, row.label, row.line) for row in read_rows(path)] == [
        ("a.png", "x\u2028y\x85z", 1), ("b.png", None, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[" * 100_000, '{"file":' * 50_000, "9" * 5000, '{"file": ' + "9" * 5000 + "}",
                                  '{"file": {}}', '{"file": ["a"]}', '{"file": ""}', "null", '"a"', "{",
                                  '{"file": "\\ud800"}',
                                  '{"file": "a\\u0000b"}', '{"file": "' + "x" * 5000 + '"}'])  # fmt: skip
@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "split.json"])
def test_odd_documents(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        (read_splits if name == "split.json" else open_data)(tmp_path / name)
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize(
    "member",
    ["9" * 5000, "[" * 900 + "]" * 900, "[1, 2]", "{}", '["a", 0, null]', json.dumps("x" * 10**6) + ', ""'],
)
def test_odd_members_of_a_split(tmp_path: Path, member: str) -> None:
    (tmp_path / "split.json").write_text(f'{{"train": [{member}, {member}]}}')
    with pytest.raises(DataError):
        read_splits(tmp_path / "split.json")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('file,label;\t"\n\r{}[]:ax.png0\0\u2028é\\'), max_size=60),
       st.sampled_from(["csv", "tsv", "jsonl"]),
       st.sampled_from(["", "file,label,split\n", '{"file": "a.png"}\n']))  # fmt: skip
def test_any_list(tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str, head: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"list.{suffix}"
    path.write_text(head + text, encoding="utf-8", newline="")
    with pytest.raises(DataError):  # no image is there
        open_data(path)
    for read in (read_labels, read_splits):
        with suppress(DataError):
            assert all(isinstance(name, str) for name in read(path))


def test_what_cannot_be_opened_is_named(tmp_path: Path, class_folder: Folder) -> None:
    photos = class_folder({"cat": 3, "dog": 3})
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for wrong in ("folder.csv", "bytes.csv", "none.json"):
        with pytest.raises(DataError):
            open_data(photos, labels=tmp_path / wrong)
        with pytest.raises(DataError):
            open_data(photos, split_file=tmp_path / wrong)
    for spec in ("x" * 5000, "a\0b", "~nobody-of-that-name/photos", "list:x\0.csv", "flat:" + "y/" * 3000, "hf:",
                 "webdataset:a\0.tar", "webdataset:" + "z" * 5000):  # fmt: skip
        with pytest.raises(DataError):
            open_data(spec)


def test_class_names_enter_as_they_are(tmp_path: Path, paint: Any) -> None:
    for k, name in enumerate(ODD_NAMES):
        try:
            folder = tmp_path / "photos" / name.replace("/", "")
            folder.mkdir(parents=True)
        except UnicodeEncodeError:  # no file system has lone surrogates but those that stand for bytes
            continue
        for image in range(5):
            paint(10 * k + image).save(folder / f"{image}.png")
    splits = open_data(tmp_path / "photos")
    # But for bytes that are no UTF-8, which no record could hold: they are shown.
    whole = {name.replace("/", "").replace("\udcff", "\\udcff") for name in ODD_NAMES if name != "half\ud800"}
    assert set(splits.train.classes) == whole
    assert splits.train.fingerprint() != splits.test.fingerprint()  # type: ignore[union-attr]
    rows = [{"file": f"{name}/{image}.png", "label": "half\ud800" if name == "nan" else name}
            for shown in splits.train.classes for name in [shown.replace("\\udcff", "\udcff")]
            for image in range(5)]  # fmt: skip
    (tmp_path / "photos" / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    listed = open_data(tmp_path / "photos" / "list.jsonl")
    assert "half\\ud800" in listed.train.classes
    assert listed.train.fingerprint() != splits.train.fingerprint()


def test_names_are_shown_escaped(
    tmp_path: Path, class_folder: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = class_folder({"cat": 30, "dog": 30})
    (photos / "cat" / "\x1b[31m\nred\u202e.png").write_bytes(b"damaged")
    splits = open_data(photos)
    (note,) = (note for note in splits.notes if "skipped" in note)
    assert "\\x1b[31m\\nred\\u202e.png" in note
    assert splits.train.skipped[0].name == "cat/\x1b[31m\nred\u202e.png"
    folder = photos.rename(tmp_path / "pho\ntos\x1b")
    (folder / "mou\nse").mkdir()
    for spec in (folder, folder / "bi\nrd", folder / "mou\nse"):
        with pytest.raises(DataError) as caught:
            open_data(spec)
        assert str(caught.value).isprintable(), str(caught.value)
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "wrong\x1b.csv")
    assert str(caught.value).isprintable()


def tar_of(path: Path, *members: tuple[str, bytes]) -> bytearray:
    with tarfile.open(path, "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return bytearray(path.read_bytes())


def set_size(content: bytearray, start: int, size: bytes, kind: bytes | None = None) -> None:
    """Write a member's size (and kind) into its header at `start`, and the checksum that goes with it."""
    content[start + 124 : start + 136] = size
    if kind is not None:
        content[start + 156 : start + 157] = kind
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


@pytest.mark.parametrize("kind", [None, b"S", b"x", b"L", b"K"])
@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\x80" + b"\0" * 5 + b"\x10" + b"\0" * 5, b"\xff" * 12,
                                  b"77777777777\0", b"00000000000\0", b"no number!!\0"])  # fmt: skip
@pytest.mark.parametrize("start", [0, 1024])
def test_a_shard_that_promises_more_than_it_has(
    tmp_path: Path, kind: bytes | None, size: bytes, start: int
) -> None:
    """OverflowError, ValueError and OSError of tarfile, and memory for what is not there."""
    path = tmp_path / "train-0.tar"
    content = tar_of(path, ("a.png", b"x" * 300), ("b.png", b"y" * 300))
    set_size(content, start, size, kind)
    path.write_bytes(content)
    entries: tuple[Any, ...] = ()
    with suppress(DataError):
        entries = shard_listing(str(path)).entries
    source = FileSource([entry.content for entry in entries], [entry.name for entry in entries], Reading())
    assert len(source.unreadable()) == len(entries)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    """Of 4 kB a terabyte of zeros was made."""
    (tmp_path / "a.png").write_bytes(b"")
    os.truncate(tmp_path / "a.png", 2**40)
    made = subprocess.run(
        ["tar", "--sparse", "-cf", "train.tar", "a.png"], cwd=tmp_path, capture_output=True, check=False
    )
    if made.returncode or (tmp_path / "train.tar").stat().st_size > 10**6:
        pytest.skip("this system's tar writes no sparse members")
    with pytest.raises(DataError, match="sparse"):
        open_data(f"webdataset:{tmp_path}/train.tar")


def test_ranges_of_shards_have_an_end(tmp_path: Path) -> None:
    for pattern in (
        "a-{0..99999999999}.tar",
        "a-{0..999}-{0..999}-{0..999}.tar",
        "a-{0.." + "9" * 5000 + "}.tar",
    ):
        with pytest.raises(DataError, match="shards"):
            open_data(f"webdataset:{tmp_path}/{pattern}")


def test_what_raises_while_it_is_read_is_unreadable() -> None:
    def raises(kind: type[Exception]) -> Callable[[], bytes]:
        def read() -> bytes:
            raise kind("gone")

        return read

    kinds = (OSError, TypeError, MemoryError, KeyError)
    source = FileSource([raises(kind) for kind in kinds], ["a", "b", "c", "d"], Reading())
    assert {name: "gone" in str(skipped) for name, skipped in source.unreadable().items()} == dict.fromkeys(
        range(4), True
    )
    with pytest.raises(DataError, match="gone"):
        source.read(0)


def test_a_wrong_place_is_answered_without_torch(tmp_path: Path) -> None:
    """The slip in a path cost the import of torch, timm and more before anybody looked."""
    (tmp_path / "photos").mkdir()
    code = """
import sys
from selfmask.errors import DataError
from selfmask.images.place import place_of
assert place_of("cifar10").kind == "named"
assert place_of("photos").kind == "imagefolder"
try:
    place_of("photo")
except DataError as error:
    print(error)
assert not {"torch", "numpy", "timm", "PIL"} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    assert found.stdout == "there is no file, folder or data set called 'photo' (did you mean 'photos'?)\n"


def test_a_missing_folder_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for spec, message in (
        ("nowhere", "there is no file, folder or data set called 'nowhere'"),
        ("./nowhere", "there is no folder 'nowhere' here"),
        ("photos/trian", "there is no photos/trian (did you mean 'train'?)"),
        ("fotos/train/cat", "there is no fotos/train/cat: there is no folder 'fotos' here (did you mean 'photos'?)"),
        (str(tmp_path / "no" / "cat"), f"there is no {tmp_path}/no/cat: {tmp_path} has no 'no'"),
        ("list:nowhere.csv", "there is no file nowhere.csv"),
        ("cifar1O", "there is no file, folder or data set called 'cifar1O' (did you mean 'cifar10' or 'cifar100'?)"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            open_data(spec)
        assert str(caught.value) == message
