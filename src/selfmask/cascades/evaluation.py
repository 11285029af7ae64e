"""What a cascade is worth, what it costs, and what its clusters are made of (PAPER Table 3, App. Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from selfmask.cascades.fusion import MODES, fit_fusion, fusion_images
from selfmask.cascades.network import DISPATCHER, Cascade
from selfmask.errors import DataError
from selfmask.features.measure import measure_features
from selfmask.features.rows import Outcome, Rows
from selfmask.run.measuring import measure_base
from selfmask.run.plan import Plan
from selfmask.run.result import Cluster

SELF_MASKED = "self-masked"
WHITENED = "self-masked, whitened"
"""The dispatcher's features, centred and projected as the fused ones are, by the same images: what remains of a
cascade's gain beside this row is the experts', and not the equal variances'."""


def measure_cascade(
    plan: Plan, cascade: Cascade, console: Console, *, narrow: Sequence[int] = ()
) -> tuple[Rows | None, dict[str, int]]:
    """k-NN and linear probe of each network's features, and the forward passes an image that each takes.

    Rows: those without a mask (`measure_base`), self-masked, the same whitened, conditional, unconditional; and the
    last three again at each width of `narrow`, which costs no further pass: axes are in order of their variance. None
    where there are no labelled images of two classes to train on, or no labelled test images.
    """
    train, test = plan.labelled, plan.splits.test
    if not plan.can_be_measured or test is None:
        console.print(
            "nothing was measured: that needs labelled images of two classes and labelled test images"
        )
        return None, {}
    test = test.labelled()
    outcomes: list[Outcome] = measure_base(plan, None, console)
    passes = {outcome.name: 1 for outcome in outcomes}

    def add(name: str, mode: str, train_x: Tensor, test_x: Tensor) -> None:
        outcomes.append(
            measure_features(name, train_x, train.labels, test_x, test.labels, seed=plan.settings.seed)
        )
        passes[name] = cascade.passes(mode)

    train_x, test_x = (
        cascade.embeddings(part, plan.backbone, modes=(DISPATCHER, *MODES), channels_last=plan.channels_last)
        for part in (train, test)
    )
    fused, whole = fusion_images(plan.train, plan.settings.seed), train_x[DISPATCHER]
    if not len(train) == len(fused) == len(plan.train):  # else these are the very images
        whole = cascade.embeddings(
            fused, plan.backbone, modes=(DISPATCHER,), channels_last=plan.channels_last
        )[DISPATCHER]
    alone = fit_fusion(whole, cascade.fusions["conditional"].width, "conditional")
    embeddings = {
        WHITENED: (DISPATCHER, alone.apply(train_x[DISPATCHER]), alone.apply(test_x[DISPATCHER])),
        **{mode: (mode, train_x[mode], test_x[mode]) for mode in MODES},
    }
    add(SELF_MASKED, DISPATCHER, train_x[DISPATCHER], test_x[DISPATCHER])
    for name, (mode, of_train, of_test) in embeddings.items():
        add(name, mode, of_train, of_test)
    for width in narrow:
        for name, (mode, of_train, of_test) in embeddings.items():
            add(f"{name}, {width} wide", mode, of_train[:, :width], of_test[:, :width])
    return Rows.of(outcomes, judged="conditional"), passes


def storage(cascade: Cascade, separate: Sequence[Path]) -> dict[str, Any]:
    """Bytes of the cascade's masks (all that a mask file holds, for 1 + K of them), against as many separate
    files, and the fp32 size of the weights that one of them masks.
    """
    sizes = cascade.bytes()
    files = [path.stat().st_size for path in separate]
    return {
        "masks": sizes["dispatcher"] + sizes["experts"],
        "separate": sum(files),
        "separate_files": files,
        "fp32_weights": 4 * cascade.dispatcher.index.weights,
    }


def make_up(assignment: Tensor, labels: Tensor, classes: Sequence[str], experts: int) -> list[Cluster]:
    """What the clusters 0 … experts - 1 are made of, by `assignment` and `labels`: both int64 (N,), -1 unknown."""
    if assignment.shape != labels.shape:
        raise DataError(
            f"each image needs an expert and a label (or -1), got {tuple(assignment.shape)} experts and "
            f"{tuple(labels.shape)} labels"
        )
    clusters: list[Cluster] = []
    for expert in range(experts):
        mine = labels[assignment == expert]
        known = mine[mine >= 0]
        counts = torch.bincount(known, minlength=len(classes))
        # A stable sort: classes of equal size stay in the class list's order, on every machine.
        order = counts.argsort(descending=True, stable=True)
        order = order[counts[order] > 0]
        covered = counts[order].cumsum(0).double() / max(len(known), 1)
        clusters.append(
            Cluster(
                expert=expert,
                images=len(mine),
                labelled=len(known),
                classes=tuple(str(classes[index]) for index in order.tolist()),
                covered=tuple(covered.tolist()),
            )
        )
    return clusters
