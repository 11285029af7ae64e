"""The score's gradient (PAPER Main Eq. 2, "pass-through"): ∂L/∂M, taken as the gradient of the score S.

With w = θ·M/α and g = ∂L/∂w,

    ∂L/∂M_j = θ_j g_j / α  −  (1 / (2 N α²)) · Σ_i w_i g_i          and N α² = Σ M, the number of weights on.

The second term is there because α depends on M. It is one number per tensor.

Everything here is element by element, so where all tensors are laid out alike (contiguous, or all `channels_last`) a
flat view costs nothing and the kernels run at the speed of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same_layout(*tensors: Tensor) -> bool:
    """Whether the tensors share one dense memory order, so that `flat` of each pairs up the same elements."""
    if all(t.is_contiguous() for t in tensors):
        return True
    return tensors[0].dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)


def flat(tensor: Tensor) -> Tensor:
    """A 1-d view of a dense tensor in memory order. Only for tensors that `same_layout` has said yes to."""
    return tensor.as_strided((tensor.numel(),), (1,))


def shared_term(weight: Tensor, grad: Tensor, on: float | Tensor) -> Tensor:
    """The second term, Σ_i w_i g_i / (2 Σ M): a 0-dim tensor in the tensors' dtype, at least float32.

    Args:
        weight: the masked weight w that the gradient was taken at, any shape, floating point.
        grad: g = ∂L/∂w, of the same shape.
        on: the number of weights on, Σ M > 0.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    flatten = flat if same_layout(weight, grad) else torch.ravel
    w, g = flatten(weight.detach()).to(wide), flatten(grad.detach()).to(wide)
    return torch.dot(w, g) / (2 * on)


def score_gradient(
    theta: Tensor,
    weight: Tensor,
    grad: Tensor,
    on: float | Tensor,
    factor: float | Tensor,
    term: Tensor | None = None,
) -> Tensor:
    """∂L/∂M for one tensor, in θ's dtype, at least float32, and of θ's shape.

    Args:
        theta: the base weight θ.
        weight: the masked weight w = θ·M/α that the gradient was taken at.
        grad: g = ∂L/∂w.
        on: Σ M > 0.
        factor: 1/α.
        term: the second term, where it is known already (from `shared_term`).
    """
    wide = torch.promote_types(theta.dtype, torch.float32)
    if term is None:
        term = shared_term(weight, grad, on)
    if isinstance(factor, Tensor):  # it stays on the device, and addcmul takes numbers only
        grad, factor = grad.to(wide) * factor, 1.0
    return torch.addcmul(-term, theta.to(wide), grad.to(wide), value=factor)
