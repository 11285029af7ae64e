"""SGD with momentum on the scores in as few passes over memory as there can be without a kernel of our own.

The plain road writes the score's gradient out and reads it back; here it goes straight into the momentum:

    v ← m·v − Σ w g / (2 Σ M)          one pass (the second term of Main Eq. 2 is one number)
    v ← v + (1/α) θ ⊙ g                 one pass
    S ← S − λ v                         one pass
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfmask.masking.layout import flat, same_layout

if TYPE_CHECKING:
    from selfmask.masking.maskset import MaskedTensor


def sgd_step(tensor: MaskedTensor, grad: Tensor, state: dict[str, Any], lr: float, momentum: float) -> bool:
    """One step of SGD on `tensor.scores`; `state` is torch.optim.SGD's own, and stays interchangeable with it.

    Returns False, having done nothing, where this path does not apply: no momentum, an accelerator (whose
    1/α is on the device), some weights that may not be masked, low precision, or unlike memory layouts.
    """
    theta, weight, scores = tensor.theta, tensor.weight.detach(), tensor.scores
    applies = (
        momentum != 0
        and tensor.maskable is None
        and isinstance(tensor.on, int)
        and isinstance(tensor.factor, float)
        and theta.dtype == scores.dtype == grad.dtype
        and same_layout(theta, weight, grad, scores)
    )
    if not applies:
        return False
    buffer = state.get("momentum_buffer")
    if buffer is None:
        buffer = state["momentum_buffer"] = torch.zeros_like(scores)
    elif not same_layout(buffer, scores):
        return False
    v, g = flat(buffer), flat(grad)
    term = torch.dot(flat(weight), g).div_(-2 * tensor.on)
    torch.add(term, v, alpha=momentum, out=v)
    v.addcmul_(flat(theta), g, value=tensor.factor)  # pyright: ignore[reportArgumentType]
    flat(scores).add_(v, alpha=-lr)
    return True
