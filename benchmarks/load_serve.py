"""A service under load: many masks over one backbone, clients with skewed tastes, every answer checked.

    python benchmarks/load_serve.py --seconds 300 --masks 1000 --clients 32

Random masks (2 % of the weights off) on a timm network with random weights; each request brings an image and asks
a mask drawn by Zipf's law (1.1). Every answer is held against the embedding that a bank of its own gave before.
Twice on the same masks: grouped by mask, and one request after another (--patience 0 --batch 1). Prints answers a
second, p50 and p99, switches, errors, wrong answers, and the memory of the service's process after a fifth of the
time and at its end.
Clients are threads of another process, on the same machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.bank.bank import Bank
from selfmask.maskfile.fingerprint import base_tensors
from selfmask.maskfile.saving import save_mask
from selfmask.serve.run import Live, bound, serve_bank
from selfmask.serve.settings import ServeSettings

IMAGES = 8


def main() -> None:
    parser = parser_of(__doc__, seconds=300, masks=1000, clients=32, backbone="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        backbone = network(given)
        names = write_masks(Path(folder), backbone, given.masks)
        pictures = [picture(seed) for seed in range(IMAGES)]
        with Bank(backbone, folder, memory="8 GB") as bank:
            expected = np.stack([bank.embed(pictures, name).numpy() for name in names])
        gap = min(float(np.abs(expected[0] - other).max()) for other in expected[1:])
        print(
            f"{given.masks} masks, {given.clients} clients, {given.seconds:g} s, {given.backbone} at {given.size} px, "
            f"{given.threads} threads of {os.cpu_count()} cores",
            flush=True,
        )
        for title, patience, batch in (("grouped", 0.25, 64), ("one by one", 0.0, 1)):
            serve(title, given, Path(folder), backbone, names, pictures, expected, gap, patience, batch)


def parser_of(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The arguments of a load, with their defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--masks", type=int)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--zipf", type=float, default=1.1)
    parser.add_argument("--backbone", help="timm's name; its weights are random")
    parser.set_defaults(**defaults)
    return parser


def network(given: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    module = timm.create_model(given.backbone, num_classes=0).eval()
    return from_module(module, preprocessing=Preprocessing(size=given.size))


def write_masks(folder: Path, backbone: Any, count: int) -> list[str]:
    tensors = base_tensors(backbone.module)
    metadata = {"preprocessing": backbone.preprocessing.describe()}
    theta = {name: t for name, t in tensors.items() if t.ndim == 4}
    rest = {name: t for name, t in tensors.items() if name not in theta}
    generator = torch.Generator().manual_seed(1)
    names = [f"m{place:05d}" for place in range(count)]
    for name in names:
        masks = {n: torch.rand(t.shape, generator=generator) >= 0.02 for n, t in theta.items()}
        save_mask(folder / f"{name}.mask.safetensors", theta=theta, masks=masks, rest=rest, metadata=metadata)
    return names


def picture(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(small).resize((160, 160)).save(stored, "JPEG")
    return stored.getvalue()


def serve(
    title: str, given: argparse.Namespace, folder: Path, backbone: Any, names: list[str], pictures: list[bytes],
    expected: np.ndarray, gap: float, patience: float, batch: int,
) -> None:  # fmt: skip
    settings = ServeSettings(folder, port=0, patience=patience, batch=batch, memory="8 GB", timeout=60.0)
    live: list[Live] = []
    with Bank(backbone, folder, memory="8 GB", watch=5.0) as bank, bound("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=serve_bank, args=(bank, settings, None, listener, live.append))
        thread.start()
        while not live:
            time.sleep(0.01)
        for name in names:
            bank.card(name)  # decoded, so that memory is what it will be
        context = multiprocessing.get_context("spawn")
        answers: Any = context.Queue()
        port = int(live[0].address.rpartition(":")[2])
        client = context.Process(
            target=clients,
            args=(port, given.clients, given.seconds, given.zipf, names, pictures, expected, answers),
        )
        client.start()
        answers.get(timeout=120)  # they begin
        time.sleep(given.seconds / 5)
        early = memory()
        found = answers.get(timeout=given.seconds + 120)
        late = memory()
        client.join()
        counts = live[0].service.counts
        live[0].stop()
        thread.join()
    times = np.array(found["times"])
    print(
        f"{title}: {len(times)} answers ({len(times) / given.seconds:.1f} a second), "
        f"p50 {1000 * np.quantile(times, 0.5):.0f} ms, p99 {1000 * np.quantile(times, 0.99):.0f} ms, "
        f"largest {1000 * times.max():.0f} ms; {counts.switches} switches in {counts.batches} batches, "
        f"{counts.images} images; errors {found['errors']}, wrong {found['wrong']} (largest difference "
        f"{found['difference']:.1e}, to another mask at least {gap:.1e}); memory {early:.0f} → {late:.0f} MB",
        flush=True,
    )


def memory() -> float:
    """MB that this process has in memory."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


def clients(
    port: int, count: int, seconds: float, zipf: float, names: list[str], pictures: list[bytes], expected: np.ndarray,
    answers: Any,
) -> None:  # fmt: skip
    """`count` clients at once, each one request after another; what they saw goes into `answers`."""
    chance = 1 / np.arange(1, len(names) + 1) ** zipf
    chance /= chance.sum()
    answers.put("begun")
    until = time.monotonic() + seconds
    seen: dict[str, Any] = {"times": [], "errors": 0, "wrong": 0, "difference": 0.0}
    lock = threading.Lock()

    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.monotonic() < until:
            mask, image = int(random.choice(len(names), p=chance)), int(random.integers(len(pictures)))
            body = (
                b'--b\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n'
                + pictures[image] + b"\r\n--b--\r\n"
            )  # fmt: skip
            start = time.perf_counter()
            try:
                connection.request(
                    "POST",
                    f"/masks/{names[mask]}/embed",
                    body,
                    {"Content-Type": "multipart/form-data; boundary=b"},
                )
                response = connection.getresponse()
                document = json.loads(response.read())
                took = time.perf_counter() - start
                x = np.array(document["results"][0]["embedding"], dtype=np.float32)
                difference = float(np.abs(x - expected[mask, image]).max())
            except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                connection.close()
                with lock:
                    seen["errors"] += 1
                continue
            with lock:
                seen["times"].append(took)
                seen["wrong"] += difference > 1e-4 * float(np.abs(expected).max())
                seen["difference"] = max(seen["difference"], difference)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(seen)


if __name__ == "__main__":
    main()
