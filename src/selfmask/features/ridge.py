"""The closed-form probe: a ridge regression on class indicators, turned into logits. A head to start from.

Nothing iterates over the images: one decomposition gives the solution for every penalty, and leave-one-out
predictions in closed form choose the penalty and the scale of the logits (a regression's outputs lie between
0 and 1, as logits they would say "all classes alike").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.features.labels import check_features, check_labels
from selfmask.features.spectrum import spectrum

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 1))
# exp of these: a factor of 1 to 403 on the regression's outputs, in steps of 28 %.
LOG_FACTORS = torch.arange(0.0, 6.01, 0.25, dtype=torch.float64)


def ridge_head(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """weight float32 (classes, width) and bias float32 (classes,) for a linear layer on features `x` (N, width).

    `y` int64 (N,), 0 ≤ y < `classes`. A class without an image gets outputs near 0, its share in the data.
    Penalty and scale of the logits are the ones with the lowest leave-one-out cross-entropy.
    Raises `DataError` for features that are not finite or missing labels, `SettingsError` for labels ≥ `classes`.
    """
    check_features(x, "closed-form probe")
    check_labels(x, y, "closed-form probe")
    if int(y.max()) >= classes:
        raise SettingsError(f"labels go up to {int(y.max())}, but the head has {classes} classes")
    axes = spectrum(x)
    coordinates = axes.coordinates(x)
    targets = y.to(coordinates.device, torch.int64)
    hot = F.one_hot(targets, classes).to(coordinates)
    share = hot.mean(dim=0)
    products = coordinates.T @ (hot - share) / len(x)

    best: tuple[float, Tensor, Tensor] | None = None
    for penalty in PENALTIES:
        inverse = 1 / (axes.variances + penalty)
        weight = (products * inverse[:, None]).T
        fitted = coordinates @ weight.T + share
        # The prediction of an image by the fit on all others; its leverage includes the free bias.
        leverage = (coordinates.square() @ inverse + 1) / len(x)
        left_out = (fitted - leverage[:, None] * hot) / (1 - leverage).clamp(min=1e-6)[:, None]
        for factor in LOG_FACTORS.exp().tolist():
            loss = float(F.cross_entropy(left_out * factor, targets))
            if best is None or loss < best[0]:
                best = loss, weight * factor, share * factor
    assert best is not None  # the grids are not empty
    on_features, bias = axes.on_features(best[1], best[2])
    return on_features.float().cpu(), bias.float().cpu()
