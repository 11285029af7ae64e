"""Replicas answer what a bank answers, and one that is killed in mid-load costs no answer and makes none wrong."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.cli import main
from selfmask.serve.opening import open_bank
from selfmask.serve.replicas import replicated
from selfmask.serve.run import Live, Served, bound, serve_bank
from selfmask.serve.settings import ServeSettings

pytestmark = [
    # ray.serve's own classes, when it is imported
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),
]


@contextmanager
def serving(ray: Any, settings: ServeSettings) -> Iterator[tuple[Bank, int, list[Served]]]:
    """The bank of the command, the port, and at the end what was done."""
    begun, found, ended = threading.Event(), [], []

    def started(live: Live) -> None:
        found.append(live)
        begun.set()

    with (
        open_bank(settings, "cpu") as bank,
        bound("127.0.0.1", 0) as listener,
        replicated(ray, bank, settings) as service,
    ):
        thread = threading.Thread(
            target=lambda: ended.append(serve_bank(bank, settings, None, listener, started, service))
        )
        thread.start()
        try:
            assert begun.wait(20)
            yield bank, listener.getsockname()[1], ended
        finally:
            found[0].stop()
            thread.join(timeout=60)
            assert not thread.is_alive()


def ask(port: int, method: str, path: str, images: list[bytes] | None = None) -> tuple[int, Any]:
    body = None
    if images is not None:
        body = json.dumps({"images": [base64.b64encode(one).decode() for one in images]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()
    finally:
        connection.close()


def embeddings(document: Any) -> Tensor:
    return torch.tensor([one["embedding"] for one in document["results"]])


def replicas() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # ended between the two calls
            if "ServeReplica" in one.name() + "".join(one.cmdline()):
                found.append(one)
    return found


@pytest.mark.slow
def test_replicas_answer_as_a_bank_does_whoever_dies(ray, photos, write_mask, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed, name in enumerate("ab"):
        write_mask(masks / f"{name}.mask.safetensors", photos.weights, seed + 3)
    settings = ServeSettings(
        masks, backbone="timm:test_resnet", weights=photos.weights, ray="local", replicas=2, watch=0.2
    )
    images = [path.read_bytes() for path in sorted(photos.folder.glob("0*.png"))]
    with serving(ray, settings) as (bank, port, ended):
        expected = {name: bank.embed(images, name) for name in "ab"}
        assert not torch.allclose(expected["a"], expected["b"], atol=1e-2)
        for name, right in expected.items():
            status, document = ask(port, "POST", f"/masks/{name}/embed", [*images, b"no image"])
            assert status == 200
            assert "not an image" in document["results"].pop()["error"]
            assert torch.allclose(embeddings(document), right, atol=1e-5)
        assert ask(port, "POST", "/masks/none/embed", images)[0] == 404
        assert ask(port, "POST", "/masks/base/predict", images)[0] == 422
        status, document = ask(port, "POST", "/masks/a/predict", images)
        assert (status, "brings no head" in document["error"]) == (422, True)
        assert ask(port, "GET", "/ready") == (200, {"ready": True})

        seen: list[int] = []
        wrong: list[str] = []
        over = threading.Event()

        def client(name: str) -> None:
            while not over.is_set():
                status, document = ask(port, "POST", f"/masks/{name}/embed", images[:2])
                if status == 200 and not torch.allclose(embeddings(document), expected[name][:2], atol=1e-5):
                    wrong.append(name)
                seen.append(status)

        clients = [threading.Thread(target=client, args=("ab"[place % 2],)) for place in range(4)]
        for one in clients:
            one.start()
        reach(seen, 20)
        first = replicas()
        os.kill(first[0].pid, signal.SIGKILL)
        reach(seen, len(seen) + 40)
        over.set()
        for one in clients:
            one.join(timeout=60)
            assert not one.is_alive()
        assert wrong == []
        assert set(seen) == {200}

        write_mask(masks / "c.mask.safetensors", photos.weights, 9)
        bank.refresh()
        status, document = ask(
            port, "POST", "/masks/c/embed", images
        )  # whether or not a replica has looked since
        assert status == 200
        assert torch.allclose(embeddings(document), bank.embed(images, "c"), atol=1e-5)
    assert ended[0].images >= 2 * len(seen)
    assert replicas() == []


def reach(seen: list[int], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(seen) < count:
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)


def test_replicas_are_for_ray(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path), "--replicas", "2"]) == 2
    assert "how many processes --ray uses" in capsys.readouterr().err
