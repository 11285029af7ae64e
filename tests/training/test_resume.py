"""Exact resume: a run that is killed at any moment goes on to the same masks, bit for bit (CPU)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import selfmask
from selfmask.training.journal import read_log

STEPS = 60


def command(weights: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "selfmask", "adapt", "digits", "--out", str(out), "--backbone", "timm:test_resnet",
        "--weights", str(weights), "--size", "32", "--steps", str(STEPS), "--lr", "0.1", "--checkpoint-every", "4",
        "--no-evaluate", "--threads", "1", "--norm-stats", "adapt", *more,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], log: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        entries = read_log(log)
        if process.poll() is not None or (entries and entries[-1]["step"] >= step):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never reached")


@pytest.mark.slow
def test_killed_three_times_ends_with_the_same_masks(tmp_path: Path, weights: Path) -> None:
    whole = start(command(weights, tmp_path / "whole"))
    assert whole.wait(timeout=240) == 0, whole.stderr.read() if whole.stderr else ""

    draws = random.Random(20261122)
    kills = sorted(draws.randrange(6, STEPS - 6) for _ in range(3))
    out = tmp_path / "killed"
    for i, step in enumerate(kills):
        process = start(command(weights, out, *(["--resume"] if i else [])))
        wait_for_step(process, out / "log.jsonl", step)
        time.sleep(draws.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL, "it ended before it could be killed"
    last = start(command(weights, out, "--resume"))
    assert last.wait(timeout=240) == 0, last.stderr.read() if last.stderr else ""

    a, b = selfmask.load(tmp_path / "whole/mask.safetensors"), selfmask.load(out / "mask.safetensors")
    masks = b.masks()
    assert sum(int((~m).sum()) for m in masks.values()) > 100, (
        "nothing was switched off: the test shows nothing"
    )
    assert all(torch.equal(m, masks[n]) for n, m in a.masks().items())
    assert a.statistics.keys() == b.statistics.keys() != set()
    assert all(torch.equal(t, b.statistics[n]) for n, t in a.statistics.items())
    assert all(torch.equal(t, b.head[n]) for n, t in a.head.items())
    steps = [e["step"] for e in read_log(out / "log.jsonl")]
    assert steps == [e["step"] for e in read_log(tmp_path / "whole/log.jsonl")]


@pytest.mark.slow
def test_an_interrupt_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "run"
    process = start(command(weights, out, "--checkpoint-every", "0"))
    wait_for_step(process, out / "log.jsonl", 10)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in printed
    assert (out / "checkpoint.safetensors").is_file()
    assert not (out / "mask.safetensors").exists()
    again = start(command(weights, out, "--checkpoint-every", "0", "--resume"))
    assert again.wait(timeout=240) == 0
    assert (out / "mask.safetensors").is_file()
