"""The baseline that a mask is compared with, where it is asked for: all weights trained the ordinary way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from selfmask.errors import RunError
from selfmask.features.rows import FULL_FINE_TUNING, Outcome
from selfmask.masking import norm
from selfmask.run.build import build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.measuring import linear, measure_plan
from selfmask.run.plan import Plan

FINETUNE_RATE = 3e-4
"""Of Adam. The best of the few that were tried on CIFAR-10 with EfficientNet-Lite0 and ResNet-18: as good as 1e-4 or
better, and one to two points above SGD 0.003, which lost everything on the digits. `finetune_lr` sets another."""


def finetune(plan: Plan, folder: RunFolder, console: Console, measurable: bool) -> list[Outcome]:
    """The same objective, views, steps and head, but all weights trained by Adam.

    Writes into `folder`/finetune. The backbone is the base again afterwards. Raises `RunError` where a signal stops it.
    """
    objective = build_objective(plan)
    objective.prepare(plan.backbone, plan.train)
    own = RunFolder(folder.path / "finetune")
    own.path.mkdir(parents=True, exist_ok=True)
    rate = plan.settings.finetune_lr or FINETUNE_RATE
    settings = replace(plan.fit, method="adam", rate=rate, warmup=0.1, checkpoint_every=0)
    with base_restored(plan):
        fitted = fit(
            plan.backbone, None, objective, plan.train, settings, own,
            console=console, title="full fine-tuning", channels_last=plan.channels_last,
        )  # fmt: skip
        if fitted.interrupted:
            raise RunError(f"it was stopped after step {fitted.steps}")
        return [measure_plan(FULL_FINE_TUNING, plan, head=linear(objective.head()))] if measurable else []


@contextmanager
def base_restored(plan: Plan) -> Iterator[None]:
    """Inside, the backbone's weights and statistics may change; afterwards they are what they were, bit for bit."""
    module = plan.backbone.module
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    frozen = norm.freeze(module) if plan.norm_stats == "frozen" else []
    try:
        yield
    finally:
        norm.thaw(frozen)
        module.load_state_dict(state)
        module.eval()
