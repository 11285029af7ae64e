"""A linear head in few bits whose outputs stay what they were: the elements are rounded so that their errors cancel.

Each rounded by itself, a head of 3 bits says something else than the exact one. What counts is not the elements but
the outputs on images, and there what one element's rounding does can be undone by the others': the steps are chosen
one feature after another, each the best for what is left (coordinate descent on the quadratic that Frantar et al. 2023
solve in one pass, arXiv:2210.17323). Features that have moved since are made up for in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfmask.maskfile.quantised import Quantised, clipped, most_steps, quantised

_HELD = 1.0
"""How strongly the elements are held where they were, in mean squares of a feature: features may outnumber images. Of
0.03 to 10 it was the best for images that the head was not rounded for, on three masks (CIFAR-10, ResNet-18):
benchmarks/head_rounding.py."""
_SWEEPS, _BLOCK = 4, 64


@torch.no_grad()
def rounded_head(
    weight: Tensor, bits: int, x: Tensor, wanted: Tensor, bias_bits: int = 8
) -> tuple[Quantised, Quantised]:
    """A linear head in `bits` bits an element that says `wanted` of the features `x`, or nearly so.

    Args:
        weight: (classes, width), where to look for it.
        bits: 2 to 8.
        x: (N, width), features of images that stand for those to come.
        wanted: (N, classes), what should be said of them.
        bias_bits: those of an element of its bias.

    Returns (weight, bias). Raises `SettingsError` where the weight or the wanted is not finite.

    Example:
        >>> x, exact = torch.randn(64, 8), torch.randn(3, 8)
        >>> weight, bias = rounded_head(exact, 3, x, x @ exact.T)
        >>> weight.bits, bias.steps.shape
        (3, torch.Size([3]))
    """
    exact, x, wanted = (t.detach().double().cpu() for t in (weight, x, wanted))
    middle, said = x.mean(0), wanted.mean(0)
    gram = (x - middle).T @ (x - middle) / len(x)
    held = _HELD * float(gram.diagonal().mean()) or 1.0
    gram.diagonal().add_(held)
    target = (wanted - said).T @ (x - middle) / len(x) + held * exact
    start = clipped(exact, bits, "the head", gram.diagonal().expand_as(exact))
    size, most = start.scales.double(), most_steps(bits)
    steps = start.steps.double()
    slope = (steps * size[:, None]) @ gram - target
    for _ in range(_SWEEPS):
        before = steps.clone()
        # Within a block only its own slopes are kept up, for speed: the others hear of all its changes at once.
        for block in torch.arange(steps.shape[1], device="cpu").split(_BLOCK):
            own, near = slope[:, block], gram[block][:, block]
            for k, j in enumerate(block.tolist()):
                best = (steps[:, j] - own[:, k] / near[k, k] / size).round().clamp(-most, most)
                moved = torch.where(size > 0, best - steps[:, j], 0.0)
                steps[:, j] += moved
                own += (moved * size)[:, None] * near[k]
            slope += ((steps[:, block] - before[:, block]) * size[:, None]) @ gram[block]
        if torch.equal(steps, before):
            break
    found = Quantised(steps.to(torch.int8), start.scales, bits)
    bias = said - found.values().double() @ middle
    return found, quantised(bias, bias_bits, "the head's bias")
