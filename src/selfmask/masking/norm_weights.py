"""The weights of norm layers, where they are trained beside the masks: which they are, and at what rate.

They scale and shift whole channels, which no mask of a channel's weights can do, and they are few: 0.1 % of a network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from selfmask.errors import SelectionError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Batch and instance norms, layer, group and RMS norms. timm's and open_clip's are derived from these."""

_OWN_NAMES = frozenset(("RmsNorm", "SimpleNorm"))
"""timm's own, which are derived from none of them in some of its versions."""

MOST_ADAM, OF_ADAM, OF_SGD = 0.01, 2 / 3, 1 / 500


def norm_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of the norm layers of `model`, by the first of each one's names, in the model's order."""
    found = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS) or type(module).__name__ in _OWN_NAMES
        for parameter in module.parameters(recurse=False)
    }
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in found}


def without_norms(
    chosen: Mapping[str, nn.Parameter], norms: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """The `chosen` parameters that are masked where `norms` are trained.

    Raises `SelectionError` where there are no norms, or nothing else was chosen.
    """
    if not norms:
        raise SelectionError("train_norms: the model has no norm layers with weights; leave it out")
    left = {name: parameter for name, parameter in chosen.items() if name not in norms}
    if not left:
        raise SelectionError(
            f"train_norms: the selection chose weights of norm layers only ({next(iter(chosen))!r}), which are "
            "trained and not masked; select other weights too"
        )
    return left


def norm_rate(optimizer: type[torch.optim.Optimizer], rate: float) -> float:
    """The rate of the norm weights, from the optimizer and the scores' `rate`. Reasons: docs/defaults.md.

    Adam and its like make steps of the size of the rate. A score has 1 to go; a norm weight, about 1 itself, should
    change by some tenths at most: two thirds of the scores' rate, at most 0.01. SGD's steps are in proportion to the
    gradient, and a norm weight's is the sum of the score gradients of its channel: a 500th of the scores' rate.
    """
    if issubclass(optimizer, torch.optim.SGD | torch.optim.ASGD):
        return rate * OF_SGD
    return min(rate * OF_ADAM, MOST_ADAM)
