"""Multi-crop: the batch path of an accelerator against the image-by-image path, and both against torchvision."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy import stats
from torch import Tensor
from torchvision import transforms

from selfmask.images.augment import _change_one, _changed, _cropped, augment
from selfmask.images.views import decide, multi_crop

LARGE, SMALL = multi_crop(48, 24)[0], multi_crop(48, 24)[-1]


def photograph(seed: int = 0) -> Tensor:
    """uint8 (3, 90, 120): smooth colours with fine detail on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    fine = torch.rand(1, 3, 90, 120, generator=generator)
    picture = 0.8 * torch.nn.functional.interpolate(coarse, (90, 120), mode="bicubic") + 0.2 * fine
    return (picture[0].clamp(0, 1) * 255).to(torch.uint8)


def test_all_at_once_is_the_same_as_one_by_one() -> None:
    photos = [photograph(seed) for seed in range(24)]
    for view in (LARGE, SMALL):
        decisions = decide([(90, 120)] * 24, view, list(range(24)))
        bytes_ = torch.stack([_cropped(photo, k, decisions, view) for k, photo in enumerate(photos)])
        together = _changed(bytes_.float(), decisions)
        alone = bytes_.float()
        for k in range(24):
            _change_one(alone[k : k + 1], k, decisions)
        assert torch.allclose(together, alone, atol=1e-4)
        assert torch.equal(alone, augment(photos, view, list(range(24))))
        assert decisions.jitter.any()
        assert decisions.grey.any()
        assert (decisions.sigma > 0).any()


def figures(view: Tensor) -> tuple[float, ...]:
    """What the augmentations change: brightness, contrast, colour, hue, fine detail."""
    luma = (view * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=0)
    colour = view - luma
    detail = (luma[:, 1:] - luma[:, :-1]).abs().mean()
    return tuple(
        float(x) for x in (luma.mean(), luma.std(), colour.abs().mean(), (view[0] - view[2]).mean(), detail)
    )


class Blur:
    """SwAV's: half of the time, sigma from 0.1 to 2."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        coin, sigma = torch.rand(2).tolist()
        return picture.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * sigma)) if coin < 0.5 else picture


def test_views_are_distributed_as_those_of_swavs_own_transforms() -> None:
    """Two-sample Kolmogorov-Smirnov tests on five figures of 500 views of one photograph."""
    photo = photograph()
    picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
    for view in (LARGE, SMALL):
        theirs = transforms.Compose([
            transforms.RandomResizedCrop(view.size, scale=view.scale),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            Blur(),
            transforms.PILToTensor(),
        ])  # fmt: skip
        ours = np.array([figures(v) for v in augment([photo] * 500, view, range(500))])
        made = np.array([figures(torch.as_tensor(theirs(picture)) / 255) for _ in range(500)])
        for column, name in enumerate(("brightness", "contrast", "colour", "hue", "detail")):
            pvalue = np.asarray(stats.ks_2samp(ours[:, column], made[:, column]))[1]
            assert pvalue > 1e-3, name


def test_a_stronger_jitter_would_be_noticed() -> None:
    """The test above can fail: a jitter of 0.4 for 0.8 is found out on 500 views."""
    photo = photograph()
    weak = multi_crop(48, 24)[0]
    weak = type(weak)(**{**vars(weak), "brightness": 0.4})
    ours = [figures(v)[0] for v in augment([photo] * 500, LARGE, range(500))]
    other = [figures(v)[0] for v in augment([photo] * 500, weak, range(500, 1000))]
    assert np.asarray(stats.ks_2samp(ours, other))[1] < 1e-3
