"""`selfmask embed` writes what the embedder gives, in both forms, and a killed one goes on to the same file."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import selfmask
from selfmask.embeddings.embedder import Embedded, Embedder
from selfmask.embeddings.file import open_embeddings
from selfmask.embeddings.parts import Dtype, Parts
from selfmask.embeddings.record import MadeBy, Record
from selfmask.errors import DataError, RunError, SettingsError
from selfmask.images.every import every_image
from selfmask.images.listing import Entry
from selfmask.images.sources import Skipped
from selfmask.maskset import MaskSet
from selfmask.tasks.embedder import open_embedder


def read(path: Path) -> torch.Tensor:
    return torch.cat(list(open_embeddings(path).blocks()))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "part", property(lambda self: 10))


def test_both_forms_hold_what_the_network_gives(used, tmp_path: Path) -> None:
    embedder = open_embedder(used.mask, weights=used.weights)
    expected = embedder.embed_entries(list(every_image(used.photos)))
    how: dict[str, Any] = {"weights": used.weights, "threads": 1}
    made = selfmask.embed(str(used.mask), str(used.photos), out=tmp_path / "e.parquet", **how)
    selfmask.embed(str(used.mask), str(used.photos), out=tmp_path / "e.npy", **how)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["path"].to_pylist() == list(expected.names)
    assert torch.equal(torch.tensor(table["embedding"].to_pylist()), expected.x)
    assert np.array_equal(np.load(tmp_path / "e.npy"), expected.x.numpy())
    assert json.loads((tmp_path / "e.json").read_text())["path"] == list(expected.names)
    one, two = (open_embeddings(tmp_path / f"e.{end}") for end in ("parquet", "npy"))
    assert one.record == two.record == made.record
    assert one.record.made_by == embedder.made_by
    assert one.names([5, 0, 47]) == two.names([5, 0, 47]) == {k: expected.names[k] for k in (0, 5, 47)}
    assert torch.equal(read(one.path), read(two.path))
    assert {p.name for p in tmp_path.iterdir()} == {"e.parquet", "e.npy", "e.json"}

    selfmask.embed(str(used.mask), str(used.photos), out=tmp_path / "h.parquet", float16=True, **how)
    assert str(pq.read_schema(tmp_path / "h.parquet").field("embedding").type.value_type) == "halffloat"
    assert torch.equal(read(tmp_path / "h.parquet"), expected.x.half().float())


@pytest.mark.parametrize("kind", ["mask", "cascade"])
def test_the_backbone_as_it_was_sees_what_the_network_sees(used, tmp_path: Path, kind: str) -> None:
    network, out = getattr(used, kind), tmp_path / "before.parquet"
    base = used.base()
    sees = replace(base.preprocessing, size=32, crop=0.5)
    if kind == "mask":
        masks = MaskSet(base.module, norm_stats="frozen")
        masks.set_scores({name: torch.rand(s.shape) - 0.1 for name, s in masks.scores.items()})
        about = {"backbone": base.describe(), "preprocessing": sees.describe()}
        network = masks.save(tmp_path / "m.safetensors", **about)
        masks.remove()
    else:
        sees = open_embedder(network, weights=used.weights).backbone.preprocessing
    made = selfmask.embed(str(network), str(used.photos), out=out, weights=used.weights, untouched=True)
    assert (made.record.made_by.kind, made.record.made_by.size) == ("backbone", 32)
    base.preprocessing = sees
    expected = Embedder(base, made.record.made_by).embed_entries(list(every_image(used.photos)))
    assert torch.allclose(read(out), expected.x, atol=1e-5)
    for backbone in (None, "timm:test_resnet"):  # searched by the same views
        found = selfmask.search(out, str(used.photos), k=1, weights=used.weights, backbone=backbone)
        assert all(one.query == one.found[0].path for one in found.answers)
    with pytest.raises(SettingsError, match="a backbone alone is untouched anyway"):
        selfmask.embed(str(used.photos), backbone="timm:test_resnet", out=out, untouched=True)


def test_a_cascade_s_experts_come_along(used, tmp_path: Path, small_parts: None) -> None:
    experts = open_embedder(used.cascade, weights=used.weights).embed(used.images())[1]
    assert experts is not None
    for end in ("parquet", "npy"):
        selfmask.embed(str(used.cascade), str(used.photos), out=tmp_path / f"e.{end}", weights=used.weights)
        assert len(open_embeddings(tmp_path / f"e.{end}")) == 48
    assert pq.read_table(tmp_path / "e.parquet")["expert"].to_pylist() == experts.tolist()
    assert json.loads((tmp_path / "e.json").read_text())["expert"] == experts.tolist()


def test_a_backbone_alone_and_one_image(used, tmp_path: Path) -> None:
    image = next(used.photos.rglob("*.png"))
    made = selfmask.embed(
        str(image), backbone="timm:test_resnet", weights=used.weights, out=tmp_path / "e.npy"
    )
    assert made.record.made_by.kind == "backbone"
    assert made.record.images == str(image)
    assert open_embeddings(tmp_path / "e.npy").names([0]) == {0: image.name}


def test_bad_images_are_named_and_left_out(used, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(used.photos, photos)
    (photos / "cat" / "a\x1b[31m.png").write_bytes(b"no image")
    (photos / "zz.jpg").write_bytes(b"")
    made = selfmask.embed(str(used.mask), str(photos), out=tmp_path / "e.parquet", weights=used.weights)
    assert [one.name for one in made.record.skipped] == ["cat/a\x1b[31m.png", "zz.jpg"]
    assert (made.record.left_out, made.record.rows) == (2, 48)
    said = capsys.readouterr().err
    assert "left out: zz.jpg: the file is empty" in said
    assert "cat/a\\x1b[31m.png" in said
    assert "\x1b" not in said
    assert open_embeddings(tmp_path / "e.parquet").record == made.record
    shutil.rmtree(photos / "cat")
    shutil.rmtree(photos / "dog")
    with pytest.raises(
        DataError, match=r"none of the 1 images .* can be read \(zz\.jpg: the file is empty\)"
    ):
        selfmask.embed(str(used.mask), str(photos), out=tmp_path / "e.parquet", weights=used.weights)
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


KILLED = """
import os, signal
import selfmask
from selfmask._common import files
from selfmask.embeddings.embedder import Embedder
Embedder.part = property(lambda self: 10)
left, replace = [2], os.replace
def killed(*names):  # when the third part is written but for its name
    left[0] -= 1
    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
