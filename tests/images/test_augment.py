"""Views: pure functions of image, settings and seed; as Pillow and torchvision would make them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from selfmask.errors import DataError, SettingsError
from selfmask.images.augment import augment
from selfmask.images.draws import hashed, uniforms
from selfmask.images.views import Augment, Decisions, decide, light, multi_crop

SWAV = multi_crop(48, 24)


def reference_view(image: Tensor, settings: Augment, seed: int) -> Tensor:
    """`augment` by Pillow, one image at a time: uint8 (3, H, W) to float32 (3, size, size) in [0, 1].

    Pillow rounds to whole numbers after every step and approximates the Gaussian by box filters, so that the
    two agree to about one part in 255, not exactly.
    """
    decisions = decide([(image.shape[1], image.shape[2])], settings, [seed])
    top, left = int(decisions.top[0]), int(decisions.left[0])
    box = (left, top, left + int(decisions.width[0]), top + int(decisions.height[0]))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).crop(box)
    picture = picture.resize((settings.size, settings.size), filters[settings.interpolation])
    if decisions.flip[0]:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if decisions.jitter[0]:
        picture = _jittered(picture, decisions)
    if decisions.grey[0]:
        picture = picture.convert("L").convert("RGB")
    if decisions.sigma[0] > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(float(decisions.sigma[0])))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _jittered(picture: Image.Image, decisions: Decisions) -> Image.Image:
    brightness, contrast, saturation, hue = (float(factor) for factor in decisions.factors[0])
    for change in decisions.order[0]:
        if change == 0:
            picture = ImageEnhance.Brightness(picture).enhance(brightness)
        elif change == 1:
            picture = ImageEnhance.Contrast(picture).enhance(contrast)
        elif change == 2:
            picture = ImageEnhance.Color(picture).enhance(saturation)
        else:
            channels = np.array(picture.convert("HSV"))
            channels[..., 0] += np.uint8(round(hue * 255) % 256)  # a circle: it wraps round
            picture = Image.fromarray(channels, "HSV").convert("RGB")
    return picture


@pytest.fixture
def photos(paint: Any) -> list[Tensor]:
    """Photographs of differing sizes with fine detail, some of them narrow."""
    sizes = [(60, 80), (33, 47), (90, 64), (20, 130), (48, 48), (7, 9)]
    noise = np.random.default_rng(0)
    made = []
    for k, (height, width) in enumerate(sizes):
        smooth = np.asarray(paint(k, width, height)).astype(int) + noise.integers(-20, 20, (height, width, 1))
        made.append(torch.from_numpy(smooth.clip(0, 255).astype(np.uint8)).permute(2, 0, 1))
    return made


@pytest.mark.parametrize(
    "view", [light(32), SWAV[0], SWAV[-1], Augment(40, interpolation="bicubic", blur=1.0)]
)
def test_a_view_depends_on_its_own_image_and_seed_only(photos: list[Tensor], view: Augment) -> None:
    pictures, seeds = photos * 12, list(range(72))
    together = augment(pictures, view, seeds)
    assert together.dtype == torch.float32
    assert together.shape == (72, 3, view.size, view.size)
    assert (together.min() >= 0, together.max() <= 1) == (True, True)
    alone = torch.cat(
        [augment([picture], view, [seed]) for picture, seed in zip(pictures, seeds, strict=True)]
    )
    assert torch.equal(together, alone)
    backwards = augment(pictures[::-1], view, seeds[::-1]).flip(0)
    assert torch.equal(together, backwards)
    with ThreadPoolExecutor(3) as pool:
        assert torch.equal(together, augment(pictures, view, seeds, pool=pool))
    contiguous = [picture.contiguous() for picture in pictures]
    assert torch.equal(together, augment(contiguous, view, seeds))
    assert not torch.equal(together, augment(pictures, view, [seed + 1 for seed in seeds]))


def test_images_are_not_written_to(photos: list[Tensor]) -> None:
    before = [photo.clone() for photo in photos]
    augment(photos, Augment(48, scale=(1.0, 1.0), jitter=1.0, brightness=0.9, blur=1.0, grey=1.0), range(6))
    assert all(torch.equal(photo, copy) for photo, copy in zip(photos, before, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip": 1.0},
        {"interpolation": "bicubic"},
        {"jitter": 1.0, "brightness": 0.8},
        {"jitter": 1.0, "contrast": 0.8},
        {"jitter": 1.0, "saturation": 0.8},
        {"jitter": 1.0, "hue": 0.2},
        {"grey": 1.0},
        {"blur": 1.0},
    ],
)
def test_every_change_is_what_pillow_makes_of_it(photos: list[Tensor], change: dict[str, Any]) -> None:
    view = Augment(40, **{"flip": 0.0, **change})
    for seed in range(12):
        photo = photos[seed % len(photos)]
        fast = augment([photo], view, [seed])[0]
        error = (fast - reference_view(photo, view, seed)).abs() * 255
        assert error.mean() < 1.5
        assert error.quantile(0.99) < 8


def test_all_of_swavs_changes_together_stay_close_to_pillow(photos: list[Tensor]) -> None:
    for view in (SWAV[0], SWAV[-1]):
        errors = [
            float((augment([photo], view, [seed])[0] - reference_view(photo, view, seed)).abs().mean()) * 255
            for seed in range(10)
            for photo in photos
        ]
        assert np.mean(errors) < 1.5


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    """Two-sample Kolmogorov-Smirnov tests on area, aspect and place against RandomResizedCrop itself."""
    for (height, width), scale in (
        ((60, 80), (0.14, 1.0)),
        ((375, 500), (0.05, 0.14)),
        ((30, 200), (0.3, 1.0)),
    ):
        view = Augment(32, scale=scale)
        ours = decide([(height, width)] * 3000, view, np.arange(3000))
        crop = v2.RandomResizedCrop(32, scale=scale)
        blank = torch.zeros((3, height, width), dtype=torch.uint8)
        theirs = [crop.make_params([blank]) for _ in range(3000)]
        for key, drawn in (
            ("top", ours.top),
            ("left", ours.left),
            ("height", ours.height),
            ("width", ours.width),
        ):
            pvalue = np.asarray(stats.ks_2samp(drawn, [params[key] for params in theirs]))[1]
            assert pvalue > 1e-4, (key, height, width)


def test_decisions_are_drawn_from_what_the_settings_say() -> None:
    n = 20_000
    view = SWAV[0]
    made = decide([(50, 50)] * n, view, np.arange(n))
    for share, expected in (
        (made.flip, 0.5), (made.jitter, 0.8), (made.grey, 0.2), (made.sigma > 0, 0.5),
    ):  # fmt: skip
        assert abs(share.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    for column, (low, high) in zip(made.factors.T, [(0.2, 1.8)] * 3 + [(-0.2, 0.2)], strict=True):
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert stats.kstest(made.sigma[made.sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    _, counts = np.unique(made.order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_strong_jitter_never_turns_a_factor_negative() -> None:
    made = decide([(9, 9)] * 2000, Augment(8, jitter=1.0, brightness=1.5), np.arange(2000))
    assert made.factors[:, 0].min() >= 0
    assert made.factors[:, 0].max() > 2.2


@settings(deadline=None, max_examples=100)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    least=st.floats(0.01, 1.0),
    ratio=st.floats(1.0, 4.0),
    seed=st.integers(-(2**63), 2**64 - 1),
)
def test_crops_lie_inside_the_image(height: int, width: int, least: float, ratio: float, seed: int) -> None:
    view = Augment(4, scale=(least, 1.0), ratio=(1 / ratio, ratio))
    made = decide([(height, width)], view, [seed % 2**64])
    assert 1 <= made.height[0] <= height
    assert 1 <= made.width[0] <= width
    assert 0 <= made.top[0] <= height - made.height[0]
    assert 0 <= made.left[0] <= width - made.width[0]


def test_a_pixel_is_enough_of_an_image() -> None:
    pixel = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    view = augment([pixel], Augment(5, flip=0), [0])
    assert torch.allclose(view, pixel.float().expand(1, 3, 5, 5) / 255)
    assert augment([], light(5), []).shape == (0, 3, 5, 5)


def test_multi_crop_is_the_papers() -> None:
    views = multi_crop()
    assert [view.size for view in views] == [224] * 2 + [96] * 6
    assert {view.scale for view in views} == {(0.14, 1.0), (0.05, 0.14)}
    for view in views:
        assert (view.flip, view.jitter, view.grey, view.blur) == (0.5, 0.8, 0.2, 0.5)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.8, 0.8, 0.2)
    assert {view.flip for view in multi_crop(32, 16, flips=False)} == {0.0}
    assert multi_crop(32, count=(2, 0)) == (multi_crop(32)[0],) * 2
    assert Augment(**{**views[0].describe(), "size": 8}).size == 8  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0}, {"scale": (0, 1)}, {"scale": (0.5, 0.4)}, {"scale": (0.5, 1.1)}, {"ratio": (0, 1)},
        {"flip": 1.1}, {"jitter": -0.1}, {"grey": 2}, {"blur": -1}, {"brightness": -1}, {"hue": 0.6},
        {"blur_sigma": (0, 1)}, {"interpolation": "nearest"},
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Augment(**{"size": 8, **wrong})


def test_seeds_must_match_the_images(photos: list[Tensor]) -> None:
    with pytest.raises(DataError, match="as many seeds"):
        augment(photos, light(8), [0])


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    drawn = uniforms(hashed(3, np.arange(4000)), 5)
    assert drawn.shape == (4000, 5)
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(np.hstack([drawn[:-1], drawn[1:]]).T)
    assert np.abs(correlation - np.eye(10)).max() < 0.08
    assert np.array_equal(uniforms([5, 9], 3)[1], uniforms([9], 3)[0])
    assert np.array_equal(uniforms([9], 3)[0], uniforms([9], 7)[0][:3])


def test_draws_are_the_same_on_every_machine() -> None:
    """SplitMix64's published first outputs for the seed 1234567, which `uniforms` starts from by its hash."""
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = state
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(mixed ^ (mixed >> 31))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert int(hashed(1, 2)) != int(hashed(2, 1))
    assert hashed(7, 3, np.arange(2)).tolist() == [int(hashed(7, 3, 0)), int(hashed(7, 3, 1))]
