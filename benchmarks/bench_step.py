"""What a masked training step costs beside a full fine-tuning step, interleaved in one process.

    python benchmarks/bench_step.py [--rounds 12] [--threads 2]

Same network, batch and optimizer family; the ratio is of medians. Peak memory is of a process that does only the
one kind of step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

from selfmask.maskset import MaskSet
from selfmask.run.process import keep_freed_memory

CASES = {"resnet18 at 64 px": ("resnet18", 64, 64), "resnet50 at 96 px": ("resnet50", 96, 64)}
METHODS = ("sgd", "adam")
KINDS = ("full", "masked", "with norms")
"""All weights trained; masks alone; masks and the weights of the norm layers (`train_norms`)."""


def stepper(name: str, size: int, batch: int, method: str, kind: str) -> Callable[[], None]:
    """A function that makes one training step."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    cls = torch.optim.SGD if method == "sgd" else torch.optim.Adam
    options: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9} if method == "sgd" else {"lr": 1e-3}
    if kind == "full":
        optimizer = cls(model.parameters(), **options)
    else:
        masks = MaskSet(model, train="fc.*", train_norms=kind == "with norms")
        optimizer = masks.optimizer(cls, trained={"lr": 1e-3}, **options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def compare(
    name: str, size: int, batch: int, method: str, rounds: int
) -> tuple[dict[str, float], list[float]]:
    """Median seconds of a step of each kind, and the medians of the ratios to full over interleaved rounds."""
    steps = {kind: stepper(name, size, batch, method, kind) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for i in range(rounds + 2):
        # The order changes from round to round, so that what drifts hits all.
        for kind in KINDS[i % len(KINDS) :] + KINDS[: i % len(KINDS)]:
            start = time.perf_counter()
            steps[kind]()
            if i >= 2:
                times[kind].append(time.perf_counter() - start)
    full = times["full"]
    ratios = [statistics.median(y / x for x, y in zip(full, times[kind], strict=True)) for kind in KINDS[1:]]
    return {kind: statistics.median(values) for kind, values in times.items()}, ratios


def peak_memory() -> int:
    """MiB. Linux's own high-water mark of this program; getrusage's would be that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.memory:
        case, kind = arguments.memory
        step = stepper(*CASES[case], "sgd", kind)
        for _ in range(2):
            step()
        print(peak_memory())
        return
    print(
        f"{'case':<20} {'optimizer':<9} {'full':>9} {'masked':>9} {'ratio':>6} {'with norms':>10} {'ratio':>6}"
    )
    for case, (name, size, batch) in CASES.items():
        for method in METHODS:
            times, (masked, with_norms) = compare(name, size, batch, method, arguments.rounds)
            full, one, both = (f"{1e3 * times[kind]:.0f} ms" for kind in KINDS)
            print(
                f"{case:<20} {method:<9} {full:>9} {one:>9} {masked:>6.3f} {both:>10} {with_norms:>6.3f}",
                flush=True,
            )
    for case in CASES:
        peaks = {
            kind: subprocess.run(
                [sys.executable, __file__, "--memory", case, kind], check=True, capture_output=True, text=True
            ).stdout.strip()
            for kind in KINDS
        }
        said = ", ".join(f"{kind} {peak} MiB" for kind, peak in peaks.items())
        print(f"{case:<20} peak memory, SGD: {said}")


if __name__ == "__main__":
    main()