files.os.replace = killed
selfmask.embed(run, photos, out=out, weights=weights, threads=1)
"""


class Ended(BaseException):
    """The end of a process, for a test that goes on."""


@pytest.mark.parametrize(
    ("when", "there", "end"),
    [
        pytest.param("kill -9", 2, "parquet", marks=pytest.mark.slow),
        ("after a part", 3, "npy"),
        ("at the end", 5, "parquet"),
    ],
)
def test_a_killed_one_goes_on_to_the_same_file(
    used, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch, when: str, there: int, end: str
) -> None:
    run, photos, out = str(used.mask), str(used.photos), tmp_path / f"e.{end}"
    write, left = Parts.write, [3]

    def written(*part: Any) -> None:
        write(*part)
        left[0] -= 1
        if left[0] == 0:
            raise Ended

    if when == "kill -9":
        context = multiprocessing.get_context("forkserver")  # with what the tests of commands have it import
        names = {"run": run, "photos": photos, "out": str(out), "weights": str(used.weights)}
        process = context.Process(target=exec, args=(KILLED, names))
        process.start()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL
    else:
        with monkeypatch.context() as patched:
            if when == "at the end":
                patched.setattr(Parts, "_opened", lambda *_: (_ for _ in ()).throw(Ended))
            else:
                patched.setattr(Parts, "write", written)
            with pytest.raises(Ended):
                selfmask.embed(run, photos, out=out, weights=used.weights, threads=1)
    assert not out.exists()
    asked: list[int] = []
    embedded = Embedder._embedded
    monkeypatch.setattr(Embedder, "_embedded", lambda *a: (asked.append(1), embedded(*a))[1])
    made = selfmask.embed(run, photos, out=out, weights=used.weights, threads=1)
    assert (made.parts, made.reused, len(asked)) == (5, there, 5 - there)
    selfmask.embed(run, photos, out=tmp_path / "whole" / out.name, weights=used.weights, threads=1)
    assert out.read_bytes() == (tmp_path / "whole" / out.name).read_bytes()
    assert not out.with_name(f"{out.name}.parts").exists()


def test_another_network_s_parts_and_changed_images_are_not_taken(
    used, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "e.parquet"
    shutil.copytree(used.photos, photos)
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "assemble", lambda *_: (_ for _ in ()).throw(RunError("killed")))
        for network in (used.mask, used.cascade):
            with pytest.raises(RunError):
                selfmask.embed(str(network), str(photos), out=out, weights=used.weights)
    first = sorted(photos.rglob("*.png"))[0]
    first.write_bytes(first.with_name("03.png").read_bytes())
    made = selfmask.embed(str(used.mask), str(photos), out=out, weights=used.weights)
    assert (made.parts, made.reused) == (5, 4)
    expected = open_embedder(used.mask, weights=used.weights).embed_entries(list(every_image(photos)))
    assert torch.allclose(read(out), expected.x, atol=1e-5)


@pytest.mark.parametrize("kind", ["webdataset", "hf"])
def test_parts_of_a_shard_that_has_changed_are_not_taken(
    used, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out, photos = tmp_path / "e.parquet", sorted(used.photos.rglob("*.png"))
    shard = tmp_path / "set" / ("train.tar" if kind == "webdataset" else "train.parquet")
    shard.parent.mkdir()
    images = f"{kind}:{shard if kind == 'webdataset' else shard.parent}"

    def pack(order: list[Path]) -> None:
        if kind == "hf":
            datasets = pytest.importorskip("datasets", reason="needs the extra 'datasets'")
            rows, features = [str(path) for path in order], datasets.Features({"image": datasets.Image()})
            datasets.Dataset.from_dict({"image": rows}, features).to_parquet(str(shard))
            return
        with tarfile.open(shard, "w") as tar:
            for k, path in enumerate(order):
                tar.add(path, f"{k:03d}.png")

    pack(photos)
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "assemble", lambda *_: (_ for _ in ()).throw(RunError("killed")))
        for _ in range(2):
            with pytest.raises(RunError):
                selfmask.embed(str(used.mask), images, out=out, weights=used.weights)
    assert len(list(out.with_name(f"{out.name}.parts").glob("*.parquet"))) == 5  # the first time's
    pack(photos[::-1])
    made = selfmask.embed(str(used.mask), images, out=out, weights=used.weights)
    assert made.reused == 0


def test_a_damaged_part_is_named(
    used, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.parquet"

    def killed(self: Parts, paths: list[Path], record: object) -> None:
        content = paths[0].read_bytes()
        paths[0].write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
        raise RunError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "assemble", killed)
        with pytest.raises(RunError):
            selfmask.embed(str(used.mask), str(used.photos), out=out, weights=used.weights)
    with pytest.raises(DataError, match="is damaged"):
        selfmask.embed(str(used.mask), str(used.photos), out=out, weights=used.weights)


def test_two_at_once_are_refused(used, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    with Parts(out, "0", 3, "float32", False).held(), pytest.raises(RunError, match="another process"):
        selfmask.embed(str(used.mask), str(used.photos), out=out, weights=used.weights)


MADE = MadeBy("0" * 32, "mask", "/m", None, 32, {"spec": "x"})
finite = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 9), st.just(3)), elements=st.floats(-9, 9, width=16)
)
names = st.text(max_size=6) | st.sampled_from(["half \udc80", "=cmd", "a\nb", "\x00"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(),
    st.lists(finite, min_size=1, max_size=4),
    st.sampled_from(["float32", "float16"]),
    st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    blocks: list[np.ndarray],
    dtype: Dtype,
    experts: bool,
) -> None:
    folder = tmp_path_factory.mktemp("f")
    found = [
        Embedded(
            tuple(data.draw(names) for _ in x), torch.from_numpy(x),
            torch.arange(len(x)) if experts else None, (Skipped("bad", "why"),),
        )
        for x in blocks
    ]  # fmt: skip
    expected, rows = np.concatenate(blocks), sum(map(len, blocks))
    for end in ("parquet", "npy"):
        parts = Parts(folder / f"e.{end}", "d", 3, dtype, experts)
        paths = [parts.path(k, [Entry(f"{k}", Path("x"))]) for k in range(len(found))]
        for path, one in zip(paths, found, strict=True):
            parts.write(path, one)
        if rows == 0:
            with pytest.raises(DataError, match="none of the"):
                parts.assemble(paths, Record(MADE, "/x", 0, 3, dtype))
            continue
        parts.assemble(paths, Record(MADE, "/x", 0, 3, dtype))
        opened = open_embeddings(parts.out)
        assert torch.equal(torch.cat(list(opened.blocks())), torch.from_numpy(expected))
        said = [name for one in found for name in one.names]
        shown = [name.encode("utf-8", "backslashreplace").decode() for name in said]
        assert list(opened.names(range(rows)).values()) == shown
        assert (opened.record.rows, opened.record.left_out) == (rows, len(blocks))


def test_what_float16_cannot_hold(used, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "e.parquet", "d", 1, "float16", False)
    with pytest.raises(SettingsError, match="too large for float16"):
        parts.write(tmp_path / "p", Embedded(("a",), torch.tensor([[7e4]]), None))


@pytest.mark.parametrize("out", ["e.csv", "e", "photos"])
def test_where_it_may_not_be_written(used, tmp_path: Path, out: str) -> None:
    with pytest.raises(SettingsError, match=r"ends in \.parquet or \.npy"):
        selfmask.embed(str(used.mask), str(used.photos), out=tmp_path / out)
    with pytest.raises(SettingsError, match="name the images"):
        selfmask.embed(str(used.mask))


def test_a_json_of_somebody_elses_is_not_taken_for_the_names(used, tmp_path: Path) -> None:
    images, theirs = str(used.photos), tmp_path / "e.json"
    theirs.write_text('{"mine": 1}')
    with pytest.raises(SettingsError, match=r"e\.json is there, and is not what selfmask embed wrote"):
        selfmask.embed(str(used.mask), images, out=tmp_path / "e.npy", weights=used.weights)
    assert theirs.read_text() == '{"mine": 1}'
    theirs.unlink()
    for _ in range(2):  # the names of the first time are its own
        selfmask.embed(str(used.mask), images, out=tmp_path / "e.npy", weights=used.weights)


def test_files_that_were_tampered_with(used, tmp_path: Path) -> None:
    out = tmp_path / "e.npy"
    selfmask.embed(str(used.mask), str(used.photos), out=out, weights=used.weights)
    beside = json.loads((tmp_path / "e.json").read_text())

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            list(open_embeddings(out).blocks())

    (tmp_path / "e.json").write_text(json.dumps({**beside, "path": beside["path"][1:]}))
    refused("do not belong together")
    (tmp_path / "e.json").write_text(json.dumps({**beside, "record": {}}))
    refused("damaged")
    (tmp_path / "e.json").unlink()
    refused(r"needs e\.json")
    (tmp_path / "e.json").write_text(json.dumps(beside))
    np.save(out, np.full((48, 96), np.nan, np.float32))
    refused("not finite")
    np.save(out, np.array([{}], dtype=object))
    refused(r"no.* \.npy file of numbers")
    out = tmp_path / "o.parquet"
    pq.write_table(pa.table({"path": ["a"], "embedding": [[1.0]]}), out)
    refused("was not written by selfmask embed")
    out.write_bytes(b"PAR1 and no more")
    refused("not a Parquet file")


@pytest.mark.parametrize("where", [(np.lib.format, "write_array_header_1_0"), (os, "fsync")])
def test_an_older_npy_stays_whole_where_the_new_one_does_not_come_to_its_end(
    where: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path / "e.npy", "d", 3, "float32", False)
    path = parts.path(0, [Entry("0", Path("x"))])
    one = Embedded(("a",), torch.ones(1, 3), None, ())
    parts.write(path, one)
    parts.assemble([path], Record(MADE, "/x", 0, 3, "float32"))
    parts.write(path, replace(one, x=torch.zeros(1, 3)))

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*where, full)
    with pytest.raises(OSError, match="No space"):
        parts.assemble([path], Record(MADE, "/x", 0, 3, "float32"))
    assert torch.equal(torch.cat(list(open_embeddings(parts.out).blocks())), torch.ones(1, 3))
