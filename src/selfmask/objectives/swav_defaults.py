"""What SwAV chooses by the images: how many prototypes, how long a queue, which crops, and why."""

from __future__ import annotations

from dataclasses import dataclass

from selfmask.objectives.base import Choice

_SMALLEST_CROP = 16  # pixels of the photograph below which a crop shows nothing of it


def prototypes_for(images: int) -> Choice[int]:
    """One prototype to a hundred images, as the paper's 500 are to 50 000; at least 30, at most 3 000 (SwAV's)."""
    if images < 120:
        return Choice(max(2, images // 4), f"a quarter of {images} images")
    if images < 3000:
        return Choice(30, f"the fewest that tell classes apart ({images} images)")
    return Choice(
        min(images // 100, 3000), f"one to a hundred of {images} images; the paper's 500 suit 50 000"
    )


def queue_for(images: int, prototypes: int, batch: int) -> Choice[int]:
    """A whole number of batches, about one embedding to a prototype as in the paper (512 for 500 prototypes).

    0, no queue, where the batch alone is enough or the queue would go through a quarter of the images.
    """
    length = -(-prototypes // batch) * batch
    if batch >= 2 * prototypes:
        return Choice(0, f"none: a batch of {batch} balances {prototypes} prototypes by itself")
    if length > images // 4:
        return Choice(0, f"none: {length} embeddings would be more than a quarter of {images} images")
    return Choice(length, f"{length // batch} batches, about one embedding to a prototype")


@dataclass(frozen=True)
class Crops:
    """large, small: pixels of the crops. count: how many of each. split: share of the area that divides
    them. least: smallest share of a small crop (of a large one where there are no small ones)."""

    large: int
    small: int
    count: tuple[int, int]
    split: float
    least: float


def crops_for(size: int, short_side: int, multiple: int = 16) -> Choice[Crops]:
    """SwAV's crops (PAPER §6) fitted to training at `size` pixels on photographs of `short_side` pixels.

    multiple: what the sides of small crops are divisible by (a ViT's patch).
    """
    least = min(1.0, (_SMALLEST_CROP / short_side) ** 2)
    small = max(multiple, round(size * 96 / 224 / multiple) * multiple)
    if least >= 0.14 or small < 32:
        crops = Crops(size, 0, (2, 0), max(0.35, least), max(0.35, least))
        why = (
            f"of {short_side} px images would show nothing" if least >= 0.14 else f"would be {small} px wide"
        )
        return Choice(crops, f"2 crops of {size}: small ones {why}")
    crops = Crops(size, small, (2, 6), 0.14, max(0.05, least))
    return Choice(crops, f"2 crops of {size} and 6 of {small} px, SwAV's, in proportion")
