"""Pushing to and pulling from a hub: the real client against a stand-in of the hub's API on this machine's loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from torch import nn

import selfmask
from selfmask.cli import main
from selfmask.errors import HubError, MaskFileError, MissingExtraError, SettingsError
from selfmask.features.rows import Estimate, Row, Rows
from selfmask.run.result import Result, Seconds
from selfmask.tasks import hub
from selfmask.tasks.card import GENERATED
from selfmask.tasks.hub import commit_of, save_from_hub
from selfmask.tasks.publish import PushSettings

# The client's own, of how it calls the library below it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

TOKEN = "hf_" + "x" * 34


@dataclass
class Repository:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    @property
    def shas(self) -> list[str]:
        return [hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest() for files in self.commits]

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        shas = self.shas
        if revision == "main":
            return shas[-1], self.commits[-1]
        return (revision, self.commits[shas.index(revision)]) if revision in shas else None


class StandIn(http.server.ThreadingHTTPServer):
    """As much of the hub's API as pushing and pulling use; what it knows is in `repositories`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.cut: int | None = None  # break a download off after so many bytes
        self.refuse: tuple[int, str] | None = None  # answer everything with this status and error code


class Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = content if self.server.cut is None else content[: self.server.cut]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        if len(sent) < len(content):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def begin(self) -> tuple[str, bytes] | None:
        """The path and the body; None where the answer is a refusal that was asked for."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        if self.server.refuse is not None:
            status, code = self.server.refuse
            self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)
            return None
        return path, body

    @property
    def signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def visible(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.signed_in):
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def do_POST(self) -> None:
        got = self.begin()
        if got is None:
            return
        path, body = got
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            assert isinstance(yaml.safe_load(head), dict)
            self.answer(200, {"errors": [], "warnings": []})
        elif not self.signed_in:
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            exists = name in self.server.repositories
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.server.repositories.setdefault(name, Repository(private))
            self.answer(409 if exists else 200, {"url": f"{self.server.address}/{name}"})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            if self.visible(found[1]):
                modes = [(f["path"], f["path"].endswith(".safetensors")) for f in json.loads(body)["files"]]
                files = [
                    {"path": p, "uploadMode": "lfs" if big else "regular", "shouldIgnore": False}
                    for p, big in modes
                ]
                self.answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.address}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            if repository := self.visible(found[1]):
                files = dict(repository.commits[-1])
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        files[line["value"]["path"]] = self.server.blobs[line["value"]["oid"]]
                repository.commits.append(files)
                url = f"{self.server.address}/{found[1]}/commit/{repository.shas[-1]}"
                self.answer(200, {"commitUrl": url, "commitOid": repository.shas[-1]})
        else:
            self.answer(404)

    def do_PUT(self) -> None:
        got = self.begin()
        if got is not None:
            self.server.blobs[hashlib.sha256(got[1]).hexdigest()] = got[1]
            self.answer(200)

    def do_GET(self) -> None:
        got = self.begin()
        if got is None:
            return
        if found := re.fullmatch(r"/(?!api/)(.+)/resolve/([^/]+)/(.+)", got[0]):
            if repository := self.visible(found[1]):
                at = repository.files(found[2])
                if at is None:
                    self.answer(404, X_Error_Code="RevisionNotFound")
                elif found[3] not in at[1]:
                    self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=at[0])
                else:
                    content = at[1][found[3]]
                    tag = hashlib.sha256(content).hexdigest()
                    self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=at[0])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", got[0]):
            if repository := self.visible(found[1]):
                siblings = [{"rfilename": name} for name in repository.commits[-1]]
                info = {"_id": "0", "id": found[1], "sha": repository.shas[-1], "private": repository.private}
                self.answer(200, {**info, "siblings": siblings, "tags": []})
        else:
            self.answer(404)

    do_HEAD = do_GET


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, with a client that has no token of its own, keeps its cache here, and can reach nothing else."""
    import huggingface_hub
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its Rust client speaks to other servers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    look_up = socket.getaddrinfo

    def only_here(host: Any, *rest: Any, **more: Any) -> Any:
        assert host in ("127.0.0.1", b"127.0.0.1"), f"a test reached for {host!r}"
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    getattr(huggingface_hub, "close_session", lambda: None)()
    with StandIn() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        getattr(huggingface_hub, "close_session", lambda: None)()
        running.shutdown()
        thread.join()


