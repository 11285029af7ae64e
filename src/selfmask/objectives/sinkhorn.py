"""Sinkhorn-Knopp: soft assignments of samples to prototypes in which every prototype gets an equal share.

Source: Cuturi 2013 as used by SwAV (Caron et al. 2020, section 3.1); PAPER §6. Worked out in logarithms, so that
neither float16 logits nor a small ε can overflow or leave a row of zeros; on ordinary logits the result
is that of the usual formulation, to rounding.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from selfmask.errors import SettingsError


def sinkhorn(
    logits: Tensor, *, epsilon: float = 0.05, iterations: int = 3, across_processes: bool = True
) -> Tensor:
    """Codes float32 (B, K), each row summing to 1, from similarities `logits` (B, K) of any float dtype.

    Each iteration gives every prototype (column) the same total, then every sample (row) a total of 1; in the
    limit every column sums to B / K. Where `torch.distributed` is initialised, B counts the samples of
    all processes (they may hold different numbers), unless `across_processes` is False.

    epsilon: smoothness, > 0; the smaller, the harder the codes. iterations: at least 1.
    """
    offsets = balance(logits, epsilon=epsilon, iterations=iterations, across_processes=across_processes)
    return balanced(logits, offsets, epsilon=epsilon)


@torch.no_grad()
def balance(logits: Tensor, *, epsilon: float, iterations: int, across_processes: bool = True) -> Tensor:
    """The prototypes' offsets float32 (K,) that `sinkhorn` arrives at: with them, `balanced` gives its codes."""
    if logits.ndim != 2 or 0 in logits.shape:
        raise SettingsError(f"Sinkhorn needs logits (samples, prototypes), not {tuple(logits.shape)}")
    if not epsilon > 0 or iterations < 1:
        raise SettingsError(
            f"Sinkhorn needs epsilon > 0 and at least 1 iteration, got {epsilon} and {iterations}"
        )
    together = across_processes and dist.is_available() and dist.is_initialized()
    # log Q = L + u + v: u holds the rows' scalings, v the columns'. What they have in common cancels.
    scaled = logits.float() / epsilon
    u = torch.zeros_like(scaled[:, :1])
    v = torch.zeros_like(scaled[:1])
    for iteration in range(iterations):
        if iteration:
            u = -torch.logsumexp(scaled + v, dim=1, keepdim=True)
        v = -_logsumexp_of_samples(scaled + u, together)
    return v[0]


@torch.no_grad()
def balanced(logits: Tensor, offsets: Tensor, *, epsilon: float) -> Tensor:
    """Codes float32 (B, K), each row summing to 1: the last normalisation of `sinkhorn`, with known offsets."""
    return torch.softmax(logits.float() / epsilon + offsets, dim=1)


def _logsumexp_of_samples(values: Tensor, together: bool) -> Tensor:
    """log Σ exp over the rows of all processes, float32 (1, K); the maximum is subtracted first."""
    top = values.amax(dim=0, keepdim=True)
    if together:
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
    total = (values - top).exp_().sum(dim=0, keepdim=True)
    if together:
        dist.all_reduce(total)
    return total.log_().add_(top)
