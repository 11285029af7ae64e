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


def stepper(name: str, size: int, batch: int, method: str, masked: bool) -> Callable[[], None]:
    """A function that makes one training step."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    cls = torch.optim.SGD if method == "sgd" else torch.optim.Adam
    options: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9} if method == "sgd" else {"lr": 1e-3}
    optimizer = (
        MaskSet(model, train="fc.*").optimizer(cls, trained={"lr": 1e-3}, **options)
        if masked
        else cls(model.parameters(), **options)
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def compare(name: str, size: int, batch: int, method: str, rounds: int) -> tuple[float, float, float]:
    """Median seconds of a full and of a masked step, and the ratio of the sums over interleaved rounds."""
    full, masked = (stepper(name, size, batch, method, masked) for masked in (False, True))
    times: dict[str, list[float]] = {"full": [], "masked": []}
    for i in range(rounds + 2):
        # The order changes from round to round, so that what drifts hits both.
        order = [("full", full), ("masked", masked)]
        for kind, step in order if i % 2 else reversed(order):
            start = time.perf_counter()
            step()
            if i >= 2:
                times[kind].append(time.perf_counter() - start)
    a, b = (statistics.median(times[kind]) for kind in ("full", "masked"))
    return a, b, statistics.median(y / x for x, y in zip(times["full"], times["masked"], strict=True))


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
        step = stepper(*CASES[case], "sgd", kind == "masked")
        for _ in range(2):
            step()
        print(peak_memory())
        return
    print(f"{'case':<20} {'optimizer':<9} {'full':>9} {'masked':>9} {'ratio':>6}")
    for case, (name, size, batch) in CASES.items():
        for method in METHODS:
            full, masked, ratio = compare(name, size, batch, method, arguments.rounds)
            print(
                f"{case:<20} {method:<9} {1e3 * full:>6.0f} ms {1e3 * masked:>6.0f} ms {ratio:>6.3f}",
                flush=True,
            )
    for case in CASES:
        peaks = [
            subprocess.run(
                [sys.executable, __file__, "--memory", case, kind], check=True, capture_output=True, text=True
            ).stdout.strip()
            for kind in ("full", "masked")
        ]
        print(f"{case:<20} peak memory, SGD: full {peaks[0]} MiB, masked {peaks[1]} MiB")


if __name__ == "__main__":
    main()
