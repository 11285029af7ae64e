"""What the head of a mask file says of features: a linear layer, or CLIP's embeddings of class names.

A mask set saves whatever head it is given; of these two kinds it is known what to do with them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from selfmask.maskfile.quantised import Quantised, plain

Head = Mapping[str, Tensor | Quantised]
"""A head as a mask file stores it."""


def cosine_logits(features: Tensor, embeddings: Tensor, scale: Tensor | float) -> Tensor:
    """`scale` · cosine of features (B, width) with embeddings (C, width): (B, C), as CLIP's own logits."""
    return scale * F.normalize(features, dim=-1) @ embeddings.T


def class_rows(head: Head) -> Tensor | None:
    """A row for each class, (classes, width) unless it is damaged, as it is once read; None for a head of neither kind.

    A linear head has "weight" and perhaps "bias" (classes,), one of texts "text" and "logit_scale", one number.
    """
    rows = head.get("text" if "logit_scale" in head else "weight")
    return rows.values() if isinstance(rows, Quantised) else rows


def predicts(head: Head) -> bool:
    """Whether `head` is of one of the two kinds, so that it tells classes."""
    return class_rows(head) is not None


def linear_layer(head: Head) -> tuple[Tensor, Tensor] | None:
    """Weight (classes, width) and bias (classes,) of a linear head, float32; None of another, or where either lacks."""
    layer = plain(head)
    weight, bias = layer.get("weight"), layer.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        return None
    return weight.float(), bias.float()


def logits(x: Tensor, head: Head) -> Tensor | None:
    """What `head` says of features `x` (N, width): (N, classes), in x's dtype; None where it is of neither kind.

    None too where its rows have another width, or its tensors do not fit each other.

    Example:
        >>> logits(torch.ones(2, 3), {"weight": torch.ones(4, 3)}).shape
        torch.Size([2, 4])
    """
    layer = plain(head)
    rows = class_rows(layer)
    if rows is None or rows.ndim != 2 or x.ndim != 2 or rows.shape[1] != x.shape[1] or not len(rows):
        return None
    scale, bias = layer.get("logit_scale"), layer.get("bias")
    if scale is not None:
        return cosine_logits(x, rows.to(x), float(scale)) if scale.numel() == 1 else None
    if bias is not None and bias.shape != rows.shape[:1]:
        return None
    return F.linear(x, rows.to(x), None if bias is None else bias.to(x))
