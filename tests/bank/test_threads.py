"""Several threads, one model: each finds the mask that it asked for, and the base outlives them."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.bank.bank import Bank

THREADS, SWITCHES = 8, 2_000
ABOUT_HALF = "20 kB"  # of what the folder's masks take when they are decoded


def test_two_thousand_switches_from_eight_threads(backbone: Backbone, folder: Path) -> None:
    module = backbone.module
    tensors = list(module.state_dict().values())
    before = [t.clone() for t in tensors]
    with Bank(backbone, folder, memory=ABOUT_HALF) as bank:
        known: dict[str | None, list[torch.Tensor]] = {}
        for name in (*bank.names, None):
            with bank.use(name):
                known[name] = [t.clone() for t in tensors]
        assert 0 < len(bank._shelf) < len(bank)
        started = threading.Barrier(THREADS)

        def work(seed: int) -> None:
            draw = random.Random(seed)
            started.wait()
            for _ in range(SWITCHES // THREADS):
                name = draw.choice(list(known))
                with bank.use(name):
                    assert all(map(torch.equal, tensors, known[name]))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
    assert all(map(torch.equal, module.state_dict().values(), before))


def test_batches_beside_masks_that_come_and_go(backbone: Backbone, folder: Path, model: nn.Module) -> None:
    images = torch.randint(0, 256, (6, 3, 9, 9), dtype=torch.uint8)
    with Bank(backbone, folder) as bank:
        kept, passing = ("a", "b", "c"), ("d", "e")
        alone = {name: bank.embed(images, name) for name in kept}
        done = threading.Event()

        def come_and_go() -> None:
            while not done.is_set():
                for name in passing:
                    bank.remove(name)
                    bank.add(folder / f"{name}.mask.safetensors")
                assert not bank.refresh().removed

        def embed(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(40):
                names = [draw.choice(kept) for _ in range(6)]
                found = bank.embed(images, names)
                for name in set(names):
                    places = [i for i, other in enumerate(names) if other == name]
                    part = bank.embed(images[places], name)
                    assert torch.equal(found[places], part)
                    torch.testing.assert_close(part, alone[name][places], rtol=0, atol=1e-5)

        with ThreadPoolExecutor(5) as pool:
            other = pool.submit(come_and_go)
            try:
                list(pool.map(embed, range(4)))
            finally:
                done.set()
            other.result()
