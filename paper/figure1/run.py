"""The appendix's Figure 1: only the learning rate matters, on a real backbone and real images.

    python paper/figure1/run.py --data ../shared/data/cifar10 --backbone timm:resnet18 \\
        --weights ../shared/weights/resnet18_in1k.safetensors --out runs/figure1

Five runs that differ in (λ, S0, μ) only: the standard one, the one that the theorems say is the same, and one change
at a time. Each leaves its log and its mask file in `OUT/NAME`; what is finished is not run again. With all five there,
`figure1.json` and `figure1.png` are written beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console

from selfmask.features.features import features
from selfmask.masking.norm import NormStats
from selfmask.masking.rules import Threshold
from selfmask.maskset import MaskSet
from selfmask.objectives.supervised import Supervised
from selfmask.run.build import build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.provenance import machine, versions
from selfmask.run.result import read_json, write_json
from selfmask.run.settings import AdaptSettings

HERE = Path(__file__).resolve().parent
DONE = "run.json"


@dataclass(frozen=True)
class Configuration:
    """λ as a multiple of the standard one, S0 and μ, and how the curve is drawn."""

    rate: float
    start: float
    mu: float
    colour: str
    line: str
    width: float

    def fall(self, mean_score: float) -> float:
        """(S0 − mean S) / (S0 − μ): 0 at the start, 1 where the average weight is about to be switched off."""
        return (self.start - mean_score) / (self.start - self.mu)


CONFIGURATIONS = {
    "standard": Configuration(1, 1.0, 0.0, "#1f5fa8", "-", 3.5),
    "equivalent": Configuration(2, 2.5, 0.5, "#111111", ":", 1.6),
    "rate": Configuration(2, 1.0, 0.0, "#c2571a", "-", 3.5),
    "threshold": Configuration(1, 1.0, 0.5, "#111111", "--", 1.2),
    "start": Configuration(1, 2.0, 0.0, "#3b8a5a", "-", 1.6),
}
"""PAPER §3. The theorems: masks depend on λ/(S0 − μ) alone, which is 1, 1, 2, 2 and 1/2 times the standard λ here."""


@dataclass(frozen=True)
class Figure1:
    """Run what is missing; with all five there, draw."""

    data: str
    """Images with labels."""
    backbone: str = "timm:resnet18"
    """As for `selfmask adapt`."""
    weights: Path | None = None
    """A file of the backbone's weights."""
    out: Path = Path("runs/figure1")
    """Folder of the runs."""
    rate: float = 50.0
    """The standard λ; the paper's."""
    momentum: float = 0.9
    """Of SGD, as in the paper."""
    norm_stats: NormStats = "adapt"
    """The paper's batch norms move."""
    warmup: float = 40 / 150
    """Share of the steps over which λ rises, as in the paper; then a cosine."""
    images: int = 1000
    """Training images."""
    size: int = 32
    """Pixels of the views."""
    steps: int = 60
    """Optimizer steps of 64 images."""
    seed: int = 0
    """Of the images, their order and their views: the same for all five."""
    threads: int = 1
    """CPU threads."""
    only: tuple[str, ...] = tuple(CONFIGURATIONS)
    """Run these only."""


def learn(asked: Figure1, name: str, console: Console) -> None:
    """One run: the masks' file, a line of the log for each step, and the head's accuracy before and after."""
    chosen, folder = CONFIGURATIONS[name], asked.out / name
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(
        AdaptSettings(
            asked.data, backbone=asked.backbone, weights=asked.weights, objective="supervised",
            images=asked.images, size=asked.size, steps=asked.steps, optimizer="sgd", lr=asked.rate * chosen.rate,
            warmup=asked.warmup, norm_stats=asked.norm_stats, seed=asked.seed, threads=asked.threads,
        )
    )  # fmt: skip
    objective = build_objective(plan)
    assert isinstance(objective, Supervised)
    objective.prepare(plan.backbone, plan.train)
    before = top1(plan, objective)
    masks = MaskSet(
        plan.backbone.module,
        rule=Threshold(mu=chosen.mu, start=chosen.start),
        norm_stats=asked.norm_stats,
        seed=asked.seed,
    )
    settings = replace(plan.fit, momentum=asked.momentum, checkpoint_every=0, log_every=1)
    fit(
        plan.backbone, masks, objective, plan.train, settings, RunFolder(folder), console=console, title=name,
        watch=lambda step: {"fall": chosen.fall(mean_score(masks))}, channels_last=plan.channels_last,
    )  # fmt: skip
    masks.save(RunFolder(folder).mask_file, backbone=plan.backbone.describe())
    found = {
        "data": plan.train.name, "images": len(plan.train), "backbone": plan.backbone.spec,
        "top-1 before": before, "top-1 after": top1(plan, objective), "status": masks.status().as_dict(),
    }  # fmt: skip
    write_json(folder / DONE, found)


@torch.no_grad()
def top1(plan: Plan, objective: Supervised) -> float:
    """Share of the test images that the head gets right, on the network as it is now."""
    test = plan.splits.test
    assert test is not None
    x = features(plan.backbone, test, size=plan.size, channels_last=plan.channels_last)
    logits = F.linear(x, objective.linear.weight, objective.linear.bias)
    return float((logits.argmax(dim=1) == test.labels).float().mean())


