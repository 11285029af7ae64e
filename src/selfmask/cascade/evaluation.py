"""What a cascade is worth and what it costs, in the layout of the paper's Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from selfmask.cascade.fusion import MODES
from selfmask.cascade.network import DISPATCHER, Cascade
from selfmask.evaluation import Outcome, Rows, measure_features
from selfmask.training import Plan
from selfmask.training.adaptation import measure_base

SELF_MASKED = "self-masked"


def measure_cascade(plan: Plan, cascade: Cascade, console: Console) -> tuple[Rows | None, dict[str, int]]:
    """k-NN and linear probe of pretrained, statistics only, self-masked, conditional and unconditional
    features, and the forward passes an image that each takes. None where there are no labelled images of two
    classes on both sides.
    """
    train, test = plan.labelled, plan.splits.test
    if test is None or len(test.labelled()) == 0 or len(set(train.labels.tolist())) < 2:
        console.print(
            "nothing was measured: that needs labelled images of two classes and labelled test images"
        )
        return None, {}
    test = test.labelled()
    outcomes: list[Outcome] = measure_base(plan, console)
    passes = {outcome.name: 1 for outcome in outcomes}
    modes = (DISPATCHER, *MODES)
    train_x, test_x = (
        cascade.embeddings(part, plan.backbone, modes=modes, channels_last=plan.channels_last)
        for part in (train, test)
    )
    for mode in modes:
        name = SELF_MASKED if mode == DISPATCHER else mode
        outcomes.append(
            measure_features(
                name, train_x[mode], train.labels, test_x[mode], test.labels, seed=plan.settings.seed
            )
        )
        passes[name] = cascade.passes(mode)
    return Rows.of(outcomes), passes


def storage(cascade: Cascade, separate: Sequence[Path]) -> dict[str, Any]:
    """Bytes of the cascade's masks (all that a mask file holds, for 1 + K of them), against as many separate
    files, and the share of an expert's tensors that were cheaper as a difference from the dispatcher's.
    """
    sizes = cascade.bytes()
    files = [path.stat().st_size for path in separate]
    return {
        "masks": sizes["dispatcher"] + sizes["experts"],
        "separate": sum(files),
        "separate_files": files,
        "fp32_weights": 4 * cascade.dispatcher.index.weights,
    }
