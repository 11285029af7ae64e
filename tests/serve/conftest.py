"""A service on this machine, over masks of one small network, in a thread that the test ends."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import selfmask
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.bank.bank import Bank
from selfmask.embeddings.embedder import Embedder, network_digest
from selfmask.embeddings.record import MadeBy
from selfmask.maskfile.fingerprint import base_tensors
from selfmask.maskfile.saving import save_mask
from selfmask.serve.run import Live, bound, serve_bank
from selfmask.serve.service import Service
from selfmask.serve.settings import ServeSettings
from selfmask.tasks.embed import write_embeddings

CLASSES = ("cat", "<b>dog</b>", "fish\u202e\x1b[31m")
TOKEN = "a token of more than sixteen".replace(" ", "-")


def write_mask(
    path: Path, model: nn.Module, seed: int, *, head: bool = False, size: int | None = None
) -> Path:
    """A mask file with 30 % of the weights off."""
    tensors = base_tensors(model)
    generator = torch.Generator().manual_seed(seed)
    theta = {name: t for name, t in tensors.items() if t.ndim == 4}
    masks = {name: torch.rand(t.shape, generator=generator) >= 0.3 for name, t in theta.items()}
    rest = {name: t for name, t in tensors.items() if name not in theta}
    more: dict[str, Any] = {}
    if head:
        more["head"] = {
            "weight": torch.randn(len(CLASSES), 10, generator=generator),
            "bias": torch.randn(len(CLASSES), generator=generator),
        }
    metadata: dict[str, Any] = {"training": {"classes": list(CLASSES)}} if head else {}
    if size is not None:
        metadata["preprocessing"] = Preprocessing(size=size).describe()
    return save_mask(path, theta=theta, masks=masks, rest=rest, metadata=metadata, **more)


def picture(seed: int, side: int = 20, kind: str = "PNG") -> bytes:
    """An image file."""
    pixels = torch.randint(
        0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    stored = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stored, kind)
    return stored.getvalue()


def multipart(files: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A body, and the header that says what it is."""
    parts = [
        b'--xYx\r\nContent-Disposition: form-data; name="images"; filename="' + name.encode() + b'"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + b"--xYx--\r\n", {"Content-Type": "multipart/form-data; boundary=xYx"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A service that runs."""

    live: Live
    bank: Bank
    folder: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.live.address.rpartition(":")[2])

    @property
    def service(self) -> Service:
        assert isinstance(self.live.service, Service)
        return self.live.service

    def metric(self, name: str) -> float:
        """A number that /metrics tells."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {**self.headers, **named})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, path: str, files: list[tuple[str, bytes]]) -> Answer:
        """Images as multipart."""
        body, headers = multipart(files)
        return self.ask("POST", path, body, **headers)


@pytest.fixture
def masks(tmp_path: Path, model: nn.Module) -> Path:
    """Masks a (plain), b (with a head), c (another size)."""
    folder = tmp_path / "masks"
    folder.mkdir()
    write_mask(folder / "a.mask.safetensors", model, 1)
    write_mask(folder / "b.mask.safetensors", model, 2, head=True)
    write_mask(folder / "c.mask.safetensors", model, 3, size=12)
    return folder


@pytest.fixture
def backbone(model: nn.Module) -> Backbone:
    return Backbone(model, None, "resnet", 10, Preprocessing(size=8))


Serving = Callable[..., Any]


@pytest.fixture
def serving(masks: Path, backbone: Backbone) -> Serving:
    """`with serving(token=None, **settings) as running`: ended, with all that was accepted answered, at the end."""

    @contextmanager
    def make(token: str | None = None, **more: Any) -> Iterator[Running]:
        settings = ServeSettings(masks, port=0, **{"watch": 0.05, "timeout": 10.0, **more})
        begun, found = threading.Event(), []

        def started(live: Live) -> None:
            found.append(live)
            begun.set()

        with (
            Bank(backbone, masks, memory=settings.memory, watch=settings.watch) as bank,
            bound(settings.host, 0) as listener,
        ):
            thread = threading.Thread(target=serve_bank, args=(bank, settings, token, listener, started))
            thread.start()
            try:
                assert begun.wait(20)
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                yield Running(found[0], bank, masks, headers)
            finally:
                for live in found:
                    live.stop()
                thread.join(timeout=30)
                assert not thread.is_alive()

    return make


@pytest.fixture(name="picture")
def _picture() -> Callable[..., bytes]:
    """See `picture`."""
    return picture


@pytest.fixture(name="write_mask")
def _write_mask() -> Callable[..., Path]:
    """See `write_mask`."""
    return write_mask


@pytest.fixture(name="multipart")
def _multipart() -> Callable[..., tuple[bytes, dict[str, str]]]:
    """See `multipart`."""
    return multipart


def embed_photos(backbone: Backbone, mask: Path | None, photos: Path, out: Path) -> Path:
    """A file of embeddings of `photos`."""
    kind = "backbone" if mask is None else "mask"

    def write() -> None:
        said = None if mask is None else str(mask)
        made_by = MadeBy(network_digest(backbone), kind, said, None, backbone.preprocessing.size, {})
        write_embeddings(Embedder(backbone, made_by), str(photos), out, "float32", Console(quiet=True))

    if mask is None:
        write()
    else:
        with selfmask.load(mask).apply(backbone.module):
            write()
    return out


@pytest.fixture
def embedded() -> Callable[..., Path]:
    """See `embed_photos`."""
    return embed_photos
