"""A mask that is worse than the untouched network on images held out is not passed off as a result."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from selfmask.errors import RunError, SettingsError
from selfmask.features.rows import Outcome
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import Splits
from selfmask.maskfile.loading import load
from selfmask.reports.headline import headline
from selfmask.reports.reading import read_run
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.best_views import choose_crop
from selfmask.run.checkpoint import write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.measuring import measure_base, to_gain
from selfmask.run.plan import make_plan
from selfmask.run.result import Check
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import _hold_out, open_as_recorded, open_images, seen_in_training

QUIET = Console(quiet=True)


def short(weights: Path, out: Path, **more: Any) -> AdaptSettings:
    settings = AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, size=32, batch=16, images=400, steps=4,
        threads=1, statistics=False, larger=False, lr=0.02,
    )  # fmt: skip
    return replace(settings, **more)


def said(settings: AdaptSettings) -> tuple[Run, str]:
    written = io.StringIO()
    return learn_mask(settings, Console(file=written, width=200)), written.getvalue()


def test_a_mask_that_harms_is_kept_under_another_name(weights: Path, tmp_path: Path) -> None:
    run, text = said(short(weights, tmp_path / "run", lr=5.0))
    result, folder = run.result, RunFolder(tmp_path / "run")
    assert result is not None
    assert result.check is not None
    assert (result.check.images, result.check.kept, result.kept) == (60, False, False)
    assert result.check.gain.value < -0.01
    assert run.mask == folder.rejected_file
    assert load(run.mask).names
    assert not folder.mask_file.exists()
    assert "warning: on 60 labelled images held out, the masked network is worse" in text
    assert (
        "Keep the untouched network; or try --lr 1.7, --search-lr, fewer --steps than 4, or a larger --size than 32"
        in text
    )
    assert folder.result() == result
    page = headline(read_run(folder.path))
    assert page.status.endswith("finished")
    assert "set aside as rejected.mask.safetensors. Keep the pretrained network" in page.sentence
    assert not read_run(folder.path).problems
    with pytest.raises(RunError, match=r"worse than the untouched network.*rejected\.mask\.safetensors"):
        folder.mask()


def test_what_is_held_out_is_neither_trained_nor_fitted_nor_tested_on(weights: Path, tmp_path: Path) -> None:
    settings = short(weights, tmp_path / "run")
    opened = open_images(settings)
    assert opened.held_out is not None
    assert (len(opened.train), len(opened.labelled), len(opened.held_out)) == (340, 340, 60)
    assert set(opened.held_out.labels.tolist()) == set(range(10))
    parts = [opened.train.names, opened.held_out.names, opened.splits.test.names]  # pyright: ignore[reportOptionalMemberAccess]
    assert len(set().union(*parts)) == sum(map(len, parts))
    run, text = said(settings)
    assert "340 training images, 60 more to check the mask on" in text
    assert run.result is not None
    assert run.result.training["images"] == 340
    folder = RunFolder(tmp_path / "run")
    again = open_as_recorded(folder)
    assert again.train.names == opened.train.names
    assert again.held_out is not None
    assert seen_in_training(folder, again.train) == 340
    assert open_as_recorded(load(run.mask), "digits").train.names == opened.train.names


@pytest.mark.parametrize(
    "more",
    [
        {"evaluate": False},
        {"held_out": 0.0},
        {"budget": "5 per class"},
        {"images": 200},
        {"objective": "distil"},
    ],
)
def test_few_labels_and_runs_that_measure_nothing_hold_nothing_out(more: dict[str, Any]) -> None:
    assert open_images(replace(AdaptSettings("digits", images=400), **more)).held_out is None


def test_where_too_few_are_there_to_hold_some_back_it_is_said() -> None:
    settings = AdaptSettings("digits", images=200, steps=2, size=32)
    assert any(
        "200 labelled images are too few to hold some back" in line for line in make_plan(settings).lines()
    )
    for other in (
        replace(settings, held_out=0.0),
        replace(settings, images=600),
        replace(settings, objective="distil"),
    ):
        assert not any("too few" in line for line in make_plan(other).lines())


def test_the_share_held_out_is_told_only_where_images_were(weights: Path, tmp_path: Path) -> None:
    """By the mask's metadata, which the service shows."""
    for images, told in ((400, 0.15), (200, None)):
        run, _ = said(short(weights, tmp_path / str(images), images=images, steps=2))
        assert run.result is not None
        assert run.result.training["split"].get("held_out") == told
        assert load(run.mask).metadata["training"]["split"].get("held_out") == told


