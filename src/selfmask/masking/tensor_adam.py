"""Adam with one second moment for a whole tensor: each score moves in proportion to its own gradient.

Plain Adam moves every score at nearly the same speed, so that thousands cross the threshold within a few steps of each
other. Here the rate is still free of the loss's scale and of the layer's, but the scores keep the gradient's own
distribution, θ·g with its long tail: they cross one after another, those that matter most to the loss first, as with
SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class TensorAdam(torch.optim.Optimizer):
    """update = lr · m̂ / sqrt(v̂), m̂ as Adam's, v̂ the bias-corrected running mean of mean(g²) over the tensor.

    >>> scores = torch.ones(3)
    >>> scores.grad = torch.tensor([0.0, 1.0, -2.0])
    >>> TensorAdam([scores], lr=0.1).step()
    >>> scores
    tensor([1.0000, 0.9225, 1.1549])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.015,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad if not group["weight_decay"] else p.grad + group["weight_decay"] * p
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(p)
                    state["mean_square"] = torch.zeros((), dtype=p.dtype, device=p.device)
                state["step"] += 1
                step = int(state["step"])
                state["exp_avg"].lerp_(grad, 1 - first)
                norm = torch.linalg.vector_norm(grad)  # one pass; its square over N is mean(g²)
                state["mean_square"].lerp_(norm.square() / max(1, grad.numel()), 1 - second)
                size = (state["mean_square"] / (1 - second**step)).sqrt_().add_(group["eps"])
                p.addcdiv_(state["exp_avg"], size.to(p.dtype), value=-group["lr"] / (1 - first**step))
        return loss
