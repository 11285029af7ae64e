"""scikit-learn's handwritten digits: real images that every machine has which can run selfmask.

1 797 images of 8 × 8 pixels (UCI, "Optical recognition of handwritten digits", CC BY 4.0).
"""

from __future__ import annotations

import numpy as np
import torch

from selfmask.images.image_set import ImageSet
from selfmask.images.splits import Splits, stratified

TEST_IMAGES = 797


def digits(seed: int = 0) -> Splits:
    """1 000 training and 797 test images, stratified; grey 0 … 16 scaled to 0 … 255, uint8 RGB, 8 × 8 px."""
    from sklearn.datasets import load_digits

    flat, target = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.asarray(flat)).view(-1, 8, 8)
    images = (grey * (255 / 16)).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    whole = ImageSet.from_array(images, torch.from_numpy(np.asarray(target)), name="digits", flips=False)
    train, test = stratified(whole.labels, TEST_IMAGES / len(whole), seed)
    return Splits(whole.subset(train), test=whole.subset(test))
