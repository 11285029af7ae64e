"""Exact resume: a run that is killed at any moment goes on to the same masks, bit for bit (CPU)."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import selfmask
from selfmask.run.log import Log

STEPS = 36  # too few for a run to be ended because it learns nothing: the network is a random one


def command(weights: Path, out: Path, *more: str) -> list[str]:
    return [
        "adapt", "digits", "--images", "128", "--out", str(out), "--backbone", "timm:test_resnet",
        "--weights", str(weights), "--size", "32", "--batch", "32", "--steps", str(STEPS), "--no-evaluate",
        "--checkpoint-every", "4", "--threads", "1", "--norm-stats", "adapt", *more,
    ]  # fmt: skip


def wait_for_step(run: Any, log: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        entries = Log.read(log).steps
        if not run.running or (entries and entries[-1]["step"] >= step):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never reached")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "rate", "more"),
    [("supervised", 0.1, []), ("swav", 0.05, ["--train-norms"]), ("distil", 0.03, [])],
)
def test_killed_three_times_ends_with_the_same_masks(
    tmp_path: Path, weights: Path, start: Callable[..., Any], objective: str, rate: float, more: list[str]
) -> None:
    said = tmp_path / "said.txt"
    learn = ["--objective", objective, "--lr", str(rate), *more]
    status, printed = start(command(weights, tmp_path / "whole", *learn), said).end()
    assert status == 0, printed

    draws = random.Random(20261122)
    kills = sorted(draws.randrange(6, STEPS - 6) for _ in range(3))
    out = tmp_path / "killed"
    for i, step in enumerate(kills):
        run = start(command(weights, out, *learn, *(["--resume"] if i else [])), said)
        wait_for_step(run, out / "log.jsonl", step)
        time.sleep(draws.random() * 0.05)
        run.send(signal.SIGKILL)
        status, printed = run.end()
        assert status == -signal.SIGKILL, f"it ended before it could be killed: {printed}"
    status, printed = start(command(weights, out, *learn, "--resume"), said).end()
    assert status == 0, printed

    a, b = selfmask.load(tmp_path / "whole/mask.safetensors"), selfmask.load(out / "mask.safetensors")
    masks = b.masks()
    assert sum(int((~m).sum()) for m in masks.values()) > 100, (
        "nothing was switched off: the test shows nothing"
    )
    assert all(torch.equal(m, masks[n]) for n, m in a.masks().items())
    assert a.statistics.keys() == b.statistics.keys() != set()
    assert all(torch.equal(t, b.statistics[n]) for n, t in a.statistics.items())
    assert all(torch.equal(t, b.head[n]) for n, t in a.head.items())
    assert a.norms.keys() == b.norms.keys()
    assert bool(a.norms) == bool(more)
    assert all(change.equals(b.norms[n]) for n, change in a.norms.items())
    steps = [e["step"] for e in Log.read(out / "log.jsonl").steps]
    assert steps == [e["step"] for e in Log.read(tmp_path / "whole/log.jsonl").steps]


@pytest.mark.slow
def test_an_interrupt_writes_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, weights: Path, start: Callable[..., Any]
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    run = start(command(weights, out, "--lr", "0.1"), said)
    wait_for_step(run, out / "log.jsonl", 10)
    run.send(signal.SIGINT)
    status, printed = run.end()
    assert status == 130, printed
    assert "--resume" in printed
    assert (out / "checkpoint.safetensors").is_file()
    assert not (out / "mask.safetensors").exists()
    status, printed = start(command(weights, out, "--lr", "0.1", "--resume"), said).end()
    assert status == 0, printed
    assert (out / "mask.safetensors").is_file()


@pytest.mark.slow
def test_two_interrupts_end_it_at_once_and_lose_nothing(
    tmp_path: Path, weights: Path, start: Callable[..., Any]
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    run = start(command(weights, out, "--lr", "0.1"), said)
    wait_for_step(run, out / "log.jsonl", 10)
    run.send(signal.SIGINT)
    run.send(signal.SIGINT)
    status, printed = run.end()
    assert status == 130, printed
    assert "Traceback" not in printed
    status, printed = start(command(weights, out, "--lr", "0.1", "--resume"), said).end()
    assert status == 0, printed
