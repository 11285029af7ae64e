"""Multi-crop views a second and core: this package's tensor path beside torchvision's transforms on Pillow images.

    python benchmarks/bench_multicrop.py [--images FOLDER] [--count 24] [--rounds 5]

Both make SwAV's views (2 of 224 px, 6 of 96 px, all colour changes) from the same decoded 500 × 375 px photographs,
on one thread, taking turns in one process. Without a folder the photographs are made up: noise at all scales, as
photographs have it (what is in the picture does not matter to the speed). Decoding JPEG costs both the same and is
printed beside them.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import transforms

from selfmask.images.augment import augment
from selfmask.images.decode import decode
from selfmask.images.views import multi_crop

HEIGHT, WIDTH = 375, 500


def made_up(count: int) -> list[Tensor]:
    """uint8 (3, 375, 500) with a power spectrum like a photograph's."""
    generator = torch.Generator().manual_seed(0)
    photos = []
    for _ in range(count):
        picture = torch.zeros(1, 3, HEIGHT, WIDTH)
        for level in range(8):
            noise = (
                torch.randn(1, 3, 2 + HEIGHT >> level, 2 + WIDTH >> level, generator=generator) * 2.0**level
            )
            picture += F.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic")
        picture = 128 + picture / picture.std() * 50
        photos.append(picture[0].clamp(0, 255).to(torch.uint8))
    return photos


def from_folder(folder: Path, count: int) -> list[Tensor]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not files:
        raise SystemExit(f"{folder} holds no .jpg or .png images")
    pictures = (
        Image.open(file).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for file in files
    )
    return [torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous() for picture in pictures]


class Blur:
    """SwAV's Gaussian blur: half of the time, a standard deviation of 0.1 to 2 pixels."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        if np.random.random() >= 0.5:  # noqa: NPY002 -- as SwAV's own transform
            return picture
        return picture.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))  # noqa: NPY002


def pillow_pipeline() -> Callable[[Image.Image], list[object]]:
    """SwAV's transforms, but for the normalisation, which this package does on the batch."""

    def views(size: int, scale: tuple[float, float]) -> transforms.Compose:
        return transforms.Compose([
            transforms.RandomResizedCrop(size, scale=scale),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            Blur(),
            transforms.ToTensor(),
        ])  # fmt: skip

    large, small = views(224, (0.14, 1.0)), views(96, (0.05, 0.14))
    return lambda picture: [*(large(picture) for _ in range(2)), *(small(picture) for _ in range(6))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    photos = made_up(asked.count) if asked.images is None else from_folder(asked.images, asked.count)
    pictures = [Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy()) for photo in photos]
    files = []
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    photos = [decode(file) for file in files]  # in the layout in which the package keeps them
    pipeline, crops = pillow_pipeline(), multi_crop()

    def by_pillow() -> None:
        for picture in pictures:
            pipeline(picture)

    def by_tensors(turn: int) -> None:
        for kind, view in enumerate(crops):
            augment(photos, view, [turn * 1_000_000 + kind * 1000 + k for k in range(len(photos))])

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()  # this process's own time: other load on the machine counts less
        work()
        return time.process_time() - start

    by_pillow()
    by_tensors(99)
    pillow, tensors, decoding = [], [], []
    for turn in range(asked.rounds):
        pillow.append(len(photos) / seconds(by_pillow))
        tensors.append(len(photos) / seconds(lambda turn=turn: by_tensors(turn)))
        decoding.append(len(photos) / seconds(lambda: [decode(file) for file in files]))
    ratios = [fast / slow for fast, slow in zip(tensors, pillow, strict=True)]
    print(
        f"{len(photos)} photographs of {WIDTH} x {HEIGHT} px, 2 x 224 + 6 x 96 px, 1 thread, {asked.rounds} rounds"
    )
    print(f"Pillow        {statistics.median(pillow):7.1f} images/s a core")
    print(f"tensors       {statistics.median(tensors):7.1f} images/s a core")
    print(f"JPEG decoding {statistics.median(decoding):7.1f} images/s a core (not in the two above)")
    print(f"ratio         {statistics.median(ratios):7.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
