"""How much smaller compaction makes trained masks, and what it costs: the tables and the plot of docs/compaction.md.

    python benchmarks/compaction.py RUN... [--orders ORDER...] [--shares 0.7 0.5 0.35 0.25 0.15] [--on test|held-out]
    python benchmarks/compaction.py RUN... --table [--plot docs/compaction.png]

RUN is a folder that `selfmask adapt` wrote. For each order in which off-weights may be turned on, and each share of
the bits to be left, the mask is compacted to that share and judged by k-NN, by its own head, and by a head fitted anew
to the training features ("refitted", compared with one refitted to the uncompacted mask). The orders see training
images only (`--images` of them); nothing is chosen on the images that are judged on. "held-out" judges on images that
were in neither part, or on the validation part: that is where the default order was chosen. Results are kept in
RUN/compaction-ON.json, and a share that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.backbones.spec import recipe_of
from selfmask.features.features import features
from selfmask.features.intervals import paired_interval
from selfmask.features.knn import knn
from selfmask.features.probe import fit_probe
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.masking.importance import Masks, at_bits, by_magnitude, per_bit, sensitivity
from selfmask.masking.weight import masked_weight
from selfmask.run.folder import RunFolder
from selfmask.run.plan import Plan, make_plan
from selfmask.run.settings import AdaptSettings

ORDERS = ("magnitude", "sensitivity")


class Bench:
    """One run's network, images and mask."""

    def __init__(self, run: Path, on: str, judged: int | None, seed: int = 0) -> None:
        folder = RunFolder(run)
        self.plan: Plan = make_plan(AdaptSettings.read(folder.recorded()))
        self.mask: Mask = folder.mask()
        self.mask.check(self.plan.backbone.module)
        own = self.plan.backbone
        own.preprocessing = recipe_of(self.mask) or own.preprocessing  # with the crop that the run chose
        self.masks: Masks = self.mask.masks()
        module = self.plan.backbone.module
        self.theta = {n: module.get_parameter(n).detach().clone() for n in self.mask.names}
        self.reference = self.plan.labelled
        self.judged = self._judged(on)
        generator = torch.Generator().manual_seed(seed)
        if judged is not None and judged < len(self.judged):
            self.judged = self.judged.subset(
                torch.randperm(len(self.judged), generator=generator)[:judged].tolist()
            )

    def _judged(self, on: str) -> ImageSet:
        splits = self.plan.splits
        if on == "test":
            assert splits.test is not None
            return splits.test.labelled()
        used = set(self.plan.train.names)
        rest = [i for i, name in enumerate(splits.train.names) if name not in used]
        if len(rest) >= 300:
            return splits.train.subset(rest).labelled()
        assert splits.validation is not None, "no image is left to hold out"
        return splits.validation.labelled()

    @torch.no_grad()
    def wear(self, masks: Masks) -> None:
        """Rewrite the weights from the base and `masks`."""
        for name, mask in masks.items():
            self.plan.backbone.module.get_parameter(name).copy_(masked_weight(self.theta[name], mask))

    def correct(self, masks: Masks) -> dict[str, Tensor]:
        """Which of the judged images are right: bool (N,) by "knn", "head" and "refitted"."""
        self.wear(masks)
        x, y = (
            features(self.plan.backbone, part, size=self.plan.size, channels_last=self.plan.channels_last)
            for part in (self.reference, self.judged)
        )
        labels = self.judged.labels
        found = {"knn": knn(x, self.reference.labels, y) == labels}
        if "weight" in self.mask.head:
            logits = F.linear(y, self.mask.head["weight"].float(), self.mask.head["bias"].float())
            found["head"] = logits.argmax(dim=1) == labels
        found["refitted"] = fit_probe(x, self.reference.labels).predict(y) == labels
        return found

    def importance(self, order: str, images: int) -> Masks:
        """A value for each weight: the lower, the sooner it is turned on."""
        module = self.plan.backbone.module
        if order == "magnitude":
            return by_magnitude(self.theta)
        chosen = self.reference.subset(
            torch.randperm(len(self.reference), generator=torch.Generator().manual_seed(0))[:images].tolist()
        )
        recipe = self.plan.backbone.preprocessing
        views = recipe.normalise(chosen.resized(self.plan.size, recipe.crop, recipe.interpolation)).split(64)

        self.wear(self.masks)
        return sensitivity(module, self.theta, views)

    def bytes(self, masks: Masks) -> dict[str, int]:
        """The file's bytes by part."""
        with tempfile.TemporaryDirectory() as folder:
            return load(save_derived(Path(folder) / "m", self.mask, masks, note={})).bytes()