@pytest.fixture
def file(model: nn.Module, tmp_path: Path) -> Path:
    masks = selfmask.MaskSet(model, select=["conv2.weight", "conv3.weight"])
    masks.set_scores({n: torch.randn_like(s) + 1 for n, s in masks.scores.items()})
    path = masks.save(
        tmp_path / "mine.safetensors",
        head={"weight": torch.randn(3, 32), "bias": torch.zeros(3)},
        training={"data": "leaves", "images": 12},
    )
    masks.remove()
    return path


def test_there_and_back(server: StandIn, file: Path, model: nn.Module) -> None:
    where: dict[str, Any] = {"endpoint": server.address, "token": TOKEN}
    done = selfmask.push_to_hub(file, "me/leaves", message="first", license="cc-by-4.0", **where)
    repository = server.repositories["me/leaves"]
    assert repository.private
    assert repository.commits[-1]["mask.safetensors"] == file.read_bytes()
    assert (done.repository, done.commit, done.private, done.card) == (
        "me/leaves", repository.shas[-1], True, True,
    )  # fmt: skip
    card = repository.commits[-1]["README.md"].decode()
    assert "cc-by-4.0" in card
    assert "me/leaves" in card
    mask = selfmask.from_hub("me/leaves", **where)
    assert commit_of(mask) == done.commit
    expected = selfmask.load(file)
    assert commit_of(expected) is None
    assert all(torch.equal(m, expected.masks()[n]) for n, m in mask.masks().items())
    with mask.apply(model):
        pass
    asked = len(server.log)
    selfmask.from_hub("me/leaves", **where)
    assert all(line.startswith("HEAD") for line in server.log[asked:]), "it was fetched already"
    asked = len(server.log)
    selfmask.from_hub("me/leaves", revision=done.commit, **where)
    assert len(server.log) == asked, "a commit never changes"


def test_a_name_alone_is_in_ones_own_account(server: StandIn, file: Path) -> None:
    done = selfmask.push_to_hub(file, "leaves", endpoint=server.address, token=TOKEN)
    assert done.repository == "me/leaves"
    assert b"from_hub('me/leaves')" in server.repositories["me/leaves"].commits[-1]["README.md"]


def test_small_files_without_lfs_and_other_names(server: StandIn, file: Path) -> None:
    done = selfmask.push_to_hub(file, "me/many", filename="a.mask", endpoint=server.address, token=TOKEN)
    assert not server.blobs
    mask = selfmask.from_hub(
        "me/many", filename="a.mask", revision=done.commit, endpoint=server.address, token=TOKEN
    )
    assert mask.metadata["training"]["data"] == "leaves"


def test_a_card_of_ones_own_is_kept(server: StandIn, file: Path) -> None:
    where: dict[str, Any] = {"endpoint": server.address, "token": TOKEN}
    selfmask.push_to_hub(file, "me/leaves", **where)
    files = server.repositories["me/leaves"].commits[-1]
    assert selfmask.push_to_hub(file, "me/leaves", license="mit", **where).card
    assert b"mit" in server.repositories["me/leaves"].commits[-1]["README.md"]
    own = files["README.md"].replace(GENERATED.encode(), b"My own words.")
    server.repositories["me/leaves"].commits.append(files | {"README.md": own})
    done = selfmask.push_to_hub(file, "me/leaves", filename="b.safetensors", **where)
    assert not done.card
    assert server.repositories["me/leaves"].commits[-1]["README.md"] == own


def test_a_private_mask_stays_out_of_a_public_repository(server: StandIn, file: Path) -> None:
    server.repositories["me/open"] = Repository(private=False)
    with pytest.raises(HubError, match="exists and is public"):
        selfmask.push_to_hub(file, "me/open", endpoint=server.address, token=TOKEN)
    assert server.repositories["me/open"].commits == [{}]
    assert not server.blobs
    done = selfmask.push_to_hub(file, "me/open", private=False, endpoint=server.address, token=TOKEN)
    assert not done.private
    assert selfmask.from_hub("me/open", endpoint=server.address).names == ("conv2.weight", "conv3.weight")


