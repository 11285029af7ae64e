"""Reaching for weights: at once an answer, or at once an error that says what works without a network."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest
import torch

from selfmask.backbones import hub
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "weights.pth").write_bytes(b"12345")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_answers_is_reached(server: str) -> None:
    assert hub.why_unreachable(f"{server}/anything") is None


def test_a_server_that_refuses_requests_is_there(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "do_HEAD", lambda self: self.send_error(403))
    assert hub.why_unreachable(server) is None


def test_silence_has_a_short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:  # accepts a connection and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reason = hub.why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert reason is not None
    assert "time" in reason or "no answer" in reason


def test_out_of_reach_names_the_offline_choices(nobody: str) -> None:
    with pytest.raises(BackboneError) as caught:
        hub.require_reachable(nobody, "the weights of x")
    for part in ("the weights of x are not on this machine", "package:efficientnet_lite0", "--weights FILE"):
        assert part in str(caught.value)


def test_files_are_fetched_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = hub.fetched(f"{server}/weights.pth", "it")
    assert path.read_bytes() == b"12345"
    monkeypatch.setattr(hub, "why_unreachable", lambda address: "no network")
    assert hub.fetched(f"{server}/weights.pth", "it") == path
    with pytest.raises(BackboneError, match="no network"):
        hub.fetched(f"{server}/other.pth", "it")


def test_a_file_that_the_server_lacks(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(BackboneError, match="could not be fetched"):
        hub.fetched(f"{server}/absent.pth", "it")
    assert not list((tmp_path / "hub").rglob("absent*"))


@pytest.mark.parametrize(
    "spec",
    [
        "resnet18",
        "dinov2_vits14",
        "swav",
        "dino_vits16",
        "clip_vit_b_32",
        "hf:facebook/dinov2-small",
        "torchhub:facebookresearch/swav:resnet50",
    ],
)
def test_every_kind_fails_at_once_without_a_network(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(hub, "why_unreachable", lambda address: "no network here")
    for kind in ("from_timm", "from_openclip", "from_transformers"):
        monkeypatch.setattr(f"selfmask.backbones.{kind}.in_hub_cache", lambda *names: None)
    with pytest.raises(
        BackboneError, match=r"cannot be reached \(no network here\); without a network, use package:"
    ):
        build(spec)


def test_the_cache_of_the_hub_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.in_hub_cache("someone/network", "model.safetensors") is None
    copy = tmp_path / "models--someone--network"
    (copy / "refs").mkdir(parents=True)
    (copy / "refs" / "main").write_text("a" * 40)
    (copy / "snapshots" / ("a" * 40)).mkdir(parents=True)
    file = copy / "snapshots" / ("a" * 40) / "model.safetensors"
    file.write_bytes(b"x")
    assert hub.in_hub_cache("someone/network", "other.bin", "model.safetensors") == file


def test_no_host_is_contacted_until_the_last_is_out() -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    second, another_thread = hub.local_only(), copy_context()
    with hub.local_only():
        another_thread.run(second.__enter__)
    assert constants.HF_HUB_OFFLINE is True
    another_thread.run(second.__exit__, None, None, None)
    assert constants.HF_HUB_OFFLINE is before
