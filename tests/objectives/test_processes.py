"""Two processes with half the batch each against one with all of it (gloo)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from selfmask.maskset import MaskSet
from selfmask.objectives.base import Batch
from selfmask.objectives.sinkhorn import sinkhorn
from selfmask.objectives.swav import Swav, SwavSettings

BATCH, STEPS, WIDTH = 16, 25, 12
SETTINGS = SwavSettings(
    prototypes=6, dim=5, start="random", large=16, small=8, count=(2, 2), queue=2 * BATCH, queue_from=0.2,
    frozen=0.1, split=0.14, least=0.05, watch=False,
)  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, WIDTH, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def train(rank: int, world: int) -> dict[str, Tensor]:
    """Scores and head after a scratch loop that averages gradients over the processes."""
    torch.set_num_threads(1)
    net = network()
    torch.manual_seed(3)
    objective = Swav(WIDTH, 500, 16, SETTINGS, batch=BATCH)
    masks = MaskSet(net, select=lambda name, parameter: parameter.ndim == 4)
    optimizer = masks.optimizer(lr=20, momentum=0.9)
    head = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        views = [torch.randn(BATCH, 3, v.size, v.size, generator=generator)[share] for v in objective.views]
        batch = Batch(views, torch.full((len(views[0]),), -1), torch.arange(BATCH)[share])
        loss, _ = objective.loss(net, batch, step, STEPS)
        optimizer.zero_grad()
        head.zero_grad()
        loss.backward()
        if world > 1:
            for p in (*net.parameters(), *objective.parameters()):
                if p.grad is not None:
                    dist.all_reduce(p.grad)
                    p.grad /= world
        objective.before_step(step, STEPS)
        optimizer.step()
        head.step()
    state = {f"scores.{name}": tensor.clone() for name, tensor in masks.scores.items()}
    return state | {f"objective.{name}": tensor.clone() for name, tensor in objective.state_dict().items()}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(rank, 2), f"{folder}/{rank}.pt")
    torch.manual_seed(0)
    logits = torch.randn(BATCH, 5) / 4
    torch.save(sinkhorn(logits[rank * 6 : 6 + rank * 10]), f"{folder}/codes{rank}.pt")  # 6 and 10 samples
    dist.barrier()
    Path(folder, f"{rank}.left").touch()
    while not Path(
        folder, f"{1 - rank}.left"
    ).exists():  # gloo aborts one that still hears of another that left
        time.sleep(0.01)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_the_masks_of_one(tmp_path: Path) -> None:
    start_processes(one_of_two, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    alone = train(0, 1)
    flipped = sum(int((score <= 0).sum()) for name, score in alone.items() if name.startswith("scores."))
    assert flipped > 50, "masks that do not move prove nothing"
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for name, wanted in alone.items():
            if name in ("objective.usage",):  # a figure for the log, of each process's own share
                continue
            assert torch.allclose(together[name].float(), wanted.float(), atol=2e-3), name
            if name.startswith("scores."):
                differ = (together[name] > 0) != (wanted > 0)
                assert not differ[wanted.abs() > 1e-5].any(), name

    torch.manual_seed(0)
    logits = torch.randn(BATCH, 5) / 4
    codes = torch.cat([torch.load(tmp_path / f"codes{rank}.pt", weights_only=True) for rank in range(2)])
    assert torch.allclose(codes, sinkhorn(logits), atol=1e-6)