def test_where_there_is_to_gain_it_is_said_before_the_training(weights: Path, tmp_path: Path) -> None:
    plan = make_plan(short(weights, tmp_path / "run", lr=None))

    def outcome(wrong: int) -> Outcome:
        return Outcome("pretrained", knn=right(100, 60), probe=right(100, wrong))

    line = "little to gain: a linear probe of the untouched network is right on 97.0 % of 100 {} already"
    assert to_gain(plan, [outcome(3)], None) == line.format("test images")
    assert to_gain(plan, [outcome(50)], outcome(3)) == line.format("images held out")
    assert to_gain(plan, [outcome(3)], outcome(4)) is None
    assert to_gain(plan, [outcome(4)], None) is None
    assert to_gain(plan, [], None) is None
    often = to_gain(plan, [], outcome(25))
    assert often is not None
    assert often.startswith(
        "much to gain: a linear probe of the untouched network is right on 75.0 % of 100 images"
    )
    assert "--search-lr finds it" in often
    assert to_gain(plan, [], outcome(20)) is None
    assert to_gain(plan, [outcome(25)], None) is None
    for asked in (replace(plan.settings, lr=0.1), replace(plan.settings, search_lr=True)):
        assert to_gain(replace(plan, settings=asked), [], outcome(25)) is None
    assert to_gain(replace(plan, objective="distil"), [outcome(0)], None) is None


def test_it_is_said_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfmask.run.measuring._NEARLY_RIGHT", 0.0)
    _, text = said(short(weights, tmp_path / "run", steps=2))
    assert text.count("little to gain") == 1
    assert text.index("little to gain") < text.index("masked: ")


def test_asked_for_it_is_checked_even_where_nothing_is_measured() -> None:
    opened = open_images(AdaptSettings("digits", evaluate=False, held_out=0.1))
    assert opened.held_out is not None
    assert (len(opened.train), len(opened.held_out)) == (900, 100)


def test_a_validation_part_of_the_datas_own_costs_no_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(2).repeat(60)
    images = ImageSet.from_array(torch.zeros(120, 3, 8, 8, dtype=torch.uint8), labels)
    monkeypatch.setattr(
        "selfmask.run.split.open_data", lambda *_, **__: Splits(images, images.subset(range(80)))
    )
    opened = open_images(AdaptSettings("own"))
    assert opened.held_out is not None
    assert (len(opened.train), len(opened.held_out)) == (120, 80)


def test_a_resumed_run_trains_on_the_same_images(weights: Path, tmp_path: Path) -> None:
    first, _ = said(short(weights, tmp_path / "run"))
    again, _ = said(short(weights, tmp_path / "run", resume=True, evaluate=False))
    assert first.result is not None
    assert again.result is not None
    assert again.result.training == first.result.training
    assert again.result.check == first.result.check


def right(count: int, wrong: int) -> torch.Tensor:
    return torch.arange(count) >= wrong


@pytest.mark.parametrize(
    ("images", "masked", "untouched", "kept"),
    [(100, 10, 10, True), (100, 5, 10, True), (100, 11, 10, True), (100, 12, 10, False), (1000, 105, 100, True),
     (1000, 120, 100, False)],
)  # fmt: skip
def test_what_is_kept(images: int, masked: int, untouched: int, kept: bool) -> None:
    """One image is chance; more than a point is not passed off."""
    assert Check.of(right(images, masked), right(images, untouched)).kept is kept


def test_a_cascade_checks_no_part() -> None:
    from selfmask.cascades.settings import CascadeSettings

    assert CascadeSettings("digits").recorded()["held_out"] == 0
    with pytest.raises(SettingsError, match="a cascade has none"):
        CascadeSettings("digits", held_out=0.2)