def test_what_is_no_mask_is_not_sent(server: StandIn, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(MaskFileError):
        selfmask.push_to_hub(bad, "me/leaves", endpoint=server.address, token=TOKEN)
    with pytest.raises(SettingsError, match="license"):
        selfmask.push_to_hub(file, "me/leaves", license="a\nb: c", endpoint=server.address, token=TOKEN)
    assert server.log == []


def damaged(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    import pickle

    return {
        "flipped": bytes(flipped),
        "short": content[: len(content) // 2],
        "empty": b"",
        "page": b"<html>sign in</html>",
        "pickle": pickle.dumps({"a": 1}),
    }


@pytest.mark.parametrize("how", ["flipped", "short", "empty", "page", "pickle"])
def test_a_hostile_file_leaves_nothing(server: StandIn, file: Path, tmp_path: Path, how: str) -> None:
    good = file.read_bytes()
    server.repositories["you/x"] = Repository(False, [{"mask.safetensors": damaged(good)[how]}])
    out = tmp_path / "out" / "x.safetensors"
    with pytest.raises(MaskFileError, match="you/x on the hub"):
        save_from_hub("you/x", out, endpoint=server.address)
    assert not out.parent.exists()
    kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() or p.is_symlink()]
    assert not [p for p in kept if "blobs" in p.parts or "snapshots" in p.parts]
    # Once the repository is mended the same call works, and an older file is replaced only by a whole one.
    out.parent.mkdir()
    out.write_bytes(b"old")
    with pytest.raises(MaskFileError):
        save_from_hub("you/x", out, endpoint=server.address)
    assert out.read_bytes() == b"old"
    server.repositories["you/x"].commits.append({"mask.safetensors": good})
    save_from_hub("you/x", out, endpoint=server.address)
    assert out.read_bytes() == good
    assert [p.name for p in out.parent.iterdir()] == ["x.safetensors"]


def test_a_download_that_breaks_off(
    server: StandIn, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    server.repositories["you/x"] = Repository(False, [{"mask.safetensors": file.read_bytes()}])
    server.cut = 100
    out = tmp_path / "x.safetensors"
    with pytest.raises((HubError, MaskFileError), match=r"you/x|cannot be reached"):
        save_from_hub("you/x", out, endpoint=server.address)
    assert not out.exists()
    server.cut = None
    save_from_hub("you/x", out, endpoint=server.address)
    assert out.read_bytes() == file.read_bytes()


def test_a_file_too_large_is_not_fetched(
    server: StandIn, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_BYTES", file.stat().st_size - 1)
    server.repositories["you/x"] = Repository(False, [{"mask.safetensors": file.read_bytes()}])
    with pytest.raises(MaskFileError, match="more than any mask file"):
        selfmask.from_hub("you/x", endpoint=server.address)
    assert not [line for line in server.log if line.startswith("GET")]


@pytest.mark.parametrize(
    ("repo", "more", "message"),
    [
        ("you/none", {}, "does not exist, or is private"),
        ("you/secret", {}, "does not exist, or is private"),
        ("you/x", {"filename": "other.safetensors"}, "has no file 'other.safetensors'"),
        ("you/x", {"revision": "v9"}, "has no revision 'v9'"),
        ("you//x", {}, "no name of a repository"),
    ],
)
def test_what_is_not_there(
    server: StandIn, file: Path, repo: str, more: dict[str, Any], message: str
) -> None:
    server.repositories["you/x"] = Repository(False, [{"mask.safetensors": file.read_bytes()}])
    server.repositories["you/secret"] = Repository(True, [{"mask.safetensors": file.read_bytes()}])
    with pytest.raises(HubError, match=message) as caught:
        selfmask.from_hub(repo, endpoint=server.address, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo"), "is gated: ask for access"),
        ((401, "x"), "does not exist, or is private|token is not valid"),
        ((418, "teapot"), "the hub answered 418"),
    ],
)
def test_refusals(server: StandIn, refusal: tuple[int, str], message: str) -> None:
    server.refuse = refusal
    with pytest.raises(HubError, match=message):
        selfmask.from_hub("you/x", endpoint=server.address)


def test_tokens(server: StandIn, file: Path) -> None:
    with pytest.raises(HubError, match="hf auth login"):
        selfmask.push_to_hub(file, "me/leaves", endpoint=server.address)
    assert server.log == []
    with pytest.raises(HubError, match="token"):
        selfmask.push_to_hub(file, "me/leaves", endpoint=server.address, token="hf_wrong")
    assert not server.repositories


def test_no_network(server: StandIn, file: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"endpoint": server.address, "token": TOKEN}
    done = selfmask.push_to_hub(file, "me/leaves", **where)
    selfmask.from_hub("me/leaves", **where)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(HubError, match=f"{nobody} cannot be reached"):
        selfmask.push_to_hub(file, "me/leaves", endpoint=nobody, token=TOKEN)
    with pytest.raises(HubError, match=f"{nobody} cannot be reached"):
        selfmask.from_hub("me/other", endpoint=nobody)
    assert commit_of(selfmask.from_hub("me/leaves", endpoint=nobody)) == done.commit  # from the cache


def test_the_commands(
    server: StandIn, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    there = ["--endpoint", server.address]
    run = tmp_path / "run"
    run.mkdir()
    (run / "mask.safetensors").write_bytes(file.read_bytes())
    result = Result(
        data="leaves", backbone=None, objective="distil", seed=0, size=32, training={},
        rows=Rows((Row("masked", knn=Estimate(0.5, 0.4, 0.625)),), 9), bytes=selfmask.load(file).bytes(),
        seconds=Seconds(1.0, 2.0), command=(), versions={}, machine={},
    )  # fmt: skip
    result.write(run / "result.json")
    assert main(["push", str(run), "me/leaves", "--preview"]) == 0
    assert "0.500 (0.400 to 0.625)" in capsys.readouterr().out
    assert server.log == []
    assert main(["push", str(run), "me/leaves", *there, "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    assert pushed["private"] is True
    assert pushed["bytes"] == file.stat().st_size
    assert b"0.500 (0.400" in server.repositories["me/leaves"].commits[-1]["README.md"]
    out = tmp_path / "pulled.safetensors"
    assert main(["pull", "me/leaves", str(out), "--revision", pushed["commit"], *there, "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert (pulled["file"], pulled["commit"]) == (str(out), pushed["commit"])
    assert out.read_bytes() == file.read_bytes()
    assert main(["push", str(file), "me/leaves", *there]) == 0
    assert main(["pull", "me/leaves", str(out), *there]) == 0
    assert "only your account sees it" in capsys.readouterr().out
    assert main(["pull", "me/leaves", str(tmp_path), *there]) == 2
    assert "is a folder" in capsys.readouterr().err
    # Results of another mask are none of this one's.
    replace(result, bytes={}).write(run / "result.json")
    assert main(["push", str(run), "me/leaves", "--preview", "--json"]) == 0
    assert "0.500" not in json.loads(capsys.readouterr().out)["card"]


def test_without_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: selfmask.push_to_hub(file, "me/x"), lambda: selfmask.from_hub("me/x")):
        with pytest.raises(MissingExtraError, match=r"selfmask\[hub\]"):
            call()


def test_the_commit_is_that_of_the_cache_whatever_lies_above_it() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    for above in ("/home/u/.cache", "/data/snapshots", f"/snapshots/{'x' * 40}"):
        file: Any = SimpleNamespace(
            path=Path(above) / "hub" / "snapshots" / commit / "folder" / "m.safetensors"
        )
        assert commit_of(file) == commit
    elsewhere: Any = SimpleNamespace(path=Path("/data/snapshots/m.safetensors"))
    assert commit_of(elsewhere) is None


def test_a_licence_that_cannot_be_is_told_by_a_preview_too() -> None:
    with pytest.raises(SettingsError, match="license is one of the hub's identifiers"):
        PushSettings(Path("m"), "me/x", license="CC BY 4.0", preview=True)
