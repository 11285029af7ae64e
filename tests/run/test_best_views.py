"""The size at which the untouched network is at its best, with and without labels."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import selfmask
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import stratified
from selfmask.run import best_views as module
from selfmask.run import measuring
from selfmask.run.adapt import learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.measuring import measure_base
from selfmask.run.plan import Plan, make_plan
from selfmask.run.settings import AdaptSettings


def console() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=300), text


def settings(data: str, weights: Path, out: Path) -> AdaptSettings:
    return AdaptSettings(
        data, out=out, backbone="timm:test_resnet", weights=weights, objective="contrast", size=32, batch=16,
        images=None if data != "digits" else 200, steps=3, threads=1, statistics=False,
    )  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False])
def test_the_ladder_is_climbed_as_long_as_the_next_is_better(
    labelled: bool, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(make_plan(settings("digits", weights, tmp_path / "run")), native=160)
    by_size = {32: 0.3, 96: 0.5, 128: 0.4, 160: 0.9}
    asked: list[int] = []

    def measured(_: Plan, images: ImageSet, size: int, *__: str) -> float:
        assert len(images) == 200
        asked.append(size)
        return by_size[size]

    def wrong(*_: object) -> float:
        raise AssertionError("the other measure")

    monkeypatch.setattr(module, "knn_by_halves", measured if labelled else wrong)
    monkeypatch.setattr(module, "found_share", wrong if labelled else measured)
    if not labelled:
        plan = replace(plan, labelled=plan.labelled.subset([]))
    out, text = console()
    assert module.best_size(plan, out, None) == 96
    assert asked == [32, 96, 128], "what comes after a worse one is not tried"
    kind = "k-NN" if labelled else "other views found"
    assert (
        f"untouched, best size: 96 px ({kind} of 200 training images: 0.300 at 32 px, 0.500"
        in text.getvalue()
    )
    folder = RunFolder(tmp_path / "kept")
    folder.path.mkdir()
    asked.clear()
    assert [module.best_size(plan, out, folder) for _ in range(2)] == [96, 96]
    assert asked == [32, 96, 128], "a run that is resumed takes what was found"
    small = replace(plan, settings=replace(plan.settings, larger=False))
    assert module.best_size(small, out, folder) == 32


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.sampled_from([1, 1, 1, 2, 3, 40]), min_size=1, max_size=80), most=st.integers(1, 120)
)
def test_what_is_chosen_by_is_in_each_half(counts: list[int], most: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = ImageSet.from_array(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels)
    plan: Any = SimpleNamespace(labelled=images, settings=SimpleNamespace(seed=3))
    found = module.to_choose_by(plan, most)
    paired = [count for count in counts if count > 1]
    if sum(paired) <= most:  # then none is left out
        assert (found is not None) == (len(paired) > 1 and sum(paired) >= 40)
    if found is None:
        return
    assert 40 <= len(found) <= max(most, 2 * len(counts))
    one, other = (set(found.labels[half].tolist()) for half in stratified(found.labels, 0.5, 3))
    assert one == other


@pytest.mark.slow
def test_a_run_with_one_label_a_class(weights: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (42, 4, 12, 12, 3), dtype=np.uint8)
    for kind, pictures in enumerate(pixels):
        (tmp_path / "photos" / f"{kind}").mkdir(parents=True)
        for at, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / "photos" / f"{kind}" / f"{at}.png")
    asked = replace(settings(str(tmp_path / "photos"), weights, tmp_path / "run"), budget="1 per class")
    run = learn_mask(asked, console()[0])
    assert run.rows is not None
    for kind, pictures in enumerate(pixels):
        (tmp_path / "ones" / f"{kind}").mkdir(parents=True)
        Image.fromarray(pictures[0]).save(tmp_path / "ones" / f"{kind}" / "0.png")
    spent = selfmask.compact(
        run.mask, str(tmp_path / "ones"), weights=weights, out=tmp_path / "small.safetensors"
    )
    assert spent.out.is_file()


def test_a_resumed_run_measures_the_larger_row_that_it_now_wants(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(settings("digits", weights, tmp_path / "run"), larger=False, resume=True)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    plan = make_plan(asked)
    few = replace(plan, labelled=plan.labelled.subset(range(60)), native=96)
    monkeypatch.setattr(module, "knn_by_halves", lambda plan, images, size, what: size)
    out, _ = console()

    def rows(plan: Plan) -> list[str]:
        return [outcome.name for outcome in measure_base(plan, folder, out)]

    base = ["pretrained", "pretrained, whitened"]
    assert rows(few) == base
    wanted = replace(few, settings=replace(asked, larger=True))
    assert rows(wanted) == [*base, "pretrained, 96 px", "pretrained, 96 px, whitened"]
    monkeypatch.setattr(measuring, "measure_both", None)  # all are there
    assert rows(wanted) == [*base, "pretrained, 96 px", "pretrained, 96 px, whitened"]
    assert rows(few) == base


def test_a_run_on_images_without_labels_says_what_a_larger_view_would_do(
    weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), dtype=np.uint8)
    for at, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{at}.png")
    out, text = console()
    learn_mask(settings(str(folder), weights, tmp_path / "run"), out)
    assert "untouched, best size: " in text.getvalue()
    assert "(other views found of 60 training images: " in text.getvalue()


def test_a_network_without_running_statistics_has_no_row_of_them(weights: Path, tmp_path: Path) -> None:
    plan = make_plan(replace(settings("digits", weights, tmp_path / "run"), statistics=True, larger=False))
    for layer in plan.backbone.module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            layer.track_running_stats = False
    out, text = console()
    names = [outcome.name for outcome in measure_base(plan, None, out)]
    assert names == ["pretrained", "pretrained, whitened"]
    assert "no running statistics, so there is no such row" in text.getvalue()
