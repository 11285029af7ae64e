"""Embeddings by several processes are the file that one process writes, whoever dies on the way."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import selfmask
from selfmask.cli import main
from selfmask.cluster import embedding
from selfmask.cluster.embedding import Workers
from selfmask.cluster.processes import Processes
from selfmask.embeddings.embedder import Embedder
from selfmask.embeddings.parts import Parts
from selfmask.errors import RunError, SettingsError
from selfmask.tasks.embed import write_embeddings
from selfmask.tasks.embedder import open_embedder


@pytest.fixture(autouse=True)
def _parts_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "part", property(lambda self: 10))


@pytest.fixture
def alone(photos, tmp_path: Path) -> bytes:
    """What one process writes."""
    out = tmp_path / "alone.parquet"
    made = selfmask.embed(str(photos.mask), str(photos.folder), out=out, weights=photos.weights, threads=1)
    assert (made.record.rows, made.record.left_out, made.parts) == (47, 1, 5)
    return out.read_bytes()


@pytest.mark.slow
def test_the_file_is_that_of_one_process_and_either_goes_on_for_the_other(
    ray, photos, tmp_path: Path, alone: bytes, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(photos.folder.parent)
    out = Path(os.path.relpath(tmp_path / "many.parquet"))
    with monkeypatch.context() as ended:
        ended.setattr(Parts, "assemble", lambda self, paths, record: record)
        selfmask.embed(str(photos.mask), str(photos.folder), out=out, weights=photos.weights, threads=1)
    for part in sorted((tmp_path / "many.parquet.parts").glob("part-*"))[1:]:
        part.unlink()
    capsys.readouterr()
    made = selfmask.embed("m.safetensors", "photos", out=out, weights=photos.weights, ray="local", workers=1)
    assert (made.parts, made.reused) == (5, 1)
    assert out.read_bytes() == alone
    assert "left out: 30-bad.png: not an image" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"alone.parquet", "many.parquet"}


def by_hand(photos, out: Path, workers: Workers, said: Console) -> Any:
    embedder = open_embedder(photos.mask, weights=photos.weights)
    return write_embeddings(embedder, str(photos.folder), out, "float32", said, partial(workers.make, said))


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(ray, photos, tmp_path: Path, alone: bytes, capsys) -> None:
    mask, weights, fallen = photos.mask, photos.weights, tmp_path / "fallen"

    def opening(device: str) -> Embedder:
        class Mortal(Embedder):
            """Dies at the third part, after half of its work, if nobody has."""

            def embed_entries(self, entries):
                if entries[0].name == "20.png" and not fallen.exists():
                    super().embed_entries(entries[:5])
                    fallen.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().embed_entries(entries)

        found = open_embedder(mask, weights=weights)
        return Mortal(found.backbone, found.made_by, found.mask)

    out = tmp_path / "many.parquet"
    made = by_hand(
        photos, out, Workers(ray, Processes.fitting(ray, 2, None, "auto"), opening), Console(stderr=True)
    )
    assert fallen.exists()
    assert (made.parts, out.read_bytes()) == (5, alone)
    assert "a worker died" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_it(ray, photos, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embedding, "_DEATHS", -1)  # the first one that dies is one too many

    def dying(device: str) -> Embedder:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(RunError, match="1 workers died one after another"):
        by_hand(
            photos, tmp_path / "x.parquet", Workers(ray, Processes(1, 1, "cpu"), dying), Console(quiet=True)
        )
    for count, device in ((3, "cpu"), (None, "cuda")):
        with pytest.raises(SettingsError, match=rf"2 cores and 0 GPUs, too few for {count or 1} processes"):
            Processes.fitting(ray, count, 1, device)


def test_a_worker_with_another_network_or_without_the_folder_is_told(photos, tmp_path: Path) -> None:
    embedder = open_embedder(photos.mask, weights=photos.weights)
    parts = Parts(tmp_path / "x.parquet", embedder.made_by.digest, embedder.width, "float32", False)

    def other(device: str) -> Embedder:
        return open_embedder(None, backbone="timm:test_resnet", weights=photos.weights)

    with pytest.raises(SettingsError, match="a worker finds another network"):
        embedding._Worker(other, parts, Processes(1, 1, "cpu")).ready()
    with pytest.raises(SettingsError, match=r"does not find .*x\.parquet\.parts"):
        embedding._Worker(lambda device: embedder, parts, Processes(1, 1, "cpu")).ready()


def test_without_ray_it_is_said_what_to_install(photos, tmp_path: Path, monkeypatch, capsys) -> None:

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("selfmask.cluster.connection.import_module", absent)
    words = ["embed", str(photos.mask), str(photos.folder), "--weights", str(photos.weights)]
    out = ["--out", str(tmp_path / "x.parquet")]
    assert main([*words, *out, "--ray", "local"]) == 2
    assert (
        capsys.readouterr().err
        == "selfmask embed: --ray needs the package ray: pip install 'selfmask[ray]'\n"
    )
    assert main([*words, *out, "--workers", "2"]) == 2
    assert "how many processes --ray uses" in capsys.readouterr().err
