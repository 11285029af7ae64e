"""The nearest are those that NumPy finds by sorting all similarities, whatever the blocks; and only by the network
that made the embeddings."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

import selfmask
from selfmask.embeddings import search
from selfmask.embeddings.file import open_embeddings
from selfmask.embeddings.parts import METADATA
from selfmask.embeddings.record import Record
from selfmask.embeddings.search import nearest
from selfmask.errors import BackboneError, DataError, SelfmaskError, SettingsError
from selfmask.features import whitening
from selfmask.tasks import search as search_task

# Few values, so that many similarities are equal: then the lower row comes first.
matrices = st.integers(1, 4).flatmap(
    lambda width: st.tuples(
        *(
            arrays.arrays(
                np.float32,
                st.tuples(st.integers(1, 14), st.just(width)),
                elements=st.sampled_from([-1, 0, 1, 2]),
            )
            for _ in range(2)
        )
    )
)


@settings(deadline=None, max_examples=150)
@given(matrices, st.integers(1, 16), st.integers(1, 5), st.sampled_from([1, 7, 2**24]))
def test_the_nearest_are_numpy_s(both: tuple[np.ndarray, np.ndarray], k: int, block: int, held: int) -> None:
    known, queries = (torch.from_numpy(x) for x in both)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search, "_SIMILARITIES", held)
        found = nearest(known.split(block), queries, k)
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in both]
    cosine = unit[1].astype(np.float64) @ unit[0].astype(np.float64).T
    kept = min(k, len(known))
    assert found.rows.shape == found.similarities.shape == (len(queries), kept)
    expected = -np.sort(-cosine, axis=1)[:, :kept]
    assert np.allclose(found.similarities.numpy(), expected, atol=1e-6)
    chosen = np.take_along_axis(cosine, found.rows.numpy(), axis=1)
    assert np.allclose(chosen, expected, atol=1e-6)
    assert all(len(set(row)) == kept for row in found.rows.tolist())


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 6))
def test_of_equal_ones_the_lower_row(kinds: list[int], k: int, block: int) -> None:
    known = torch.eye(3)[torch.tensor(kinds)]  # similarities of 0 and 1 to the bit
    found = nearest(known.split(block), torch.eye(3)[:1], k)
    order = sorted(range(len(kinds)), key=lambda row: (kinds[row] != 0, row))
    assert found.rows.tolist() == [order[:k]]


def test_what_cannot_be_asked() -> None:
    with pytest.raises(SettingsError, match="k is how many"):
        nearest([torch.ones(2, 3)], torch.ones(1, 3), 0)
    with pytest.raises(SettingsError, match="width 4 among embeddings of width 3"):
        nearest([torch.ones(2, 3)], torch.ones(1, 4), 1)


@pytest.fixture(scope="module")
def made(used, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for end in ("parquet", "npy"):
        selfmask.embed(str(used.mask), str(used.photos), out=folder / f"e.{end}", weights=used.weights)
    return folder / "e.parquet"


@pytest.mark.parametrize("end", ["parquet", "npy"])
def test_a_folder_of_queries(used, made: Path, end: str) -> None:
    found = selfmask.search(made.with_suffix(f".{end}"), str(used.photos / "cat"), k=4)
    x = np.array(pq.read_table(made)["embedding"].to_pylist())
    names = pq.read_table(made)["path"].to_pylist()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert [answer.query for answer in found.answers] == [
        name[4:] for name in names if name.startswith("cat/")
    ]
    for row, answer in enumerate(found.answers):
        cosine = unit @ unit[row]
        assert answer.found[0].path == names[row]
        assert answer.found[0].similarity == pytest.approx(1, abs=1e-5)
        assert [hit.similarity for hit in answer.found] == pytest.approx(sorted(cosine)[:-5:-1], abs=1e-5)
        assert [cosine[names.index(hit.path)] for hit in answer.found] == pytest.approx(
            [hit.similarity for hit in answer.found], abs=1e-5
        )


@pytest.mark.parametrize("end", ["parquet", "npy"])
@pytest.mark.parametrize("most", [4, 20_000])
def test_whitened_by_numpy(
    used, made: Path, end: str, most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(search, "ENOUGH", most)
    found = selfmask.search(made.with_suffix(f".{end}"), str(used.photos / "cat"), k=3, whiten=True)
    x = np.array(pq.read_table(made)["embedding"].to_pylist())
    names = pq.read_table(made)["path"].to_pylist()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    some = unit[:: -(-len(unit) // most)]
    _, values, axes = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
    variances = values**2 / len(some)
    kept = values > 1e-9 * values[0]
    scale = np.sqrt(variances[kept] + 0.1 * variances[kept].mean())
    white = (unit - some.mean(axis=0)) @ axes[kept].T / scale
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    for answer in found.answers:
        cosine = white @ white[names.index(f"cat/{answer.query}")]
        assert [hit.similarity for hit in answer.found] == pytest.approx(sorted(cosine)[:-4:-1], abs=1e-4)
        assert [cosine[names.index(hit.path)] for hit in answer.found] == pytest.approx(
            [hit.similarity for hit in answer.found], abs=1e-4
        )


def test_uneven_embeddings_are_compared_whitened_unasked(
    used, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = str(used.photos / "cat")

    def found(**how: Any) -> Any:
        one = selfmask.search(made, query, k=3, **how)
        return one.answers, " ".join(one.notes)

    plain, white = (found(whiten=asked)[0] for asked in (False, True))
    assert plain != white
    monkeypatch.setattr(whitening, "FEWEST", 5)
    for uneven, wanted, said in ((0.0, white, True), (1.0, plain, False)):
        monkeypatch.setattr(whitening, "UNEVEN", uneven)
        answers, notes = found()
        assert answers == wanted
        assert ("compared whitened" in notes) == said
    monkeypatch.setattr(whitening, "UNEVEN", 0.0)
    monkeypatch.setattr(search, "UNASKED", 10)  # of more it would take long
    monkeypatch.setattr(search_task, "UNASKED", 10)
    answers, notes = found()
    assert answers == plain
    assert "compared as they are: over 10 embeddings are whitened where --whiten asks for it" in notes


def test_one_embedding_cannot_be_whitened(used, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(used.photos / "cat" / "03.png", tmp_path / "one")
    selfmask.embed(str(used.mask), str(tmp_path / "one"), out=tmp_path / "one.npy", weights=used.weights)
    with pytest.raises(DataError, match="holds 1 embedding: whitening needs two or more"):
        selfmask.search(tmp_path / "one.npy", str(tmp_path / "one"), whiten=True)


def test_a_table_that_a_spreadsheet_may_open(used, made: Path, tmp_path: Path) -> None:
    query = tmp_path / "=HYPERLINK(1).png"
    shutil.copy(used.photos / "cat" / "03.png", query)
    found = selfmask.search(made, str(query), k=2, out=tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == ["'=HYPERLINK(1).png"] * 2
    assert [row["path"] for row in rows] == [hit.path for hit in found.answers[0].found]
    assert [row["rank"] for row in rows] == ["1", "2"]


def test_another_network_is_refused(used, made: Path, tmp_path: Path) -> None:
    query = str(used.photos / "cat" / "03.png")
    with pytest.raises(SettingsError, match=r"is another network.*cannot be compared"):
        selfmask.search(made, query, run=used.root / "expert-0.safetensors")
    copy = tmp_path / "moved.safetensors"
    shutil.copy(used.mask, copy)
    assert selfmask.search(made, query, run=copy).answers == selfmask.search(made, query).answers
    other = tmp_path / used.weights.name
    save_file({name: t + 1 for name, t in load_file(used.weights).items()}, other)
    with pytest.raises(SelfmaskError, match="not the base"):
        selfmask.search(made, query, weights=other)
    alone = tmp_path / "alone.parquet"
    how: dict[str, Any] = {"backbone": "timm:test_resnet", "out": alone}
    selfmask.embed(str(used.photos), weights=used.weights, size=32, **how)
    assert selfmask.search(alone, query).answers[0].found[0].path == "cat/03.png"
    with pytest.raises(SettingsError, match="is another network"):
        selfmask.search(alone, query, weights=other)


def test_a_cascade_is_found_again(used, tmp_path: Path) -> None:
    out = tmp_path / "e.npy"
    selfmask.embed(str(used.cascade), str(used.photos), out=out, mode="unconditional", weights=used.weights)
    found = selfmask.search(out, str(used.photos / "cat" / "03.png"))
    assert found.answers[0].found[0].path == "cat/03.png"


def tampered(made: Path, out: Path, **changes: Any) -> Path:
    """The same embeddings by a file that says otherwise of the network."""
    table, record = pq.read_table(made), open_embeddings(made).record
    record = replace(record, made_by=replace(record.made_by, **changes))
    pq.write_table(table.replace_schema_metadata({METADATA: record.json()}), out)
    return out


def test_what_a_stranger_s_file_may_not_do(used, made: Path, tmp_path: Path) -> None:
    query = str(used.photos / "cat" / "03.png")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # reading it would never end
    for path in (str(pipe), "/dev/zero", str(tmp_path / "none"), "\0"):
        with pytest.raises(SettingsError, match="nothing is there: name it by --run"):
            selfmask.search(tampered(made, tmp_path / "t.parquet", path=path), query)
    with pytest.raises(SelfmaskError):
        selfmask.search(tampered(made, tmp_path / "t.parquet", size=10**9), query)
    record = replace(open_embeddings(made).record, width=2**31)
    with pytest.raises(DataError, match="of width 2147483648"):
        Record.read(record.json(), "it")
    for spec, said in (
        ("torchhub:a/b:c", "because a file says so"),
        ("timm:resnet10t.c3_in1k", "contacts no host"),
    ):
        alone: dict[str, Any] = {
            "kind": "backbone",
            "path": None,
            "weights": None,
            "backbone": {"spec": spec},
        }
        with pytest.raises(BackboneError, match=said):
            selfmask.search(tampered(made, tmp_path / "t.parquet", **alone), query)


def test_queries_that_cannot_be_read(used, made: Path, tmp_path: Path) -> None:
    shutil.copy(used.photos / "cat" / "03.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    found = selfmask.search(made, str(tmp_path))
    assert ([answer.query for answer in found.answers], [one.name for one in found.left_out]) == (
        ["a.png"],
        ["b.png"],
    )
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 2 queries"):
        selfmask.search(made, str(tmp_path))


def test_many_are_said_to_be_searched_exactly(used, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = str(used.photos / "cat" / "03.png")
    assert selfmask.search(made, query).notes == ()
    monkeypatch.setattr(search_task, "_MANY", 40)
    assert "all 48 embeddings were looked at, so this is exact" in selfmask.search(made, query).notes[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"k": 0}, "--k is how many"),
        ({"out": Path("x.png")}, r"ends in \.html"),
        ({"out": Path("e")}, "ends in"),
    ],
)
def test_settings_that_are_off(used, made: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        selfmask.search(made, str(used.photos), **more)
    with pytest.raises(SettingsError, match="file of embeddings itself"):
        selfmask.search(Path("e.csv"), "q.png", out=Path("e.csv"))
