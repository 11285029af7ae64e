"""Your own training loop on a timm model: handwritten digits, with labels.

python examples/own_loop.py fetches a ResNet-18 from the hub; any other model of timm does as well.
"""

from __future__ import annotations

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

import selfmask


def digits(size: int) -> tuple[Tensor, Tensor]:
    """1 797 images, float32 (N, 3, size, size) in [-1, 1], and their classes."""
    flat, target = load_digits(return_X_y=True)
    grey = torch.tensor(flat, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return interpolate(grey, size=size, mode="bilinear").expand(-1, 3, -1, -1), torch.tensor(target)


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).float().mean())


def main(
    name: str = "resnet18.a1_in1k", pretrained: bool = True, steps: int = 150, out: str = "digits.mask.safetensors"
) -> tuple[float, float]:  # fmt: skip
    """Learns a mask and applies its file. Returns the accuracy before and after."""
    x, y = digits(size=32)
    train, test = slice(0, 1_000), slice(1_000, None)
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=pretrained, num_classes=10)
    before = accuracy(model, x[test], y[test])

    masks = selfmask.MaskSet(model, rule=selfmask.Threshold(spread=0.5), norm_stats="frozen", train="fc.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=min(0.06, 4.5 / steps), trained={"lr": 0.01})
    model.train()
    for _ in range(steps):
        batch = torch.randint(0, 1_000, (64,))
        cross_entropy(model(x[train][batch]), y[train][batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(masks.status())
    masks.save(out)
    masks.remove()  # the model is the base again, bit for bit

    with selfmask.load(out).apply(model):
        after = accuracy(model, x[test], y[test])
    print(f"accuracy: {before:.3f} before, with a new head; {after:.3f} after")
    return before, after


if __name__ == "__main__":
    main()