@pytest.mark.parametrize("better", [1.0, 0.5])
def test_the_crop_is_the_one_that_serves_the_untouched_network(
    better: float, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(short(weights, tmp_path / "run"))
    plan = replace(plan, crops=(1.0, 0.5))

    def features(backbone: Any, images: ImageSet, **_: Any) -> torch.Tensor:
        """One axis a class where the crop is the better one, else noise."""
        if backbone.preprocessing.crop == better:
            return torch.nn.functional.one_hot(images.labels, 10).float()
        return torch.rand(len(images), 10, generator=torch.Generator().manual_seed(1))

    monkeypatch.setattr("selfmask.run.best_views.features", features)
    choose_crop(plan, RunFolder(tmp_path), QUIET)
    assert plan.backbone.preprocessing.crop == better


def test_the_chosen_crop_is_recorded(weights: Path, tmp_path: Path) -> None:
    run, text = said(short(weights, tmp_path / "run"))
    assert run.result is not None
    chosen = load(run.mask).metadata["preprocessing"]["crop"]
    assert chosen == run.result.crop
    assert f"evaluation views: crop {chosen:g} (k-NN of 340 training images" in text
    assert "at 1," in text


RIGHT = torch.ones(5, dtype=torch.bool)


@pytest.mark.parametrize(
    "kept",
    [
        {"pretrained": {}}, {"pretrained": 3}, {"pretrained": [1]}, {"pretrained": {"name": "other", "knn": RIGHT}},
        {"pretrained": {"name": "pretrained", "knn": RIGHT.float()}}, {"pretrained": {"name": "pretrained", "knn": 1}},
        {"pretrained": {"name": "pretrained", "more": None}}, {"crop": "x"}, {"crop": [1]},
    ],
)  # fmt: skip
def test_what_was_measured_before_a_stop_is_taken_whole_or_said_to_be_damaged(
    weights: Path, tmp_path: Path, kept: dict[str, Any]
) -> None:
    """Found by ten thousand cases of tests/cli/test_fuzz.py: a TypeError and an AttributeError."""
    plan = make_plan(short(weights, tmp_path / "run", resume=True, images=64))
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    write_checkpoint(folder.measured, kept)
    with pytest.raises(RunError, match=r"measured.safetensors is damaged, or of another run"):
        (choose_crop if "crop" in kept else measure_base)(plan, folder, QUIET)


def labelled(count: int, classes: tuple[str, ...] = ("a", "b")) -> ImageSet:
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8).expand(count, 3, 2, 2)
    return ImageSet.from_array(pixels, torch.arange(count) % len(classes), classes=classes)


@pytest.mark.parametrize(
    ("count", "validation", "trained_on", "held"),
    [
        (8_000, None, 7_000, 1_000),  # 15 % would be 1 200
        (2_000, None, 1_700, 300),
        (326, None, 326, None),  # 15 % are 48.9
        (8_000, labelled(1_200), 8_000, 1_000),  # its own part, as much of it as is needed
        (8_000, labelled(50), 8_000, 50),
        (8_000, labelled(49), 7_000, 1_000),
        (8_000, labelled(1_200, ("b", "a")), 7_000, 1_000),  # its labels mean something else
    ],
)
def test_so_many_are_held_out(
    count: int, validation: ImageSet | None, trained_on: int, held: int | None
) -> None:
    rest, part = _hold_out(validation, labelled(count), AdaptSettings("array"))
    assert (len(rest), None if part is None else len(part)) == (trained_on, held)
    if part is not None:
        assert part.labels.bincount().tolist() == [len(part) // 2] * 2


def test_enough_of_each_class_remain() -> None:
    classes = tuple(f"{n:02d}" for n in range(20))
    for count, held in ((468, None), (470, 70)):  # 398 would remain, and 400
        _, part = _hold_out(None, labelled(count, classes), AdaptSettings("array"))
        assert (None if part is None else len(part)) == held
