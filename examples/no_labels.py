"""Adapt without labels, and see what it changed: one search page before, one after.

python examples/no_labels.py, or with a folder of your own images: main(Path("photos"))
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import selfmask


def write_digits(folder: Path, count: int) -> Path:
    """scikit-learn's digits as PNG files, eight pixels wide, in one folder; the first letter of a name is the class."""
    folder.mkdir(parents=True, exist_ok=True)
    images = selfmask.open_data("digits").train
    for place in range(count):
        name = f"{images.labels[place]}-{images.names[place]}.png"
        Image.fromarray(images.image(place).permute(1, 2, 0).numpy()).save(folder / name)
    return folder


def same_first_letter(found: list[tuple[str, list[str]]]) -> float:
    """The share of the hits whose file name begins as the query's: for the digits, the share of right ones."""
    pairs = [(query[0], hit[0]) for query, hits in found for hit in hits if hit != query]
    return sum(one == other for one, other in pairs) / len(pairs)


def main(
    photos: Path | None = None, *, out: Path = Path("no-labels"), backbone: str = "package:efficientnet_lite0",
    weights: Path | None = None, steps: int | None = None, size: int = 32, count: int = 1_000,
) -> dict[str, float]:  # fmt: skip
    """Writes before.html and after.html into `out`; the shares mean something only of files named by their class."""
    images = f"flat:{photos or write_digits(out / 'images', count)}"
    run = selfmask.adapt(
        images, out / "run", backbone, weights=weights, steps=steps, size=size, mirror=photos is not None
    )

    shares = {}
    for name in ("before", "after"):
        file = out / f"{name}.parquet"
        untouched = (
            name == "before"
        )  # the backbone as it was, which sees the images as the run's network does
        selfmask.embed(str(run.mask), images, file, untouched=untouched, backbone=backbone, weights=weights)
        found = selfmask.search(
            file, images, k=6, out=out / f"{name}.html", backbone=backbone, weights=weights
        )
        shares[name] = same_first_letter([(a.query, [hit.path for hit in a.found]) for a in found.answers])
        right = (
            f": {shares[name]:.1%} of the nearest images are of the query's class" if photos is None else ""
        )
        print(f"{out / name}.html{right}")
    return shares


if __name__ == "__main__":
    main()
