"""A mask inside of a LightningModule: the optimizer is the only line that changes.

python examples/with_lightning.py   (pip install lightning)
"""

from __future__ import annotations

from typing import Any

import lightning
import timm
import torch
from own_loop import digits
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import selfmask


class Adapter(lightning.LightningModule):
    """A pretrained network of which only a mask and a new head are learnt."""

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        self.model = timm.create_model(name, pretrained=pretrained, num_classes=10)
        self.masks = selfmask.MaskSet(
            self.model, rule=selfmask.Threshold(spread=0.5), norm_stats="frozen", train="fc.*"
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.masks.optimizer(torch.optim.Adam, lr=0.03, trained={"lr": 0.01})


def main(name: str = "resnet18.a1_in1k", pretrained: bool = True, **arguments: Any) -> Adapter:
    """Learns a mask and writes its file; `arguments` are Lightning's Trainer's."""
    torch.manual_seed(0)
    x, y = digits(size=32)
    loader = DataLoader(TensorDataset(x[:1_000], y[:1_000]), batch_size=64, shuffle=True)
    adapter = Adapter(name, pretrained)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, **arguments)
    trainer.fit(adapter, loader)
    print(adapter.masks.status())
    adapter.masks.save("digits.mask.safetensors")
    adapter.masks.remove()
    return adapter


if __name__ == "__main__":
    main(max_epochs=10)
