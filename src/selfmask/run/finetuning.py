"""The baselines that a mask is compared with, where they are asked for: weights trained the ordinary way, by Adam.

All of them, or those of the norm layers alone, which are as few bytes as a small mask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from selfmask.errors import RunError, StoppedError
from selfmask.features.rows import FULL_FINE_TUNING, NORMS_ALONE, Outcome
from selfmask.maskfile.head import linear_layer
from selfmask.masking import norm
from selfmask.masking.norm_weights import norm_weights
from selfmask.run.build import build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.measuring import measure_plan
from selfmask.run.plan import Plan

FINETUNE_RATE = 3e-4
"""The best of the few that were tried on CIFAR-10 with EfficientNet-Lite0 and ResNet-18: as good as 1e-4 or better, and
one to two points above SGD 0.003, which lost everything on the digits. `finetune_lr` sets another."""

NORMS_RATE = 0.01
"""The best of five on CIFAR-10 with ResNet-18, with labels (docs/sizes.md), and of two with EfficientNet-Lite0."""


def finetune(plan: Plan, folder: RunFolder, console: Console, measurable: bool) -> list[Outcome]:
    """The same objective, views, steps and head, but all weights trained.

    Writes into `folder`/finetune. The backbone is the base again afterwards. Raises `RunError` where a signal stops it.
    """
    rate = plan.settings.finetune_lr or FINETUNE_RATE
    weights = {name for name, _ in plan.backbone.module.named_parameters()}
    return _trained(FULL_FINE_TUNING, weights, rate, plan, folder.path / "finetune", console, measurable)


def tune_norms(plan: Plan, folder: RunFolder, console: Console, measurable: bool) -> list[Outcome]:
    """As `finetune`, but the weights of the norm layers alone trained; writes into `folder`/norms.

    Raises `RunError` where the network has none.
    """
    weights = norm_weights(plan.backbone.module)
    if not weights:
        raise RunError("the network has no norm layers with weights")
    return _trained(NORMS_ALONE, weights, NORMS_RATE, plan, folder.path / "norms", console, measurable)


def _trained(
    title: str,
    weights: Collection[str],
    rate: float,
    plan: Plan,
    own: Path,
    console: Console,
    measurable: bool,
) -> list[Outcome]:
    """The row `title`: the parameters called `weights` trained at `rate`, in the folder `own`."""
    objective = build_objective(plan)
    objective.prepare(plan.backbone, plan.train)
    own.mkdir(parents=True, exist_ok=True)
    settings = replace(plan.fit, method="adam", rate=rate, warmup=0.1, checkpoint_every=0)
    with base_restored(plan):
        for name, parameter in plan.backbone.module.named_parameters():
            parameter.requires_grad_(name in weights)
        fitted = fit(
            plan.backbone, None, objective, plan.train, settings, RunFolder(own),
            console=console, title=title, channels_last=plan.channels_last,
        )  # fmt: skip
        if fitted.interrupted:
            raise StoppedError(f"{title} was stopped after step {fitted.steps}")
        return [measure_plan(title, plan, head=linear_layer(objective.head()))] if measurable else []


@contextmanager
def base_restored(plan: Plan) -> Iterator[None]:
    """Inside, the backbone's weights and statistics may change; afterwards they are what they were, bit for bit."""
    module = plan.backbone.module
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    frozen = norm.freeze(module) if plan.norm_stats == "frozen" else []
    try:
        yield
    finally:
        norm.thaw(frozen)
        module.load_state_dict(state)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
        module.eval()
