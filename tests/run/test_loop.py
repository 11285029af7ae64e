"""`fit` itself, on a small network of ordinary parameters: what a step and a resumed step depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import RunError
from selfmask.images.image_set import ImageSet
from selfmask.images.views import light
from selfmask.masking.norm import running_statistics
from selfmask.objectives.base import Batch, Figures, Objective
from selfmask.run import loop
from selfmask.run.folder import RunFolder
from selfmask.run.loop import Fitted, fit
from selfmask.run.schedule import FitSettings


class Smaller(Objective):
    """Makes features small, and notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.views = (light(16),)
        self.kinds: set[torch.dtype] = set()

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        x = module(batch.views[0])
        self.kinds.add(x.dtype)
        return x.float().square().mean(), {}


def network() -> Backbone:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))
    return from_module(module, preprocessing=Preprocessing(size=16))


def images() -> ImageSet:
    drawn = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(4))
    return ImageSet.from_array(drawn.to(torch.uint8))


SETTINGS = FitSettings(steps=6, batch=8, rate=0.01, checkpoint_every=0, log_every=1)


def trained(folder: Path, backbone: Backbone, settings: FitSettings = SETTINGS, **more: Any) -> Fitted:
    folder.mkdir(exist_ok=True)
    return fit(
        backbone, None, Smaller(), images(), settings, RunFolder(folder), console=Console(quiet=True), **more
    )


def test_what_dropout_draws_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, parts = network(), network()
    trained(tmp_path / "whole", whole)

    def stop(step: int) -> dict[str, float]:
        if step == 4:
            raise RunError("stopped")
        return {}

    with pytest.raises(RunError, match="stopped"):
        trained(tmp_path / "parts", parts, replace(SETTINGS, checkpoint_every=3), watch=stop)
    parts = network()
    torch.rand(7)  # whatever else was drawn before it is resumed
    assert trained(tmp_path / "parts", parts, resume=True).steps == 6
    theirs = parts.module.state_dict()
    assert all(torch.equal(one, theirs[name]) for name, one in whole.module.state_dict().items())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, network())
    with pytest.raises(RunError, match=r"made with rate = 0\.01, this run has 0\.02; resume with the same"):
        trained(tmp_path, network(), replace(SETTINGS, rate=0.02), resume=True)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_runs_in_the_precision_that_was_asked_for(
    tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    objective, settings = Smaller(), replace(SETTINGS, precision=precision, steps=1)
    fit(network(), None, objective, images(), settings, RunFolder(tmp_path), console=Console(quiet=True))
    assert objective.kinds == {dtype}


def test_running_statistics_are_those_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged: list[Tensor] = []
    monkeypatch.setattr(loop, "average", averaged.extend)
    backbone = network()
    trained(tmp_path, backbone)
    places = [tensor.data_ptr() for tensor in averaged]
    statistics = running_statistics(backbone.module)
    assert statistics
    assert all(places.count(tensor.data_ptr()) == SETTINGS.steps for tensor in statistics.values())


def test_the_callers_own_draws_go_on_as_if_nothing_had_been_trained(tmp_path: Path) -> None:
    backbone = network()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trained(tmp_path / "run", backbone)
    assert torch.equal(torch.rand(3), expected)
