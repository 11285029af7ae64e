"""The closed-form probe: scikit-learn's ridge as oracle for the solution, refits for leave-one-out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from selfmask.errors import SettingsError
from selfmask.features.ridge import ridge_head
from selfmask.features.ridge import ridge_head as ridge_function
from selfmask.features.spectrum import spectrum


@pytest.mark.parametrize(("count", "width"), [(60, 12), (20, 40)])
def test_penalty_and_scale_minimise_the_true_leave_one_out_loss(
    count: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every penalty and scale is tried by fitting scikit-learn's ridge `count` times: the same layer must win."""
    penalties, log_factors = (1e-3, 1e-2, 1e-1), torch.tensor([0.0, 1.5, 3.0], dtype=torch.float64)
    monkeypatch.setitem(ridge_function.__globals__, "PENALTIES", penalties)
    monkeypatch.setitem(ridge_function.__globals__, "LOG_FACTORS", log_factors)
    x = torch.randn(count, width, dtype=torch.float64) * 30
    y = torch.arange(count) % 3
    x[:, 0] += 40 * y
    hot = F.one_hot(y, 3).double().numpy()
    unit = x.numpy() / spectrum(x).scale

    results = []
    for penalty in penalties:
        left_out = np.empty_like(hot)
        for index in range(count):
            others = np.arange(count) != index
            # The closed form holds the centre of all images fixed, as sums of squares of a fit with a free bias do.
            left_out[index] = (
                Ridge(alpha=penalty * count).fit(unit[others], hot[others]).predict(unit[[index]])[0]
            )
        full = Ridge(alpha=penalty * count).fit(unit, hot)
        for factor in log_factors.exp().tolist():
            loss = float(F.cross_entropy(torch.from_numpy(left_out) * factor, y))
            results.append((loss, full.predict(unit) * factor))
    expected = min(results, key=lambda pair: pair[0])[1]
    weight, bias = ridge_head(x, y, 3)
    assert np.abs(F.linear(x.float(), weight, bias).numpy() - expected).max() < 1e-3


def test_it_starts_a_head_well() -> None:
    means = torch.randn(5, 30)
    y = torch.arange(400) % 5
    x = means[y] + 0.7 * torch.randn(400, 30)
    weight, bias = ridge_head(x[:200], y[:200], classes=7)
    logits = F.linear(x[200:], weight, bias)
    assert weight.shape == (7, 30)
    assert (logits.argmax(1) == y[200:]).float().mean() > 0.9
    assert (
        F.cross_entropy(logits, y[200:]) < 0.3
    )  # 1.6 is "all alike", which unscaled regression outputs nearly say


def test_labels_beyond_the_head_are_refused() -> None:
    with pytest.raises(SettingsError, match="labels go up to 2, but the head has 2 classes"):
        ridge_head(torch.randn(6, 3), torch.arange(6) % 3, classes=2)
