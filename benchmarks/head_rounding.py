"""How strongly the elements of a rounded head are held where they were: `_HELD` of `maskfile/head_rounding.py`.

    python benchmarks/head_rounding.py RUN... [--bits 4 3 2] [--held 0.03 0.1 0.3 1 3 10]

RUN is a folder that `selfmask adapt` wrote, with labels. Prints for each number of bits and each strength how far what
the head says moves (mean Kullback-Leibler divergence, nats) on the half of the images held out that it was not rounded
for, and top-1 on them; "nearest" rounds each element by itself. Test images play no part in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from selfmask.backbones.spec import recipe_of
from selfmask.features.features import features
from selfmask.maskfile import head_rounding
from selfmask.maskfile.quantised import Quantised, clipped, quantised
from selfmask.run.folder import RunFolder
from selfmask.run.plan import make_plan
from selfmask.run.settings import AdaptSettings

Head = tuple[Tensor, Tensor]


def of_run(run: Path) -> tuple[Tensor, Tensor, Head]:
    """Features (N, width) and labels (N,) of the images held out, by the masked network; and its head as stored."""
    folder = RunFolder(run)
    plan, mask = make_plan(AdaptSettings.read(folder.recorded())), folder.mask()
    if plan.held_out is None:
        raise SystemExit(f"{run} held no images out")
    plan.backbone.preprocessing = (
        recipe_of(mask) or plan.backbone.preprocessing
    )  # with the crop that the run chose
    with mask.apply(plan.backbone.module):
        x = features(plan.backbone, plan.held_out, size=plan.size, channels_last=plan.channels_last)
    return x, plan.held_out.labels, (mask.head["weight"].float(), mask.head["bias"].float())


def rounded(
    head: Head, bits: int, held: float | None, x: Tensor, wanted: Tensor
) -> tuple[Quantised, Quantised]:
    """The head in `bits` bits, its bias in 8; `held` None: each element by itself."""
    if held is None:
        return clipped(head[0], bits, "the head"), quantised(head[1], 8, "its bias")
    with mock.patch.object(head_rounding, "_HELD", held):
        return head_rounding.rounded_head(head[0], bits, x, wanted)


def by_halves(x: Tensor, labels: Tensor, head: Head, bits: int, held: float | None) -> tuple[float, float]:
    """(nats, top-1), each half of the images judged by a head that was rounded for the other."""
    wanted, far, right = F.linear(x, *head), 0.0, 0
    halves = (slice(0, None, 2), slice(1, None, 2))
    for here, other in (halves, halves[::-1]):
        weight, bias = rounded(head, bits, held, x[other], wanted[other])
        said = F.linear(x[here], weight.values(), bias.values()).log_softmax(1)
        far += float(F.kl_div(said, wanted[here].log_softmax(1), reduction="sum", log_target=True))
        right += int((said.argmax(1) == labels[here]).sum())
    return far / len(x), right / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--held", type=float, nargs="+", default=[0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
    arguments = parser.parse_args()
    print("| run | bits | held | nats | top-1 |\n|---|---:|---:|---:|---:|")
    for run in arguments.runs:
        x, labels, head = of_run(run)
        exact = float((F.linear(x, *head).argmax(1) == labels).float().mean())
        print(f"| {run.name} | as stored | | 0 | {exact:.4f} |")
        for bits in arguments.bits:
            for held in (None, *arguments.held):
                far, right = by_halves(x, labels, head, bits, held)
                said = "nearest" if held is None else f"{held:g}"
                print(f"| {run.name} | {bits} | {said} | {far:.4f} | {right:.4f} |", flush=True)


if __name__ == "__main__":
    main()
