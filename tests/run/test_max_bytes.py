"""`--max-bytes`: the run's file is no larger, what is measured is what it holds, and its cost is measured on images
held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import selfmask
from selfmask.errors import RunError, SettingsError
from selfmask.maskfile.mask import Mask
from selfmask.run import adapt
from selfmask.run.adapt import learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.plan import make_plan
from selfmask.run.result import Result
from selfmask.run.settings import AdaptSettings


@pytest.mark.slow
def test_what_is_measured_is_what_the_small_file_holds(
    tmp_path: Path, weights: Path, top1_of: Callable[[AdaptSettings, Mask], float]
) -> None:
    settings = AdaptSettings(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, steps=4, lr=0.3,
        images=400, held_out=0.3, threads=1, train_norms=True, statistics=False, larger=False, max_bytes="9k",
    )  # fmt: skip
    said = Console(file=(tmp_path / "said.txt").open("w"))
    result = learn_mask(settings, console=said).result
    said.file.close()
    assert result is not None
    assert result.check is not None
    assert result.spent is not None
    assert result.spent.record is not None
    name = "mask.safetensors" if result.check.kept else "rejected.mask.safetensors"
    path = tmp_path / "run" / name
    assert [p.name for p in (tmp_path / "run").glob("*mask.safetensors")] == [name]
    assert path.stat().st_size == result.bytes["file"] == result.spent.file <= 9216
    mask = selfmask.load(path)
    assert mask.metadata["budget"] == result.spent.record
    assert result.spent.images == 120
    assert result.spent.change is not None
    assert "of 9,216 bytes, whole" in (tmp_path / "said.txt").read_text()
    assert Result.read(tmp_path / "run" / "result.json").spent == result.spent

    assert result.rows is not None
    found = result.rows["masked"].head
    assert found is not None
    assert top1_of(settings, mask) == pytest.approx(found.value, abs=1e-9)


@pytest.mark.slow
def test_without_labels_too(tmp_path: Path, weights: Path) -> None:
    settings = AdaptSettings(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, steps=3, lr=0.3,
        images=80, threads=1, objective="contrast", evaluate=False, max_bytes=6000,
    )  # fmt: skip
    result = learn_mask(settings, console=Console(quiet=True)).result
    assert result is not None
    assert result.spent is not None
    assert result.spent.change is None
    assert result.bytes["file"] <= 6000


@pytest.mark.slow
def test_what_cannot_fit_is_told_before_the_training(tmp_path: Path, weights: Path) -> None:
    settings = AdaptSettings(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, steps=3, images=200,
        threads=1, evaluate=False, max_bytes=1000,
    )  # fmt: skip
    with pytest.raises(SettingsError, match="the smallest possible file takes"):
        learn_mask(settings, console=Console(quiet=True))
    assert not list((tmp_path / "run").glob("*mask.safetensors"))
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_budget_that_turns_out_too_small_costs_no_mask(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AdaptSettings(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, steps=2, images=200,
        threads=1, evaluate=False, max_bytes=1000,
    )  # fmt: skip
    monkeypatch.setattr(adapt, "check_room", lambda *given, **more: None)
    with pytest.raises(SettingsError, match=r"the whole mask, [\d,]+ bytes, is kept as .*unchecked"):
        learn_mask(settings, console=Console(quiet=True))
    assert selfmask.load(tmp_path / "run" / "unchecked.mask.safetensors").head
    with pytest.raises(RunError, match="holds no mask"):
        RunFolder(tmp_path / "run").mask()


def test_it_is_checked_before_anything_is_done() -> None:
    for bad in ("10q", 0, "-3"):
        with pytest.raises(SettingsError, match="--max-bytes"):
            AdaptSettings("digits", max_bytes=bad)
    with pytest.raises(SettingsError, match="--rule topk has a density of its own"):
        AdaptSettings("digits", max_bytes="10k", rule="topk")


def test_little_room_means_few_flips_and_norm_weights_unless_something_else_is_asked(weights: Path) -> None:
    settings = AdaptSettings(
        "digits", backbone="timm:test_resnet", weights=weights, size=32, steps=4, images=80
    )
    whole = make_plan(settings)
    count = sum(t.numel() for t in whole.selection.choose(whole.backbone.module)[0].values())
    little = make_plan(replace(settings, max_bytes=count // 128 - 1))
    assert (little.fit.method, little.train_norms) == ("tensor-adam", True)
    asked = ({"max_bytes": count // 128 + 1}, {"max_bytes": count // 128 - 1, "optimizer": "adam"})
    for plan in (whole, *(make_plan(replace(settings, **more)) for more in asked)):  # type: ignore[arg-type]
        assert (plan.fit.method, plan.train_norms) == ("adam", False)
    # What is masked are norm weights themselves: they cannot be trained as well, and nobody asked for it.
    assert not make_plan(replace(settings, max_bytes=count // 128 - 1, select="bn1.weight")).train_norms
