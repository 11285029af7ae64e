"""Image sets: subsets share pixels, evaluation views are what other libraries make of the same image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfmask.errors import DataError, SettingsError
from selfmask.images.augment import evaluation_view
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.images.sources import FileSource, Reading


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.arange(6 * 3 * 4 * 5).remainder(251).to(torch.uint8).view(6, 3, 4, 5)
    return ImageSet.from_array(pixels, [0, 1, -1, 1, 2, -1], classes=["a", "b", "c"])


def test_subsets_keep_names_labels_and_pixels(images: ImageSet) -> None:
    part = images.subset([4, 1, 1]).subset(torch.tensor([2, 0]))
    assert part.names == (images.names[1], images.names[4])
    assert part.labels.tolist() == [1, 2]
    assert torch.equal(part.image(1), images.image(4))
    assert images.labelled().labels.tolist() == [0, 1, 1, 2]
    assert len(images.subset([])) == 0
    for wrong in ([6], [-1]):
        with pytest.raises(DataError, match="no image"):
            images.subset(wrong)


def test_the_short_side_is_the_median_of_the_images(
    images: ImageSet, class_folder: Callable[..., Path]
) -> None:
    assert images.short_side() == 4
    assert open_data(class_folder({"a": 3, "b": 3})).train.short_side() == 11


def test_labels_handed_out_are_copies(images: ImageSet) -> None:
    images.labels.fill_(0)
    assert images.labels.tolist() == [0, 1, -1, 1, 2, -1]


def test_fingerprints_differ_by_name_label_and_class(images: ImageSet) -> None:
    pixels = torch.zeros((2, 3, 2, 2), dtype=torch.uint8)
    prints = {
        ImageSet.from_array(pixels, labels, classes=classes).fingerprint()
        for labels in ([0, 1], [1, 0], [0, -1])
        for classes in (["a", "b"], ["ab", ""])
    }
    assert len(prints) == 6
    assert images.fingerprint() != images.subset(range(5)).fingerprint()
    assert images.fingerprint() == images.subset(range(6)).fingerprint()


def test_impossible_labels_are_refused() -> None:
    pixels = torch.zeros((2, 3, 2, 2), dtype=torch.uint8)
    for labels in ([0, 2], [0, -2], [0]):
        with pytest.raises(DataError):
            ImageSet.from_array(pixels, labels, classes=["a", "b"])
    with pytest.raises(DataError, match="uint8"):
        ImageSet.from_array(pixels.float(), [0, 1])


@pytest.mark.parametrize(("crop", "interpolation"), [(1.0, "bicubic"), (0.875, "bilinear")])
def test_evaluation_views_agree_with_pillow(paint: Any, crop: float, interpolation: str) -> None:
    image = paint(7, 90, 61)
    view = evaluation_view(_tensor(image), 32, crop, interpolation)
    short = round(32 / crop)
    filter = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    wide = image.resize((round(90 * short / 61), short), filter)
    left, top = (wide.width - 32) // 2, (short - 32) // 2
    expected = np.asarray(wide.crop((left, top, left + 32, top + 32))).astype(int)
    assert view.shape == (3, 32, 32)
    assert np.abs(view.permute(1, 2, 0).numpy() - expected).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (7, 300), (32, 32)])
def test_evaluation_views_of_odd_shapes(height: int, width: int) -> None:
    view = evaluation_view(torch.full((3, height, width), 77, dtype=torch.uint8), 32, 0.9)
    assert view.shape == (3, 32, 32)
    assert (view == 77).all()


def test_resized_is_made_once_and_in_order(images: ImageSet) -> None:
    views = images.resized(8)
    assert views.dtype == torch.uint8
    assert views.shape == (6, 3, 8, 8)
    assert torch.equal(views[3], evaluation_view(images.image(3), 8))
    assert images.resized(8) is views
    many = images.subset([k % 6 for k in range(100)])
    assert torch.equal(many.resized(8)[6:12], views)
    for size, crop, interpolation in ((0, 1.0, "bicubic"), (8, 0.0, "bicubic"), (8, 1.0, "nearest")):
        with pytest.raises(SettingsError):
            images.subset([0]).resized(size, crop, interpolation)


def test_what_is_kept_in_memory_stays_within_its_limit(class_folder: Callable[..., Path]) -> None:
    root = class_folder({"a": 4, "b": 4})
    one = 3 * 12 * 12
    for limit, kept in ((0, 0), (3 * one, 3), (2**20, 8)):
        train = open_data(root, test_share=0, reading=Reading(cache_bytes=limit)).train
        source = train._source
        assert isinstance(source, FileSource)
        assert sum(image.numel() for image in source._cache.values()) <= limit
        assert len(source._cache) >= kept
        assert torch.equal(train.image(7), open_data(root, test_share=0).train.image(7))


def test_a_file_that_goes_missing_later_is_named(class_folder: Callable[..., Path]) -> None:
    root = class_folder({"a": 2, "b": 2})
    train = open_data(root, test_share=0, reading=Reading(cache_bytes=0)).train
    (root / "b" / "001.png").unlink()
    with pytest.raises(DataError, match=r"b/001\.png"):
        train.image(3)


@pytest.mark.parametrize(
    "wrong", [{"short_side": 0}, {"skip_limit": 1.5}, {"cache_bytes": -1}, {"workers": 0}]
)
def test_reading_checks_its_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Reading(**wrong)


def test_the_example_of_the_documentation_runs(class_folder: Callable[..., Path]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("photos/", str(class_folder({"cat": 9, "dog": 9}))), names)
    assert len(names["few"].labelled()) == 10
    assert len(names["few"]) == 14


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_a_subset_by_a_bool_tensor(images: ImageSet) -> None:
    chosen = images.labels == 1
    assert images.subset(chosen).labels.tolist() == [1] * int(chosen.sum())
    wrong: Any
    for wrong in (chosen[:-1], [True, False], torch.tensor([1.0, 2.0]), [0.5]):
        with pytest.raises(DataError, match="told by whole numbers"):
            images.subset(wrong)


def test_an_array_of_numpy_is_refused_by_its_name() -> None:
    import numpy as np

    with pytest.raises(DataError, match=r"are a tensor, .* got ndarray"):
        ImageSet.from_array(np.zeros((1, 3, 4, 4), np.uint8))  # type: ignore[arg-type]


def test_figures_to_predict_are_no_classes() -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert ImageSet.from_array(pixels, torch.tensor([0.0, 1.0])).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="whole numbers"):
        ImageSet.from_array(pixels, torch.tensor([0.9, 1.7]))
