"""`selfmask serve` as a process: it listens, answers, and a signal ends it with what it did."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from selfmask.cli import main


def test_what_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: Path) -> None:
    (tmp_path / "masks").mkdir()
    named = ["--backbone", "timm:test_resnet", "--weights", str(weights)]
    for words, said in (
        ([str(tmp_path / "none"), *named], "there is no"),
        ([str(tmp_path / "masks")], "name it by --backbone"),
        ([str(tmp_path / "masks"), *named, "--host", "0.0.0.0"], "needs a token"),
        (
            [str(tmp_path / "masks"), *named, "--host", "203.0.113.7", "--token-file", str(weights)],
            "cannot be read",
        ),
        ([str(tmp_path / "masks"), *named, "--port", "99999"], "--port is 0 to 65535"),
    ):
        assert main(["serve", *words]) == 2
        shown = capsys.readouterr().err
        assert said in shown
        assert len(shown.splitlines()) == 1


@pytest.mark.slow
def test_a_process_that_is_ended(
    tmp_path: Path, weights: Path, write_mask: Callable[..., Path], picture: Callable[..., bytes],
    multipart: Callable[..., Any], start: Callable[..., Any], free_port: int,
) -> None:  # fmt: skip
    model = timm.create_model("test_resnet", num_classes=0).eval()
    model.load_state_dict(load_file(weights))
    masks = tmp_path / "masks"
    masks.mkdir()
    write_mask(masks / "site.mask.safetensors", model, 1)
    (masks / "junk.safetensors").write_bytes(b"no mask")
    words = [
        "serve",
        str(masks),
        "--backbone",
        "timm:test_resnet",
        "--weights",
        str(weights),
        "--port",
        str(free_port),
    ]
    command = start([*words, "--json"], tmp_path / "said.txt")
    body, headers = multipart([("x", picture(1))])
    deadline = time.monotonic() + 60
    while True:
        assert command.running, command.end()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=20)
            connection.request("POST", "/masks/site/embed", body, headers)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    assert answer.status == 200
    assert torch.isfinite(torch.tensor(found["results"][0]["embedding"])).all()
    command.send(signal.SIGTERM)
    status, printed = command.end()
    assert status == 0, printed
    document = json.loads(printed[printed.index("{") :])
    assert (document["masks"], document["images"], document["switches"]) == (1, 1, 1)
    assert "Traceback" not in printed