def measure(
    run: Path, orders: Sequence[str], shares: Sequence[float], on: str, images: int, judged: int | None
) -> None:
    """Fill in what is missing of the run's table."""
    path = run / f"compaction-{on}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    bench = Bench(run, on, judged)
    before = bench.correct(bench.masks)
    found["images"] = len(bench.judged)
    found["before"] = {k: float(v.float().mean()) for k, v in before.items()} | {
        "bytes": bench.bytes(bench.masks)
    }
    network = bench.plan.backbone.module.state_dict()
    found["fp32"] = 4 * sum(t.numel() for t in network.values() if t.is_floating_point())
    for order in orders:
        missing = [s for s in shares if f"{s:g}" not in found.get(order, {})]
        if not missing:
            continue
        start = time.perf_counter()
        importance = per_bit(bench.masks, bench.importance(order, images))
        seconds = time.perf_counter() - start
        for share in missing:
            masks = at_bits(bench.masks, importance, share)
            after = bench.correct(masks)
            row: dict[str, Any] = {"bytes": bench.bytes(masks), "seconds": round(seconds, 1)}
            for name, right in after.items():
                change, low, high = paired_interval(right, before[name])
                row[name] = {"value": float(right.float().mean()), "change": change, "low": low, "high": high}
            found.setdefault(order, {})[f"{share:g}"] = row
            path.write_text(json.dumps(found, indent=1))
            print(run.name, order, share, {k: round(100 * v["change"], 2) for k, v in row.items() if k in after},
                  row["bytes"]["masks"], flush=True)  # fmt: skip


def collected(runs: Sequence[Path], on: str) -> list[dict[str, Any]]:
    """The kept results of the runs that have some."""
    return [json.loads(p.read_text()) for r in runs if (p := r / f"compaction-{on}.json").is_file()]


def table(found: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    """Markdown: for each order and share the mean bytes, and the mean change of each metric with that of each run."""
    lines = [
        f"| order | bits left | masks, bytes | file, bytes | fp32 / file | {', points | '.join(metrics)}, points |",
        "|---|---|---|---|---|" + "---|" * len(metrics),
    ]
    shares = sorted({s for f in found for o in ORDERS for s in f.get(o, {})}, key=float, reverse=True)
    start = [f["before"]["bytes"] for f in found]
    lines.append(_row("(none)", "1", start, found, [""] * len(metrics)))
    for order in ORDERS:
        for share in shares:
            rows = [f[order][share] for f in found if share in f.get(order, {})]
            if len(rows) < len(found):
                continue
            cells = []
            for metric in metrics:
                changes = [100 * r[metric]["change"] for r in rows if metric in r]
                each = ", ".join(f"{c:+.1f}" for c in changes)
                cells.append(f"{statistics.mean(changes):+.2f} ({each})" if changes else "")
            lines.append(_row(order, share, [r["bytes"] for r in rows], found, cells))
    return "\n".join(lines)


def _row(
    order: str, share: str, sizes: list[dict[str, int]], found: Sequence[dict[str, Any]], cells: list[str]
) -> str:
    masks, file = (statistics.mean(s[part] for s in sizes) for part in ("masks", "file"))
    smaller = statistics.mean(f["fp32"] / s["file"] for f, s in zip(found, sizes, strict=True))
    return f"| {order} | {share} | {masks:,.0f} | {file:,.0f} | {smaller:.0f} | {' | '.join(cells)} |"


def plot(groups: dict[str, list[dict[str, Any]]], path: Path, metric: str = "knn") -> None:
    """The rate-distortion curves, one panel for each group of runs, means over its runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(groups), figsize=(4 * len(groups), 3), sharey=True, squeeze=False)
    for axis, (title, found) in zip(axes[0], groups.items(), strict=True):
        for order in ORDERS:
            shares = [s for s in found[0].get(order, {}) if all(s in f.get(order, {}) for f in found)]
            shares = sorted(shares, key=float)
            if shares:
                drops = [statistics.mean(100 * f[order][s][metric]["change"] for f in found) for s in shares]
                axis.plot([*map(float, shares), 1.0], [*drops, 0.0], marker="o", markersize=3, label=order)
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="share of the mask's bits left")
    axes[0][0].set_ylabel(f"{metric}, points beside the whole mask")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure what is missing, or print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--orders", nargs="+", default=list(ORDERS), choices=ORDERS)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.7, 0.5, 0.35, 0.25, 0.15])
    parser.add_argument("--on", choices=["test", "held-out"], default="test")
    parser.add_argument("--images", type=int, default=512, help="that the orders see")
    parser.add_argument("--judged", type=int, help="at most so many images are judged on")
    parser.add_argument("--metrics", nargs="+", default=["knn", "head", "refitted"])
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.table:
        for run in asked.runs:
            measure(run, asked.orders, asked.shares, asked.on, asked.images, asked.judged)
    groups: dict[str, list[Path]] = {}
    for run in asked.runs:
        groups.setdefault(run.name.rpartition("-")[0], []).append(run)
    for name, runs in groups.items():
        print(f"\n{name}\n\n{table(collected(runs, asked.on), asked.metrics)}")
    if asked.plot:
        plot({name: collected(runs, asked.on) for name, runs in groups.items()}, asked.plot)


if __name__ == "__main__":
    main()
