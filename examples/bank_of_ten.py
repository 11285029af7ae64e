"""Ten masks over one backbone, and a batch in which each image goes through its own.
Mask k tells the digit k from all others; a site, a customer or a camera would be the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import selfmask

SIZE = 32


def learn(backbone: selfmask.Backbone, digit: int, images: selfmask.ImageSet, steps: int, out: Path) -> None:
    """One mask with a head of two classes, and its file."""
    x, y = backbone.preprocessing.normalise(images.resized(SIZE)), (images.labels == digit).long()
    head = torch.nn.Linear(backbone.width, 2)
    masks = selfmask.MaskSet(backbone.module, rule=selfmask.Threshold(spread=0.5), norm_stats="frozen")
    optimizers = (masks.optimizer(torch.optim.Adam, lr=0.03), torch.optim.Adam(head.parameters(), lr=0.02))
    of_it, others = torch.nonzero(y == 1).flatten(), torch.nonzero(y == 0).flatten()
    for _ in range(steps):
        batch = torch.cat([p[torch.randint(0, len(p), (8,))] for p in (of_it, others)])
        cross_entropy(head(backbone.module(x[batch])), y[batch]).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    masks.save(
        out,
        head=dict(head.state_dict()),
        preprocessing=backbone.preprocessing.describe(),
        training={"classes": ["another", str(digit)]},
    )
    masks.remove()


def main(backbone: selfmask.Backbone | None = None, steps: int = 40, folder: Path = Path("masks")) -> float:
    """Learns ten masks and asks them. Returns the share of right answers."""
    torch.manual_seed(0)
    backbone = backbone or selfmask.build("package:efficientnet_lite0")
    backbone.preprocessing = backbone.preprocessing.at(SIZE)
    data = selfmask.open_data("digits")
    for digit in range(10):
        learn(backbone, digit, data.train, steps, folder / f"digit-{digit}.mask.safetensors")

    assert data.test is not None
    test = data.test.subset([*range(100), *range(100)])
    # Each image to two masks: that of its digit, which should say so, and that of the next, which should not.
    asked = [f"digit-{(label + place // 100) % 10}" for place, label in enumerate(test.labels.tolist())]
    with selfmask.Bank(backbone, folder) as bank:
        found = bank.predict(test, asked)  # a mixed batch: grouped by mask, answered in order
    right = sum((guess.label != "another") == (place < 100) for place, guess in enumerate(found))
    print(f"{len(bank)} masks, {right} of 200 answers right")
    return right / 200


if __name__ == "__main__":
    main()
