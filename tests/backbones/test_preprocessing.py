from __future__ import annotations

import json

import pytest
import torch
from torchvision.transforms.functional import normalize

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SettingsError


def test_normalise_equals_torchvision_for_bytes_and_floats() -> None:
    recipe = Preprocessing()
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = normalize(pixels.float() / 255, list(recipe.mean), list(recipe.std))
    for images in (pixels, pixels.float() / 255):
        out = recipe.normalise(images)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert pixels.dtype == torch.uint8


def test_normalise_gives_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        out = Preprocessing().normalise(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.dtype == torch.float32


def test_normalise_leaves_its_input_alone() -> None:
    images = torch.rand(1, 3, 4, 4)
    before = images.clone()
    Preprocessing().normalise(images)
    assert torch.equal(images, before)


def test_normalise_refuses_other_shapes() -> None:
    with pytest.raises(SettingsError, match=r"\(B, 3, H, W\)"):
        Preprocessing().normalise(torch.zeros(3, 4, 4))


def test_a_description_survives_json() -> None:
    recipe = Preprocessing((0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 96, "bilinear", 0.9)
    assert Preprocessing.read(json.loads(json.dumps(recipe.describe()))) == recipe
    assert recipe.at(None) == recipe
    assert recipe.at(64).size == 64


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"crop": 1.5},
        {"crop": 0.0},
        {"crop": 0.01},
        {"std": (1.0, 0.0, 1.0)},
        {"interpolation": "nearest"},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Preprocessing(**bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError):
        Preprocessing.read({**Preprocessing().describe(), **bad})
    with pytest.raises(SettingsError, match="no description"):
        Preprocessing.read({"mean": [1, 2]})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool])
def test_normalise_refuses_numbers_of_which_it_cannot_tell_the_range(dtype: torch.dtype) -> None:
    with pytest.raises(SettingsError, match=r"uint8, 0 to 255, or floats in \[0, 1\], not torch"):
        Preprocessing().normalise(torch.ones(1, 3, 4, 4, dtype=dtype))