@torch.no_grad()
def mean_score(masks: MaskSet) -> float:
    """The mean over all masked weights of all tensors."""
    total = sum(s.double().sum().item() for s in masks.scores.values())
    return total / sum(s.numel() for s in masks.scores.values())


def gather(asked: Figure1) -> dict[str, Any]:
    """The curves, how each run ended, and every pair compared."""
    runs: dict[str, Any] = {}
    for name, chosen in CONFIGURATIONS.items():
        log, done = RunFolder(asked.out / name).log().steps, read_json(asked.out / name / DONE)
        status = done["status"]
        runs[name] = {
            "lambda": asked.rate * chosen.rate, "S0": chosen.start, "mu": chosen.mu,
            "weights": status["weights"], "flipped": status["flipped"],
            "flipped share": status["flipped"] / status["weights"],
            "top-1 before": done["top-1 before"], "top-1 after": done["top-1 after"],
            "loss": [e["loss"] for e in log],
            "mean score, normalised": [1 - e["fall"] for e in log],
            "share off": [e["off"] for e in log],
        }  # fmt: skip
    done = read_json(asked.out / "standard" / DONE)
    return {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(asked).items()
                     if k not in ("data", "weights", "out", "only")},
        "data": done["data"], "images": done["images"],
        "machine": machine(torch.device("cpu")), "versions": versions(),
        "pairs": {f"{a} against {b}": compare(asked, runs, a, b) for a, b in combinations(CONFIGURATIONS, 2)},
        "runs": runs,
    }  # fmt: skip


def compare(asked: Figure1, runs: dict[str, Any], a: str, b: str) -> dict[str, float]:
    """How far two runs are apart: the masks at the end, bit by bit, and the curves, step by step.

    `flipped agreeing` is the share of the weights off in either that are off in both: all bits agree on nearly
    everything wherever few are flipped.
    """
    first, second = (RunFolder(asked.out / name).mask().masks() for name in (a, b))
    total = sum(m.numel() for m in first.values())
    same = sum(int((m == second[n]).sum()) for n, m in first.items())
    both = sum(int((~m & ~second[n]).sum()) for n, m in first.items())
    either = sum(int((~m | ~second[n]).sum()) for n, m in first.items())

    def apart(curve: str) -> float:
        return max(abs(x - y) for x, y in zip(runs[a][curve], runs[b][curve], strict=True))

    return {
        "bits agreeing": same / total,
        "flipped agreeing": both / max(either, 1),
        "bits different": total - same,
        "largest difference of the loss": apart("loss"),
        "largest difference of the mean score": apart("mean score, normalised"),
        "range of the mean score": max(
            max(runs[n]["mean score, normalised"]) - min(runs[n]["mean score, normalised"]) for n in (a, b)
        ),
    }


def draw(found: dict[str, Any], picture: Path) -> None:
    """Loss (a running mean of nine steps, so that lines can be told apart), normalised mean score, weights off."""
    figure = Figure(figsize=(13, 4), dpi=90, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, chosen in CONFIGURATIONS.items():
        run = found["runs"][name]
        label = f"{name}: λ = {run['lambda']:g}, S0 = {run['S0']:g}, μ = {run['mu']:g}"
        style: dict[str, Any] = {"color": chosen.colour, "linestyle": chosen.line, "linewidth": chosen.width}
        steps = range(1, len(run["loss"]) + 1)
        loss = torch.tensor(run["loss"]).unfold(0, min(9, len(steps)), 1).mean(dim=1)
        first = (len(steps) - len(loss)) // 2 + 1
        left.plot(range(first, first + len(loss)), loss.tolist(), label=label, **style)
        middle.plot(steps, run["mean score, normalised"], **style)
        right.plot(steps, [100 * off for off in run["share off"]], **style)
    left.set(ylabel="loss (mean of nine steps)")
    middle.set(ylabel="mean of (S − μ) / (S0 − μ)")
    middle.ticklabel_format(useOffset=False)
    right.set(ylabel="weights off (%)")
    right.set_ylim(bottom=0)
    for axes in (left, middle, right):
        axes.set(xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper center")
    figure.savefig(picture)


def main(asked: Annotated[Figure1, cyclopts.Parameter(name="*")]) -> None:
    """Run what has not been run yet; then gather and draw."""
    torch.set_num_threads(asked.threads)
    console = Console()
    for name in asked.only:
        if not (asked.out / name / DONE).is_file():
            learn(asked, name, console)
    missing = [name for name in CONFIGURATIONS if not (asked.out / name / DONE).is_file()]
    if missing:
        console.print(f"still to run: {', '.join(missing)}")
        return
    found = gather(asked)
    write_json(HERE / "figure1.json", found)
    draw(found, HERE / "figure1.png")
    for pair, of_pair in found["pairs"].items():
        console.print(pair, {k: float(f"{v:.6g}") for k, v in of_pair.items()}, soft_wrap=True)


if __name__ == "__main__":
    cyclopts.run(main)
