"""`selfmask serve --ray local` under load while its replicas are killed, every answer checked.

    python benchmarks/load_replicas.py --seconds 60 --masks 20 --clients 8

Masks, images, clients and the check of each answer are those of load_serve.py; the service is a process of its own with
two replicas of one thread. One replica is killed (SIGKILL) after a third of the time and another after two thirds.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import timm
import torch
from load_serve import IMAGES, clients, parser_of, picture, write_masks
from safetensors.torch import save_file

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build
from selfmask.bank.bank import Bank


def main() -> None:
    parser = parser_of(__doc__, seconds=60, masks=20, clients=8, backbone="mobilenetv3_small_100")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder, weights = Path(place) / "masks", Path(place) / "weights.safetensors"
        folder.mkdir()
        torch.manual_seed(0)
        state = timm.create_model(given.backbone, num_classes=0).state_dict()
        save_file({name: t.contiguous() for name, t in state.items()}, weights)
        backbone = build(f"timm:{given.backbone}", weights=weights)
        backbone.preprocessing = Preprocessing(size=64)
        names = write_masks(folder, backbone, given.masks)
        pictures = [picture(seed) for seed in range(IMAGES)]
        with Bank(backbone, folder) as bank:
            expected = np.stack([bank.embed(pictures, name).numpy() for name in names])
        gap = min(float(np.abs(a - b).max()) for i, a in enumerate(expected) for b in expected[:i])
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        words = ["serve", str(folder), "--backbone", f"timm:{given.backbone}", "--weights", str(weights)]
        words += ["--port", str(port), "--threads", "1", "--ray", "local", "--replicas", "2"]
        service = subprocess.Popen([sys.executable, "-m", "selfmask", *words])
        try:
            wait_for(port, service)
            under_load(given, service.pid, port, names, pictures, expected, gap)
        finally:
            service.send_signal(signal.SIGTERM)
            print(f"the service ended with {service.wait(120)}")


def wait_for(port: int, service: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if service.poll() is not None:
            raise SystemExit("the service did not start")
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
            return  # it listens before its replicas are there
        time.sleep(0.5)
    raise SystemExit("the service was not ready within five minutes")


def under_load(
    given: argparse.Namespace, service: int, port: int, names: list[str], pictures: list[bytes], expected: np.ndarray,
    gap: float,
) -> None:  # fmt: skip
    answers: queue.Queue[Any] = queue.Queue()
    how = (port, given.clients, given.seconds, given.zipf, names, pictures, expected, answers)
    thread = threading.Thread(target=clients, args=how)
    thread.start()
    answers.get()  # they begin
    for third in (1, 2):
        time.sleep(given.seconds / 3)
        replicas = [
            child.pid
            for child in psutil.Process(service).children(recursive=True)
            if "ServeReplica" in "".join(child.cmdline())
        ]
        os.kill(replicas[0], signal.SIGKILL)
        print(f"after {third * given.seconds / 3:.0f} s: killed {replicas[0]} of {replicas}", flush=True)
    found = answers.get(timeout=given.seconds + 120)
    thread.join()
    times = np.array(found["times"])
    middle, late = (1000 * np.quantile(times, share) for share in (0.5, 0.99))
    print(
        f"{len(times)} answers ({len(times) / given.seconds:.1f} a second), p50 {middle:.0f} ms, p99 {late:.0f} ms, "
        f"largest {times.max():.1f} s; errors {found['errors']}, wrong {found['wrong']} (largest difference "
        f"{found['difference']:.1e}, between two masks at least {gap:.1e})",
        flush=True,
    )


if __name__ == "__main__":
    main()
