"""What a mask file names is fetched only where its reader says so: a file may be a stranger's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import selfmask
from selfmask.backbones import hub
from selfmask.backbones.spec import build, rebuild
from selfmask.cli import main
from selfmask.errors import BackboneError, SelfmaskError

SPECS = [
    "timm:resnet10t.c3_in1k",
    "hf:stranger/network",
    "openclip:RN50:openai",
    "openclip:ViT-B-16-SigLIP:webli",  # its tokeniser is on the hub as well
    "swav",
]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is looked up or connected to, none of which answers; nothing was fetched before."""
    found: list[Any] = []

    def refuse(*where: Any, **more: Any) -> Any:
        found.append(where)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # As the client would have it where nobody has said offline: it reads the environment once, at its first import.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return found


def gift(path: Path, spec: str) -> Path:
    model = nn.Linear(20, 30)
    masks = selfmask.MaskSet(model, select="weight")
    masks.save(path, backbone={"spec": spec, "weights": None, "pretrained": True, "image_size": None})
    masks.remove()
    return path


@pytest.mark.parametrize("spec", SPECS)
def test_a_description_contacts_nobody(spec: str, calls: list[Any]) -> None:
    described = {"spec": spec, "weights": None, "pretrained": True, "image_size": None}
    with pytest.raises(BackboneError, match=r"contacts no host.*--download"):
        rebuild(described)
    assert not calls
    with pytest.raises(SelfmaskError):
        rebuild(described, download=True)
    assert calls


def test_a_tokeniser_is_not_asked_for_either(calls: list[Any]) -> None:
    with hub.local_only(), pytest.raises(SelfmaskError):
        build("openclip:ViT-B-16-SigLIP:webli")
    assert not calls


@pytest.mark.parametrize(
    "command", ["apply", "export", "evaluate", "compact", "embed", "predict", "inspect", "compare"]
)
def test_no_command_calls_where_a_stranger_s_file_says(
    command: str, calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gift(tmp_path / "gift.safetensors", "timm:resnet10t.c3_in1k")
    more = {
        "apply": ["--out", str(tmp_path / "out.safetensors")],
        "export": ["--out", str(tmp_path / "out.pt2")],
        "evaluate": ["--data", "digits"],
        "embed": ["digits", "--out", str(tmp_path / "out.parquet")],
        "predict": ["digits", "--out", str(tmp_path / "out.csv")],
        "compact": ["--data", "digits"],
        "compare": [str(path)],
    }.get(command, [])
    status = main([command, str(path), *more])
    assert not calls
    if command in ("inspect", "compare"):
        assert status == 0
        return
    said = capsys.readouterr().err
    assert status == 2
    assert "huggingface.co" in said
    assert "--download" in said
    assert main([command, str(path), *more, "--download"]) == 2
    assert calls


def test_the_switch_is_there_in_a_fresh_process() -> None:
    """Nobody need have imported the hub's client before."""
    program = (
        "from selfmask.backbones.hub import local_only\n"
        "with local_only():\n"
        "    from huggingface_hub import constants\n"
        "    assert constants.HF_HUB_OFFLINE\n"
        "assert not constants.HF_HUB_OFFLINE\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
