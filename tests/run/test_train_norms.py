"""`--train-norms`: what the run measures is what its file holds, for every objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import selfmask
from selfmask.maskfile.mask import Mask
from selfmask.run.adapt import learn_mask
from selfmask.run.settings import AdaptSettings


def settings_of(out: Path, weights: Path, **more: object) -> AdaptSettings:
    return AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, size=32, steps=4, images=80, threads=1,
        train_norms=True, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.slow
def test_what_is_measured_is_what_the_file_holds(
    tmp_path: Path, weights: Path, top1_of: Callable[[AdaptSettings, Mask], float]
) -> None:
    said = Console(file=(tmp_path / "said.txt").open("w"))
    settings = settings_of(
        tmp_path / "run", weights, objective="supervised", head_dtype="int8", statistics=False
    )
    result = learn_mask(settings, console=said).result
    said.file.close()
    assert result is not None
    assert result.rows is not None
    mask = selfmask.load(tmp_path / "run" / "mask.safetensors")
    assert mask.norms
    assert result.masks is not None
    assert result.masks.norms == sum(change.steps.numel() for change in mask.norms.values())
    assert result.bytes["norms"] == mask.bytes()["norms"] > 0
    assert result.training["train_norms"] is True
    assert "norm weights trained beside them" in (tmp_path / "said.txt").read_text().replace("\n", " ")
    found = result.rows["masked"].head
    assert found is not None
    assert top1_of(settings, mask) == pytest.approx(found.value, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["distil", "contrast", "swav"])
def test_objectives_without_labels_train_them(tmp_path: Path, weights: Path, objective: str) -> None:
    settings = settings_of(tmp_path / "run", weights, objective=objective, evaluate=False)
    learn_mask(settings, console=Console(quiet=True))
    mask = selfmask.load(tmp_path / "run" / "mask.safetensors")
    assert mask.norms
    assert all(bool(change.steps.any()) for change in mask.norms.values())
    assert not set(mask.norms) & set(mask.names)
