"""An objective from outside the package: one class, one registration, and a run to its mask file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import selfmask
from selfmask.cli import main
from selfmask.errors import SettingsError
from selfmask.images.views import Augment
from selfmask.objectives.registry import OBJECTIVES, objective_class


@dataclass(frozen=True)
class TheirSettings:
    push: float = 1.0
    """How much of it."""


class Theirs(selfmask.Objective):
    """Features away from those of the untouched network: of no use, but its masks must move."""

    Settings: ClassVar[type] = TheirSettings

    def __init__(self, size: int, width: int, settings: TheirSettings) -> None:
        super().__init__()
        self.push = settings.push
        self.views = (Augment(size),)
        self.register_buffer("away", torch.randn(width, generator=torch.Generator().manual_seed(0)))
        self.away: Tensor

    @classmethod
    def make(cls, job: selfmask.Job, settings: TheirSettings) -> Self:
        return cls(job.size, job.backbone.width, settings)

    def loss(
        self, module: nn.Module, batch: selfmask.Batch, step: int, steps: int
    ) -> tuple[Tensor, dict[str, float]]:
        loss = 1 - self.push * F.cosine_similarity(module(batch.views[0]), self.away[None]).mean()
        return loss, {}


@pytest.fixture
def registered() -> Iterator[None]:
    selfmask.register("theirs", Theirs)
    yield
    del OBJECTIVES["theirs"]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_it_runs_to_a_mask_file_from_python_and_by_the_command(tmp_path: Path, weights: Path) -> None:
    run = selfmask.adapt(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, images=64, batch=16,
        steps=6, lr=0.3, warmup=0.0, threads=1, evaluate=False, objective="theirs", objective_settings={"push": 0.5},
    )  # fmt: skip
    mask = selfmask.load(run.mask)
    assert mask.density() < 1
    assert mask.metadata["training"]["objective"] == "theirs"
    words = [
        "adapt", "digits", "--out", str(tmp_path / "command"), "--backbone", "timm:test_resnet", "--weights",
        str(weights), "--size", "32", "--images", "64", "--batch", "16", "--steps", "6", "--lr", "0.3", "--warmup", "0",
        "--threads", "1", "--no-evaluate", "--objective", "theirs", "--theirs.push", "0.5",
    ]  # fmt: skip
    assert main(words) == 0
    other = selfmask.load(tmp_path / "command" / "mask.safetensors").masks()
    assert all(torch.equal(bits, other[name]) for name, bits in mask.masks().items())


def test_a_cell_of_a_notebook_that_is_run_again_registers_its_class_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("selfmask.objectives.registry.OBJECTIVES", dict(OBJECTIVES))

    def cell() -> type[selfmask.Objective]:
        class Mine(Theirs):
            pass

        return Mine

    selfmask.register("mine", cell())
    again = cell()
    selfmask.register("mine", again)
    assert objective_class("mine") is again
    with pytest.raises(SettingsError, match="already"):
        selfmask.register("mine", Theirs)


def test_what_is_no_objective_is_refused() -> None:
    class NoSettings(selfmask.Objective):
        pass

    for name, kind, message in (
        ("mine too", Theirs, "a name is letters"),
        ("auto", Theirs, "not 'auto'"),
        ("swav", Theirs, "already"),
        ("mine", NoSettings, "Settings must be a dataclass"),
        ("mine", int, "must be a class derived from Objective"),
    ):
        with pytest.raises(SettingsError, match=message):
            selfmask.register(name, kind)  # type: ignore[arg-type]
    assert "mine" not in OBJECTIVES
