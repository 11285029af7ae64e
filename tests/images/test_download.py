"""Downloads against a stand-in server on this machine: resumed, checked, named, refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from selfmask.errors import DataError
from selfmask.images import catalogue, named
from selfmask.images.download import Download, fetch, readable, unpack
from selfmask.images.named import get_named
from selfmask.images.opening import open_data

CONTENT = bytes(range(256)) * 4000


@dataclass
class Server:
    """What the stand-in serves, and how it misbehaves. `asked`: the ranges of the requests, as they came."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    ranges: bool = True
    status: int | None = None
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            body = state.files.get(self.path.lstrip("/"))
            if body is None or state.status is not None:
                self.send_error(state.status or 404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            rest = body[start:]
            self.wfile.write(rest if state.cut_after is None else rest[: state.cut_after])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield state
        httpd.shutdown()


def described(server: Server, name: str, content: bytes, **options: Any) -> Download:
    server.files[name] = content
    return Download(f"{server.url}/{name}", len(content), hashlib.sha256(content).hexdigest(), **options)


def test_a_file_arrives_whole_and_is_named_first(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    said: list[str] = []
    path = fetch(download, tmp_path / "new", said.append)
    assert path.read_bytes() == CONTENT
    assert [child.name for child in path.parent.iterdir()] == ["data.bin"]
    assert said == [f"Downloading data.bin (1 MB) from {server.url}/data.bin to {tmp_path / 'new'}"]
    fetch(download, tmp_path / "new", said.append)
    assert len(server.asked) == len(said) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    server.cut_after = 600_000
    with pytest.raises(DataError, match=r"early.*try again"):
        fetch(download, tmp_path, lambda _: None)
    assert not (tmp_path / "data.bin").exists()
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:600_000]
    said: list[str] = []
    assert fetch(download, tmp_path, said.append).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=600000-"]
    assert "of which 600 kB are here" in said[0]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    (tmp_path / "data.bin.part").write_bytes(b"from an earlier attempt")
    server.ranges = False
    assert fetch(download, tmp_path, lambda _: None).read_bytes() == CONTENT


def test_a_complete_part_needs_no_connection(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(download, tmp_path, lambda _: None).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("served", [b"x" * len(CONTENT), CONTENT + b"and more"])
def test_another_file_than_expected_is_refused_and_removed(
    server: Server, tmp_path: Path, served: bytes
) -> None:
    download = described(server, "data.bin", CONTENT)
    server.files["data.bin"] = served
    with pytest.raises(DataError, match=r"SHA-256|longer than"):
        fetch(download, tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_too_long_is_not_used(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    (tmp_path / "data.bin.part").write_bytes(CONTENT * 2)
    assert fetch(download, tmp_path, lambda _: None).read_bytes() == CONTENT


def test_refusals_and_silence_are_reported(server: Server, tmp_path: Path) -> None:
    download = described(server, "data.bin", CONTENT)
    server.status = 503
    with pytest.raises(DataError, match="503"):
        fetch(download, tmp_path, lambda _: None)
    nobody = replace(download, url="http://127.0.0.1:9/data.bin")
    with pytest.raises(DataError, match="cannot be reached"):
        fetch(nobody, tmp_path / "new", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before(server: Server, tmp_path: Path) -> None:
    download = replace(described(server, "data.bin", CONTENT), size=10**18)
    with pytest.raises(DataError, match="free"):
        fetch(download, tmp_path, lambda _: None)
    assert server.asked == []


def archive(kind: str, members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            for name, body in members.items():
                file.writestr(name, body)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, body in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_unpacked_beside_what_is_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "split.json").write_text("kept")
    (tmp_path / "a").write_bytes(archive(kind, {"set/x/1.txt": b"one", "set/2.txt": b"two"}))
    unpack(tmp_path / "a", tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a", "set/split.json", "set/x/1.txt", "set/2.txt"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_stay_in_their_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(archive(kind, {"../outside.txt": b"no"}))
    with pytest.raises(DataError):
        unpack(tmp_path / "a", tmp_path / "inside")
    assert not (tmp_path / "outside.txt").exists()
    assert list((tmp_path / "inside").iterdir()) == []
    (tmp_path / "a").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "a", tmp_path / "inside")


@pytest.fixture
def small_eurosat(server: Server, paint: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    """EuroSAT of a few images, served in its own layout."""
    members = {}
    for label in ("Forest", "River"):
        for k in range(5):
            stream = io.BytesIO()
            paint(k).save(stream, "JPEG")
            members[f"2750/{label}/{label}_{k}.jpg"] = stream.getvalue()
    download = described(server, "EuroSAT.zip", archive("zip", members))
    changed = replace(catalogue.CATALOGUE["eurosat"], downloads=(download,))
    monkeypatch.setitem(catalogue.CATALOGUE, "eurosat", changed)
    return server


def test_a_named_set_is_downloaded_when_opened(small_eurosat: Server, tmp_path: Path) -> None:
    said: list[str] = []
    splits = open_data("eurosat", root=tmp_path, say=said.append)
    assert (len(splits.train), splits.train.classes) == (8, ("Forest", "River"))
    assert "MIT" in said[0]
    assert "Downloading EuroSAT.zip" in said[1]
    assert [path.name for path in (tmp_path / "eurosat").iterdir()] == ["2750"]
    open_data("eurosat", root=tmp_path, say=said.append)
    assert len(small_eurosat.asked) == 1


def test_a_large_set_is_downloaded_only_on_request(
    small_eurosat: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "AUTOMATIC_LIMIT", 100)
    with pytest.raises(DataError, match="selfmask data get eurosat"):
        open_data("eurosat", root=tmp_path)
    assert small_eurosat.asked == []
    assert (get_named("eurosat", tmp_path, say=lambda _: None) / "2750").is_dir()
    assert len(open_data("eurosat", root=tmp_path).train) == 8


def test_offline_says_what_to_put_where(
    small_eurosat: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_eurosat.status = 500
    with pytest.raises(DataError, match=r"put http.*EuroSAT.zip") as caught:
        open_data("eurosat", root=tmp_path, say=lambda _: None)
    assert str(tmp_path / "eurosat") in str(caught.value)
    asked = len(small_eurosat.asked)
    monkeypatch.setenv("SELFMASK_OFFLINE", "1")
    with pytest.raises(DataError, match="put http"):
        open_data("eurosat", root=tmp_path)
    assert len(small_eurosat.asked) == asked
    with pytest.raises(DataError, match="did you mean 'eurosat'"):
        get_named("eurosad", tmp_path, say=lambda _: None)
    with pytest.raises(DataError, match="UCF-101-midframes"):
        get_named("ucf101", tmp_path, say=lambda _: None)


def test_sizes_in_words() -> None:
    assert [readable(size) for size in (502, 14_989, 625_239_812, 4_996_278_331, 39_077_296_924)] == [
        "502 bytes", "15 kB", "625 MB", "5.0 GB", "39.1 GB",
    ]  # fmt: skip


def test_every_known_download_is_described_in_full() -> None:
    for data in catalogue.CATALOGUE.values():
        assert bool(data.downloads) != bool(data.by_hand)
        for download in data.downloads:
            assert download.url.startswith("https://")
            assert len(download.sha256) == 64
            assert download.size > 0
