"""`selfmask adapt` in two processes (gloo) gives the masks of one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import selfmask
from selfmask._common.processes import ended_on_all
from selfmask.errors import DivergedError, RunError
from selfmask.run.checkpoint import read_checkpoint


def run(start: Callable[..., Any], port: int, weights: Path, out: Path, world: int) -> list[tuple[int, str]]:
    """Exit status and output of each process."""
    words = [
        "adapt", "digits", "--images", "256", "--out", str(out), "--backbone", "timm:test_resnet",
        "--weights", str(weights), "--size", "32", "--steps", "12", "--lr", "0.1", "--warmup", "0",
        "--objective", "swav", "--threads", "1", "--device", "cpu", "--no-evaluate",
    ]  # fmt: skip
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(world):
        place = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        started.append(start(words, out.parent / f"{out.name}-{rank}.txt", **shared, **place))
    return [process.end() for process in started]


def scores(folder: Path) -> dict[int, Tensor]:
    state: dict[int, dict[str, Tensor]] = read_checkpoint(folder / "checkpoint.safetensors")["optimizer"][
        "state"
    ]
    return {place: of["score"] for place, of in state.items() if "score" in of}


@pytest.mark.slow
def test_two_processes_write_the_mask_of_one(
    tmp_path: Path, weights: Path, start: Callable[..., Any], free_port: int
) -> None:
    for world, name in ((1, "one"), (2, "two")):
        for status, said in run(start, free_port, weights, tmp_path / name, world):
            assert status == 0, said
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert one.keys() == two.keys() != set()
    a, b = (selfmask.load(tmp_path / name / "mask.safetensors") for name in ("one", "two"))
    masks, others = a.masks(), b.masks()
    off = sum(int((~m).sum()) for m in masks.values())
    assert off > 100, "masks that do not move prove nothing"
    for place, score in one.items():
        differ = (score > 0) != (two[place] > 0)
        assert not differ[score.abs() > 1e-5].any(), place
    assert sum(int((masks[n] != others[n]).sum()) for n in masks) <= off / 100


@pytest.mark.slow
def test_all_processes_end_where_the_first_cannot_start(
    tmp_path: Path, weights: Path, start: Callable[..., Any], free_port: int
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    ended = run(start, free_port, weights, tmp_path / "out", 2)
    assert all(status not in (0, None) for status, _ in ended), ended
    assert "not empty" in ended[0][1]
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def _one_goes_wrong(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        with ended_on_all(torch.device("cpu"), DivergedError("it has gone wrong on another process")):
            if rank == 1:
                raise RunError("collapsed")
    except RunError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_where_one_process_finds_that_the_run_has_gone_wrong_all_end(tmp_path: Path) -> None:
    start_processes(_one_goes_wrong, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said == ["it has gone wrong on another process", "collapsed"]
