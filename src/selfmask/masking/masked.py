"""What an optimizer moves: one masked tensor (w, θ, scores, mask), and all those of a model.

The model keeps ordinary parameters w = θ·M/α. They are rebuilt from the exact base θ every time, so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from selfmask.masking.gradient import same_layout
from selfmask.masking.rules import Rule, Threshold
from selfmask.masking.weight import masked_weight, scale


class MaskedTensor:
    """One selected parameter: its weight w in the model, its base θ, its scores S, and how many bits are on.

    `on` (Σ M) and `factor` (1/α) describe the weight as it now stands in the model. On the CPU they are numbers;
    on an accelerator 0-dim float64 tensors, so that a step never waits for the device.
    """

    def __init__(
        self, name: str, weight: nn.Parameter, scores: Tensor, maskable: Tensor | None, rule: Rule
    ) -> None:
        self.name = name
        self.weight = weight
        self.theta = weight.detach().clone()
        self.scores = scores
        self.maskable = maskable
        self.rule = rule
        first = self.mask(0)
        self.start_mask = None if bool(first.all()) else first
        self.on: float | Tensor = weight.numel()
        self.factor: float | Tensor = 1.0

    def mask(self, step: int) -> Tensor:
        """M from the scores as they are: bool, of θ's shape, on θ's device."""
        if self.maskable is None:
            return self.rule.mask(self.scores, self.name, step)
        # What may not be masked is always on: it counts as scored above everything else, and top-k, whose
        # densities leave room for all of it, counts it in.
        pinned = self.scores.masked_fill(~self.maskable, torch.inf)
        return self.rule.mask(pinned, self.name, step) | ~self.maskable

    def follow(self) -> None:
        """Move θ and the scores to where the user has moved the weight: another device, another memory format."""
        self.theta = laid_out_as(self.theta, self.weight)
        self.scores = laid_out_as(self.scores, self.weight)
        if self.maskable is not None:
            self.maskable = laid_out_as(self.maskable, self.weight)
        if self.start_mask is not None:
            self.start_mask = laid_out_as(self.start_mask, self.weight)

    def rewrite(self, step: int) -> None:
        """w = θ·M/α in place (PAPER Main Eq. 1)."""
        total = self.theta.numel()
        if total == 0:
            return
        weight = self.weight.detach()
        if self.theta.device.type != "cpu":
            self._rewrite_on_device(weight, step)
            return
        if (
            isinstance(self.rule, Threshold)
            and self.maskable is None
            and self.theta.dtype == self.scores.dtype
        ):
            on = int(np.count_nonzero((self.scores > self.rule.mu).numpy()))
            if on > 0:
                # The same bits as masked_weight gives, in two passes: threshold_backward(x, S, μ) is x where
                # S > μ and +0 elsewhere, and several times faster here than a fill under a mask.
                self.on, self.factor = on, scale(on, total)
                torch.mul(self.theta, self.factor, out=weight)
                torch.ops.aten.threshold_backward.grad_input(
                    weight, self.scores, self.rule.mu, grad_input=weight
                )
                return
        mask = self.mask(step)
        self.on = int(np.count_nonzero(mask.numpy()))
        self.factor = scale(self.on, total)
        weight.copy_(masked_weight(self.theta, mask, self.factor))

    def _rewrite_on_device(self, weight: Tensor, step: int) -> None:
        mask = self.mask(step)
        self.on = mask.sum().to(torch.float64)
        self.factor = (self.theta.numel() / self.on).sqrt()
        wide = torch.promote_types(self.theta.dtype, torch.float32)
        product = (self.theta.to(wide) * self.factor.to(wide)).to(self.theta.dtype)
        weight.copy_(product.masked_fill_(~mask, 0.0))


class MaskedTensors:
    """All masked tensors of a model by name, the ordinary parameters trained beside them, and the steps done."""

    def __init__(self, tensors: Mapping[str, MaskedTensor], trained: Mapping[str, nn.Parameter]) -> None:
        self.tensors = dict(tensors)
        self.trained = dict(trained)
        self.steps = 0

    @torch.no_grad()
    def rewrite(self) -> None:
        """Write w = θ·M/α for every tensor, from the scores as they are."""
        for t in self.tensors.values():
            t.rewrite(self.steps)


def laid_out_as(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` on the device and in the memory order of `model`, copied only if it is not so already."""
    if tensor.device == model.device and (tensor.stride() == model.stride() or same_layout(tensor, model)):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
