"""Downloads by torchvision's real code from a stand-in server on this machine: named, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from selfmask._common.files import try_to_lock
from selfmask.errors import DataError
from selfmask.images import named
from selfmask.images.catalogue import CATALOGUE
from selfmask.images.named import get_named
from selfmask.images.opening import open_data


@dataclass
class Server:
    """What the stand-in serves, and how it misbehaves. `sent`: the files that it sent whole."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    status: int | None = None
    sent: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            body = state.files.get(name)
            if body is None or state.status is not None:
                self.send_error(state.status or 404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.headers.get("Method") == "HEAD":  # how torchvision asks where an address leads to
                return
            self.wfile.write(body if state.cut_after is None else body[: state.cut_after])
            state.sent.append(name)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield state
        httpd.shutdown()


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


def photographs(paint: Any, names: list[str]) -> dict[str, bytes]:
    members = {}
    for k, name in enumerate(names):
        stream = io.BytesIO()
        paint(k).save(stream, "JPEG")
        members[name] = stream.getvalue()
    return members


@pytest.fixture
def textures(server: Server, paint: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    """DTD of a few images, served in its own layout."""
    names = [f"{label}/{label}_{k}.jpg" for label in ("banded", "woven") for k in range(6)]
    members = photographs(paint, [f"dtd/images/{name}" for name in names])
    for split, part in (("train", names[::3]), ("val", names[1::3]), ("test", names[2::3])):
        members[f"dtd/labels/{split}1.txt"] = "\n".join(part).encode()
    serve_textures(server, archive("tar", members), monkeypatch)
    return server


def serve_textures(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["dtd.tar.gz"] = content
    monkeypatch.setattr(datasets.DTD, "_URL", f"{server.url}/dtd.tar.gz")
    monkeypatch.setattr(datasets.DTD, "_MD5", hashlib.md5(content).hexdigest())


def test_a_named_set_is_downloaded_when_opened(textures: Server, tmp_path: Path) -> None:
    said: list[str] = []
    splits = open_data("dtd", root=tmp_path, say=said.append)
    assert {split: len(part) for split, part in splits.parts().items()} == {
        "train": 4, "validation": 4, "test": 4,
    }  # fmt: skip
    assert splits.train.classes == ("banded", "woven")
    assert "licence: for research" in said[0]
    assert "625 MB" in said[0]
    assert str(tmp_path / "dtd" / "dtd") in said[0]
    assert {path.name for path in tmp_path.rglob("*") if path.suffix != ".jpg"} == {
        "dtd", "images", "labels", "banded", "woven", "train1.txt", "val1.txt", "test1.txt",
    }  # fmt: skip
    open_data("dtd", root=tmp_path, say=said.append)
    assert textures.sent == ["dtd.tar.gz"]


def test_what_is_there_already_stays(textures: Server, tmp_path: Path) -> None:
    split = {
        "train": [["banded/banded_0.jpg", 0, "banded"], ["woven/woven_0.jpg", 1, "woven"]],
        "val": [],
        "test": [],
    }
    (tmp_path / "dtd" / "dtd").mkdir(parents=True)
    (tmp_path / "dtd" / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    splits = open_data("dtd", root=tmp_path, say=lambda _: None)
    assert (len(splits.train), splits.test) == (2, None)


def test_an_interrupted_download_leaves_nothing_that_counts(textures: Server, tmp_path: Path) -> None:
    textures.cut_after = 600
    with pytest.raises(DataError, match=r"did not arrive.*Try again"):
        open_data("dtd", root=tmp_path, say=lambda _: None)
    assert CATALOGUE["dtd"].find(tmp_path) is None
    textures.cut_after = None
    assert len(open_data("dtd", root=tmp_path, say=lambda _: None).train) == 4


def test_half_of_what_an_archive_holds_is_not_taken_for_all(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision takes a set whose folder is there for complete, wherever unpacking it was broken off."""
    extract = tarfile.TarFile.extractall

    def broken_off(tar: tarfile.TarFile, path: Any, *args: Any, **options: Any) -> None:
        extract(tar, path, *args, **options)
        shutil.rmtree(Path(path) / "dtd" / "images" / "woven")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", broken_off)
        with pytest.raises(KeyboardInterrupt):
            get_named("dtd", tmp_path, say=lambda _: None)
    assert CATALOGUE["dtd"].find(tmp_path) is None
    splits = open_data("dtd", root=tmp_path, say=lambda _: None)
    assert splits.train.skipped == ()
    assert textures.sent == ["dtd.tar.gz"]  # the archive had arrived whole


def test_what_arrived_whole_is_not_fetched_again(
    server: Server, paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{breed}_{k}" for breed in ("Abyssinian", "pug") for k in range(2)]
    lists = {
        f"annotations/{split}.txt": "".join(f"{name} 1 1 1\n" for name in part).encode()
        for split, part in (("trainval", names[::2]), ("test", names[1::2]))
    }
    images = photographs(paint, [f"images/{name}.jpg" for name in names])
    files = {"images.tar.gz": images, "annotations.tar.gz": lists}
    contents = {name: archive("tar", members) for name, members in files.items()}
    resources = [
        (f"{server.url}/{name}", hashlib.md5(content).hexdigest()) for name, content in contents.items()
    ]
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", resources)
    server.files["images.tar.gz"] = contents["images.tar.gz"]
    with pytest.raises(DataError, match="404"):
        get_named("oxford_pets", tmp_path, say=lambda _: None)
    server.files |= contents
    assert open_data("oxford_pets", root=tmp_path, say=lambda _: None).train.classes == ("abyssinian", "pug")
    assert server.sent == ["images.tar.gz", "annotations.tar.gz"]
    assert not list(tmp_path.rglob("*.gz"))


def test_another_file_than_expected_is_refused(textures: Server, tmp_path: Path) -> None:
    textures.files["dtd.tar.gz"] += b"and more"
    with pytest.raises(DataError, match="did not arrive: File not found or corrupted"):
        get_named("dtd", tmp_path, say=lambda _: None)
    assert CATALOGUE["dtd"].find(tmp_path) is None


def test_cifar_comes_in_its_binary_version(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own class fetches the pickled one."""
    pixels = bytes(range(256)) * 12
    records = b"\x00" + pixels + b"\x01" + pixels
    members = {"cifar-10-batches-bin/batches.meta.txt": b"cat\ndog\n"} | {
        f"cifar-10-batches-bin/{name}.bin": records
        for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    }
    server.files["kriz.tar.gz"] = archive("tar", members)
    asked = []

    def download(url: str, folder: Path, md5: str) -> None:
        asked.append((url, md5))
        own(f"{server.url}/kriz.tar.gz", folder, md5=hashlib.md5(server.files["kriz.tar.gz"]).hexdigest())

    utils = import_module("torchvision.datasets.utils")
    own = utils.download_and_extract_archive
    monkeypatch.setattr(utils, "download_and_extract_archive", download)
    assert len(open_data("cifar10", root=tmp_path, say=lambda _: None).train) == 10
    assert asked == [
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
    ]


def test_the_versions_of_inaturalist_take_the_names_of_their_archives(
    tmp_path: Path, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(root: Path, version: str, download: bool) -> None:
        for species in ("00000_a", "00001_b"):
            (root / version / species).mkdir(parents=True)
            paint(0).save(root / version / species / "0.jpg")
        (root / f"{version}.tgz").write_bytes(b"")

    monkeypatch.setattr(datasets, "INaturalist", fetched)
    monkeypatch.setattr(named.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**15, 0, 10**15))  # pyright: ignore
    assert get_named("inaturalist", tmp_path, say=lambda _: None) == tmp_path / "inaturalist"
    assert {path.name for path in (tmp_path / "inaturalist").iterdir()} == {"train_mini", "val"}
    assert len(open_data("inaturalist", root=tmp_path).train) == 2


def test_refusals_and_silence_are_reported(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    textures.status = 503
    with pytest.raises(DataError, match="503"):
        get_named("dtd", tmp_path, say=lambda _: None)
    monkeypatch.setattr(datasets.DTD, "_URL", "http://127.0.0.1:9/dtd.tar.gz")
    with pytest.raises(DataError, match=r"did not arrive.*refused"):
        get_named("dtd", tmp_path, say=lambda _: None)
    assert CATALOGUE["dtd"].find(tmp_path) is None


def test_a_silent_server_is_not_waited_for(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision sets no limit of its own."""
    import socket

    monkeypatch.setattr(named, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.DTD, "_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/dtd.tar.gz")
        with pytest.raises(DataError, match="timed out"):
            get_named("dtd", tmp_path, say=lambda _: None)
    assert socket.getdefaulttimeout() is None


def test_a_full_disk_is_noticed_before(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "dtd", replace(CATALOGUE["dtd"], megabytes=10**12))
    with pytest.raises(DataError, match="free"):
        get_named("dtd", tmp_path, say=lambda _: None)
    assert textures.sent == []


def test_archives_stay_in_their_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_textures(server, archive("tar", {"../../../../outside.txt": b"no"}), monkeypatch)
    with pytest.raises(DataError, match="outside"):
        get_named("dtd", tmp_path / "inside", say=lambda _: None)
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_large_set_is_downloaded_only_on_request(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "AUTOMATIC_LIMIT", 100)
    with pytest.raises(DataError, match="selfmask data get dtd"):
        open_data("dtd", root=tmp_path)
    assert textures.sent == []
    assert (get_named("dtd", tmp_path, say=lambda _: None) / "images").is_dir()
    assert len(open_data("dtd", root=tmp_path).train) == 4


def test_offline_says_what_to_put_where(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    textures.status = 500
    with pytest.raises(DataError, match=r"unpack the archives") as caught:
        open_data("dtd", root=tmp_path, say=lambda _: None)
    assert str(tmp_path / "dtd" / "dtd") in str(caught.value)
    textures.status = None
    monkeypatch.setenv("SELFMASK_OFFLINE", "1")
    with pytest.raises(DataError, match=r"unpack the archives"):
        open_data("dtd", root=tmp_path)
    assert textures.sent == []
    with pytest.raises(DataError, match="did you mean 'eurosat'"):
        get_named("eurosad", tmp_path, say=lambda _: None)
    with pytest.raises(DataError, match="UCF-101-midframes"):
        get_named("ucf101", tmp_path, say=lambda _: None)


def test_every_known_set_is_downloaded_or_says_how_to_have_it() -> None:
    for data in CATALOGUE.values():
        assert bool(data.fetch) != bool(data.by_hand)
        assert bool(data.fetch) == bool(data.megabytes)


def test_two_at_once_fetch_a_set_once(
    textures: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "_LOOK", 0.01)
    said: list[str] = []
    with (tmp_path / ".dtd-lock").open("a+") as lock:
        assert try_to_lock(lock)
        waiting = threading.Thread(target=get_named, args=("dtd", tmp_path), kwargs={"say": said.append})
        waiting.start()
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == ["Another process is downloading dtd: waiting for it"]
        assert not textures.sent
    waiting.join(20)
    assert not waiting.is_alive()
    assert "Downloading dtd" in said[1]
    assert len(textures.sent) == 1
    get_named("dtd", tmp_path, say=said.append)
    assert len(textures.sent) == 1
    assert not list(tmp_path.glob(".dtd*"))
