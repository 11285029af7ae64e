"""A segmentation network of torchvision whose backbone is masked: which pixel belongs to which digit.

Any nn.Module will do: say which of its parameters are masked, and which are trained beside them. A detector is the
same, with its own loss. python examples/segmentation.py fetches the backbone's weights from torchvision.
"""

from __future__ import annotations

import torch
from own_loop import digits
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import selfmask

BACKGROUND = 10


def scenes(count: int) -> tuple[Tensor, Tensor]:
    """Pictures of four digits each, float32 (N, 3, 64, 64), and the class of every pixel, (N, 64, 64)."""
    x, y = digits(size=32)
    four = torch.randint(0, len(x), (count, 2, 2))
    pictures = x[four].permute(0, 3, 1, 4, 2, 5).reshape(count, 3, 64, 64)
    classes = y[four].repeat_interleave(32, 1).repeat_interleave(32, 2)
    return pictures, torch.where(pictures[:, 0] > 0, classes, BACKGROUND)


def main(pretrained: bool = True, steps: int = 150, out: str = "scenes.mask.safetensors") -> list[float]:
    """Learns a mask and writes its file. Returns the loss of every step."""
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(num_classes=11, weights_backbone="DEFAULT" if pretrained else None)
    masks = selfmask.MaskSet(
        model,
        select=lambda name, weight: name.startswith("backbone.") and weight.ndim == 4,  # its convolutions
        rule=selfmask.Threshold(spread=0.5),  # scores start unequal, so that they do not all cross at once
        train="classifier.*",
    )
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.03, trained={"lr": 3e-3})
    losses = []
    model.train()
    for _ in range(steps):
        pictures, classes = scenes(8)
        loss = cross_entropy(model(pictures)["out"], classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    print(f"{masks.status().flipped:,} weights off; loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last")
    masks.save(out)
    masks.remove()
    return losses


if __name__ == "__main__":
    main()
