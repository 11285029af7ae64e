"""A setting that cannot be is refused before the folder of the run is opened, so that it blocks no other run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from selfmask.backbones.spec import build
from selfmask.errors import RunError, SelfmaskError, SettingsError
from selfmask.maskset import MaskSet
from selfmask.run.adapt import learn_mask
from selfmask.run.build import build_masks
from selfmask.run.plan import make_plan
from selfmask.run.process import device_named
from selfmask.run.settings import AdaptSettings

QUIET = Console(quiet=True)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"select": "resnt"}, "did you mean 'resnet'"),
    ({"select": "auto,*.bais"}, r"'\*\.bais' matches none"),
    ({"weights_share": "biggest:50"}, "--weights-share reads"),
    ({"rule": "topk", "density": 1.5}, "50 % is 0.5"),
    ({"rule": "progressive", "density": 1.5}, "end <= start"),
    ({"rule": "topk", "density": 0.3, "weights_share": "largest:50"}, "must be above 0.5"),
    ({"rule": "topk", "weights_share": "random:50"}, "must be above 0.5"),
    (
        {"rule": "topk", "density_from": Path("nope")},
        "--density-from names a mask file, and nope cannot be read",
    ),
    ({"rule": "topk", "density_from": "another backbone's"}, "no density is given for"),
    ({"stages": 99}, "99 were asked for"),
    ({"spread": 1.5}, "start - spread"),
]


@pytest.fixture
def found_elsewhere(tmp_path: Path) -> Path:
    return MaskSet(nn.Sequential(nn.Linear(32, 32))).save(tmp_path / "elsewhere.safetensors")


def small(weights: Path, out: Path) -> AdaptSettings:
    return AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, objective="supervised", size=32,
        images=64, batch=16, steps=2, evaluate=False,
    )  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_refused_settings_leave_no_folder(
    flags: dict[str, Any], message: str, weights: Path, tmp_path: Path, found_elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def never(*_: object) -> None:
        raise AssertionError("measured before the settings were checked")

    monkeypatch.setattr("selfmask.run.adapt.measure_base", never)
    if flags.get("density_from") == "another backbone's":
        flags = {**flags, "density_from": found_elsewhere}
    out = tmp_path / "run"
    settings = small(weights, out)
    with pytest.raises(SelfmaskError, match=message):
        learn_mask(replace(settings, evaluate=True, **flags), console=QUIET)
    assert not out.exists()


@pytest.mark.slow
def test_the_corrected_call_works_in_the_same_folder(weights: Path, tmp_path: Path) -> None:
    settings = small(weights, tmp_path / "run")
    with pytest.raises(SelfmaskError):
        learn_mask(replace(settings, select="resnt"), console=QUIET)
    run = learn_mask(replace(settings, select="auto,*.bias"), console=QUIET)
    assert run.steps == 2
    assert run.mask.is_file()


def test_checking_touches_no_weight_and_draws_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(small(weights, tmp_path), rule="topk", density=0.8, weights_share="random:50")
    built = build(settings.backbone, weights=weights)
    state = {n: t.clone() for n, t in built.module.state_dict().items()}
    versions = [p._version for p in built.module.parameters()]
    monkeypatch.setattr("selfmask.run.plan.build", lambda *_, **__: built)
    drawn = torch.get_rng_state()
    plan = make_plan(settings)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [p._version for p in plan.backbone.module.parameters()] == versions
    assert all(torch.equal(t, state[n]) for n, t in plan.backbone.module.state_dict().items())
    build_masks(plan).remove()


def test_a_record_whose_share_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"held_out": "half \\u001b[2J"}')
    with pytest.raises(RunError, match=r"settings\.json is damaged: its held_out is 'half"):
        learn_mask(AdaptSettings("digits", out=tmp_path, resume=True), console=QUIET)


def test_a_batch_that_processes_cannot_share_is_refused_first(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(
        SelfmaskError, match="a batch of 16 images cannot be shared evenly among 3 processes: --batch 18"
    ):
        learn_mask(small(weights, tmp_path / "run"), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_text_head_without_a_text_tower_is_refused_first(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(SelfmaskError, match="objective text needs a backbone that reads"):
        learn_mask(replace(small(weights, tmp_path / "run"), objective="text"), console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta", "--device is auto, cpu, cuda or mps, got 'meta'"),
        ("gpu", "--device is auto, cpu, cuda or mps, got 'gpu'"),
        ("cuda:9", "--device cuda:9: this machine has no CUDA devices"),
        ("mps", "--device mps: torch cannot use Apple's GPU here"),
    ],
)
def test_devices_that_are_not_here(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=re.escape(said)):
        device_named(name)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
