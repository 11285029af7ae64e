"""A run's folder in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.features.rows import Outcome, Rows
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import save_mask
from selfmask.reports.before_after import BeforeAfter, look
from selfmask.run.result import Result, Seconds


class TinyRun:
    """A run's folder as a training writes it, with a network of a few weights; parts can be left out."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(5)
        self.path = folder
        module = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3))
        self.backbone = from_module(module, preprocessing=Preprocessing(size=16, crop=1.0))
        self.images = ImageSet.from_array(
            torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8),
            [i % 4 for i in range(40)],
            classes=["<b>ant</b>", "bee", "cat & dog", "elk"],
            name="tiny",
        )
        theta = {name: p.detach() for name, p in module.named_parameters() if p.ndim == 4}
        rest = {name: p.detach() for name, p in module.named_parameters() if p.ndim != 4}
        self.masks = {name: torch.rand(t.shape) < 0.9 for name, t in theta.items()}
        folder.mkdir()
        self.settings = {
            "data": "some/folder/tiny",
            "backbone": "timm:tiny",
            "seed": 3,
            "steps": 30,
            "lr": None,
        }
        self._write("settings.json", json.dumps(self.settings))
        lines = [
            {"step": s, "loss": 2 / (s + 1), "off": s / 300, "images_per_second": 50.0}
            for s in range(0, 30, 3)
        ]
        self._write("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        save_mask(
            folder / "mask.safetensors", theta=theta, masks=self.masks, rest=rest,
            metadata={"training": {"objective": "supervised", "data": "tiny", "images": 40, "steps": 30}},
        )  # fmt: skip
        self.rows = Rows.of(
            [
                Outcome("pretrained", knn=bits(500, 200), probe=bits(500, 250)),
                Outcome("statistics only", knn=bits(500, 180), probe=bits(500, 240)),
                Outcome("masked", knn=bits(500, 320), probe=bits(500, 300), head=bits(500, 350)),
            ]
        )
        Result(
            data="tiny", backbone="timm:tiny", objective="supervised", seed=3, size=16,
            training={"objective": "supervised", "data": "tiny", "images": 40, "steps": 30}, rows=self.rows,
            bytes=load(folder / "mask.safetensors").bytes(), seconds=Seconds(83.4, 99.0),
            command=("selfmask", "adapt", "some/folder/tiny", "--seed", "3"), versions={"torch": "2.0"},
            machine={"threads": "2"},
        ).write(folder / "result.json")  # fmt: skip

    def seen(self) -> BeforeAfter:
        """The images before and after."""
        return look(load(self.path / "mask.safetensors"), self.backbone, self.images)

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")


def bits(count: int, right: int) -> torch.Tensor:
    """The first `right` of `count` test images are right."""
    return torch.arange(count) < right


@pytest.fixture
def tiny_run(tmp_path: Path) -> TinyRun:
    return TinyRun(tmp_path / "run")
