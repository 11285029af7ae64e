"""The Python of the README runs as it stands there; so does the same in the two loops that people bring."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import selfmask

README = Path(__file__).resolve().parents[2] / "README.md"


def digits_loader() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4) for _ in range(6)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def test_the_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand there, on the default backbone with its own weights, which needs no network."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks, "the README has lost its Python example"
    assert len(blocks[0].strip().splitlines()) <= 18
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {"loader": digits_loader()}
    exec(blocks[0], names)
    found = {name: t for name, t in names["model"].state_dict().items() if name.startswith("0.")}
    base = snapshot(selfmask.build("efficientnet_lite0").module)
    assert {name[2:] for name in found} == set(base)
    assert all(torch.equal(t, base[name[2:]]) for name, t in found.items())
    mask = selfmask.load(tmp_path / "flowers.mask.safetensors")
    assert all(name.startswith("0.") for name in mask.names)
    assert any(not bool(m.all()) for m in mask.masks().values())


def test_the_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    model = timm.create_model("test_resnet", num_classes=0).eval()
    for number in (1, 7):
        masks = selfmask.MaskSet(model, select="auto")
        masks.set_scores({name: torch.randn_like(score) + 1 for name, score in masks.scores.items()})
        masks.save(tmp_path / f"runs/site-{number}.mask.safetensors")
        masks.remove()
    images = list(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    names: dict[str, Any] = {"model": model, "images": images, "selfmask": selfmask}
    assert '"efficientnet_lite0"' in block
    exec(block.replace('"efficientnet_lite0"', "model"), names)
    x = names["x"]
    for place, name in enumerate(("site-1", "site-7", "site-1")):
        alone = names["bank"].embed([images[place]], name)
        torch.testing.assert_close(x[place], alone[0])
    assert not torch.equal(x[0], x[1])
    names["bank"].close()


@pytest.mark.filterwarnings("ignore")  # theirs, of which a new one comes with each release
def test_inside_a_lightning_module(tmp_path: Path) -> None:
    import lightning

    class Adapter(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()
            self.masks = selfmask.MaskSet(self.model)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.model(x), y)

        def configure_optimizers(self) -> Any:
            optimizer = self.masks.optimizer(torch.optim.Adam, lr=0.4)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)]

    adapter = Adapter()
    before = snapshot(network())
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path, gradient_clip_val=1.0,
    )  # fmt: skip
    data = digits_loader()
    trainer.fit(adapter, torch.utils.data.DataLoader(data, batch_size=None))  # pyright: ignore[reportArgumentType]
    assert adapter.masks.steps == 12
    assert adapter.masks.status().flipped > 10
    adapter.masks.remove()
    assert all(torch.equal(t, before[n]) for n, t in adapter.model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_inside_a_hugging_face_trainer(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16
    )  # fmt: skip
    config.num_labels = 4
    model = ViTForImageClassification(config)
    before = snapshot(model)
    masks = selfmask.MaskSet(model)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.4)
    data = [{"pixel_values": x[0], "labels": int(y[1])} for x, y in digits_loader() for _ in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        save_strategy="steps", save_steps=6, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, optimizers=(optimizer, scheduler))  # pyright: ignore[reportArgumentType]
    trainer.train()
    assert masks.steps == 6
    assert masks.status().flipped > 10
    assert (tmp_path / "checkpoint-6" / "optimizer.pt").is_file()
    masks.remove()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
