"""The run's own split: recorded, opened again, and images that were trained on are told from others by their pixels."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from selfmask.errors import RunError, SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.maskfile.loading import load
from selfmask.run.adapt import learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import (
    Trained,
    open_as_recorded,
    open_images,
    pixel_hashes,
    recorded_rule,
    seen_in_training,
)

QUIET = Console(quiet=True)


def short(weights: Path, out: Path, data: str = "digits", **more: object) -> AdaptSettings:
    settings = AdaptSettings(
        data, out=out, backbone="timm:test_resnet", weights=weights, size=32, batch=16, steps=2, seed=1,
        evaluate=False,
    )  # fmt: skip
    return replace(settings, **more)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 pictures, none like another."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for kind in ("cat", "dog"):
        (root / kind).mkdir()
        for number in range(20):
            pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "run"
    learn_mask(short(weights, out, str(photos), test_share=0.3), console=QUIET)
    return RunFolder(out)


def test_a_run_is_measured_on_its_own_test_images(run: RunFolder, photos: Path) -> None:
    own = open_data(photos, seed=1, test_share=0.3)
    opened = open_as_recorded(run)
    assert own.test is not None
    assert opened.splits.test is not None
    assert opened.splits.test.names == own.test.names
    assert opened.train.names == own.train.names
    assert len(opened.labelled) == 28
    assert seen_in_training(run, opened.splits.test) == 0
    assert seen_in_training(run, opened.train) == 28


def test_another_split_of_the_same_images_is_seen_through(run: RunFolder, photos: Path) -> None:
    other = open_data(photos, seed=0).test
    assert other is not None
    mine = set(open_as_recorded(run).train.names)
    assert seen_in_training(run, other) == len(mine & set(other.names)) > 0


@pytest.mark.parametrize("spelling", ["{}/", "{}/cat/..", "imagefolder:{}/"])
def test_the_run_s_own_folder_is_known_however_it_is_written(
    photos: Path, weights: Path, tmp_path: Path, spelling: str
) -> None:
    (tmp_path / "photos").symlink_to(photos)
    listed = tmp_path / "split.csv"
    names = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.png"))]
    rows = [(name, "test" if k % 2 else "train") for k, name in enumerate(names)]
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])
    data = str(tmp_path / "photos")
    data = f"imagefolder:{data}" if spelling.startswith("imagefolder") else data
    learn_mask(short(weights, tmp_path / "run", data, split_file=listed), console=QUIET)
    run = RunFolder(tmp_path / "run")
    opened = open_as_recorded(run, spelling.format(photos))
    assert opened.splits.test is not None
    assert opened.splits.test.names == tuple(names[1::2])
    assert seen_in_training(run, opened.splits.test) == 0


def test_pixels_count_and_not_names(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    name = open_as_recorded(run).train.names[0]
    (tmp_path / "x").mkdir()
    shutil.copy(photos / name, tmp_path / "x/another-name.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "x/black.png")
    assert seen_in_training(run, open_data(f"flat:{tmp_path}").train) == 1


def test_a_mask_by_itself_has_the_rule(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    beside = load(run.mask_file)
    rule = recorded_rule(beside)
    assert rule is not None
    assert rule | {"digest": ""} == {"seed": 1, "test_share": 0.3, "objective": "auto", "digest": ""}
    assert str(photos) not in str(beside.metadata)

    alone = load(shutil.copy(run.mask_file, tmp_path / "mask.safetensors"))
    opened = open_as_recorded(alone, str(photos))
    assert opened.train.names == open_as_recorded(run).train.names
    other = open_data(photos, seed=0).test
    assert other is not None
    assert seen_in_training(alone, other) is None
    assert (
        seen_in_training(alone, other, opened)
        == seen_in_training(beside, other)
        == seen_in_training(run, other)
    )
    with pytest.raises(SettingsError, match="give the data"):
        open_as_recorded(alone)


def test_other_images_than_a_mask_s_own_tell_nothing_of_it(
    run: RunFolder, photos: Path, weights: Path, tmp_path: Path
) -> None:
    """Neither the record of another run that a mask was put beside, nor data that has changed since."""
    mask = load(shutil.copy(run.mask_file, tmp_path / "mask.safetensors"))
    some = tmp_path / "some"
    shutil.copytree(photos, some)
    opened = open_as_recorded(mask, str(some))
    images = opened.train
    assert seen_in_training(mask, images, opened) == 28
    (some / images.names[0]).unlink()
    changed = open_as_recorded(mask, str(some))
    assert seen_in_training(mask, images, changed) is None

    learn_mask(short(weights, tmp_path / "other", str(photos), seed=2, test_share=0.3), console=QUIET)
    beside = load(shutil.copy(run.mask_file, tmp_path / "other/borrowed.safetensors"))
    assert seen_in_training(beside, images) is None
    assert seen_in_training(beside, images, open_as_recorded(mask, str(photos))) == 28


def test_what_is_not_known_is_not_zero(run: RunFolder, tmp_path: Path) -> None:
    test = open_as_recorded(run).splits.test
    assert test is not None
    assert seen_in_training(RunFolder(tmp_path), test) is None
    with pytest.raises(RunError, match="holds no run"):
        open_as_recorded(RunFolder(tmp_path))


def test_files_of_the_split_are_named_not_placed(photos: Path, weights: Path, tmp_path: Path) -> None:
    listed = tmp_path / "own/labels.csv"
    listed.parent.mkdir()
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((name, name.parent) for name in names)])
    learn_mask(short(weights, tmp_path / "run", str(photos), labels=listed), console=QUIET)
    mask = load(tmp_path / "run/mask.safetensors")
    rule = recorded_rule(mask)
    assert rule is not None
    assert rule["labels"] == "labels.csv"
    with pytest.raises(SettingsError, match="labels from a file"):
        open_as_recorded(mask, str(photos))
    assert len(open_as_recorded(RunFolder(tmp_path / "run")).labelled) == 40


def test_hashes_are_of_the_pixels() -> None:
    pixels = torch.randint(0, 256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    pixels[7] = pixels[200]
    found = pixel_hashes(ImageSet.from_array(pixels))
    assert found.shape == (300,)
    assert len(found.unique()) == 299
    assert found[7] == found[200]
    whole = Trained.on(ImageSet.from_array(pixels))
    assert whole.digest == Trained.on(ImageSet.from_array(pixels.flip(0))).digest
    assert whole.digest != Trained.on(ImageSet.from_array(pixels[1:])).digest
    wide = ImageSet.from_array(torch.zeros(1, 3, 4, 16, dtype=torch.uint8))
    high = ImageSet.from_array(torch.zeros(1, 3, 16, 4, dtype=torch.uint8))
    assert pixel_hashes(wide) != pixel_hashes(high)


@pytest.mark.parametrize(
    ("change", "message"),
    [("added", "training images"), ("labels", "training images"), ("test", "test images")],
)
def test_a_run_does_not_go_on_with_other_images(
    change: str, message: str, photos: Path, weights: Path, tmp_path: Path
) -> None:
    data = tmp_path / "photos"
    if change == "test":
        for part in ("train", "test"):
            shutil.copytree(photos, data / part)
    else:
        shutil.copytree(photos, data)
    settings = short(weights, tmp_path / "run", str(data), test_share=0.3)
    learn_mask(settings, console=QUIET)
    (tmp_path / "run/result.json").unlink()
    learn_mask(replace(settings, resume=True), console=QUIET)  # the same images
    if change == "added":
        shutil.copy(data / "cat/00.png", data / "cat/99.png")
    elif change == "test":
        (data / "test/cat/01.png").rename(data / "test/cat/99.png")
    else:
        (data / "cat/01.png").rename(data / "dog/99.png")
    with pytest.raises(
        RunError, match=rf"--resume: the {message}.* were others.*start anew in another folder"
    ):
        learn_mask(replace(settings, resume=True), console=QUIET)


def test_an_objective_that_was_asked_for_asks_no_labels_of_other_images(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    made = learn_mask(short(weights, tmp_path / "run", str(photos), objective="supervised"), console=QUIET)
    shutil.copy(made.mask, alone := tmp_path / "alone.safetensors")
    for source in (RunFolder(made.folder), load(alone)):
        opened = open_as_recorded(source, f"flat:{photos}")
        assert opened.objective == "contrast"
        assert len(opened.labelled) == 0
        assert open_as_recorded(source, str(photos)).objective == "supervised"


def test_what_is_given_stands_in_place_of_what_a_run_has_recorded(run: RunFolder, photos: Path) -> None:
    own, mask = open_as_recorded(run), run.mask()
    for opened in (
        open_as_recorded(run, budget="3 per class"),
        open_as_recorded(mask, str(photos), budget="3 per class"),
    ):
        assert own.splits.test is not None
        assert opened.splits.test is not None
        assert opened.splits.test.names == own.splits.test.names, "the run's seed and test share"
        assert len(opened.labelled) == 6
        assert set(opened.labelled.names) <= set(own.train.names)


def test_what_must_not_be_mirrored_is_not_mirrored_in_any_part(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    for mirror in (True, False):
        opened = open_images(short(weights, tmp_path, str(photos), mirror=mirror))
        assert opened.splits.test is not None
        assert opened.train.flips == opened.splits.test.flips == mirror
