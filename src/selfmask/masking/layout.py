"""One flat view over tensors that share a dense memory layout.

Everything that a step does to a weight, its base, its gradient and its scores is element by element, so where
all of them are laid out alike (contiguous, or all `channels_last`) a flat view costs nothing and the kernels
run at the speed of the memory.
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


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` on the device and in the memory order of `model`, copied only if it is not so already."""
    if tensor.device == model.device and (tensor.stride() == model.stride() or same_layout(tensor, model)):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
