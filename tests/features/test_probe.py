"""The probe against scikit-learn's logistic regression, at any scale, and its choice of penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.features.probe import (
    DEFAULT_PENALTY,
    PATIENCE,
    PENALTIES,
    Probe,
    _checked,
    _fit,
    _validation_parts,
    fit_probe,
)


def blobs(count: int, width: int, classes: int, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class means in axes of very unequal variance, as real features have them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    axes = torch.randn(width, width, generator=generator) * torch.logspace(0, -2, width)[:, None]
    means = torch.randn(classes, width, generator=generator)
    return (means[labels] + spread * torch.randn(count, width, generator=generator)) @ axes + 2, labels


def fit_logistic(x: Tensor, y: Tensor, penalty: float) -> Probe:
    """A probe with a penalty of the test's own choosing."""
    return _fit(*_checked(x, y), penalty)


@pytest.mark.parametrize("penalty", [0.1, 1e-3, 1e-5])
@pytest.mark.parametrize(("count", "width"), [(120, 20), (30, 64)])
def test_the_optimum_is_scikit_learns(penalty: float, count: int, width: int) -> None:
    x, y = blobs(count, width, 3)
    probe = fit_logistic(x, y, penalty=penalty)
    # newton-cg on centred features (the free bias makes that the same problem) is the tightest solver there.
    centre = x.double().mean(0)
    oracle = LogisticRegression(C=probe.c, solver="newton-cg", tol=1e-10, max_iter=10_000)
    oracle.fit((x.double() - centre).numpy(), y.numpy())
    scale = np.abs(oracle.coef_).max()
    assert np.abs(probe.weight.numpy() - oracle.coef_).max() < 2e-4 * scale
    expected = oracle.predict_proba((x.double() - centre).numpy())
    assert np.abs(probe.logits(x).softmax(1).numpy() - expected).max() < 2e-4


def test_two_classes_are_one_sigmoid_with_twice_the_c() -> None:
    x, y = blobs(80, 10, 2)
    probe = fit_logistic(x, y, penalty=1e-2)
    oracle = LogisticRegression(C=2 * probe.c, solver="newton-cg", tol=1e-10, max_iter=10_000)
    oracle.fit(x.double().numpy(), y.numpy())
    assert np.abs(probe.logits(x).softmax(1).numpy() - oracle.predict_proba(x.double().numpy())).max() < 2e-4


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_any_scale_and_shift_of_the_features_gives_the_same_probe(scale: float) -> None:
    x, y = blobs(120, 12, 3, spread=2)
    test, _ = blobs(100, 12, 3, spread=2, seed=1)
    plain = fit_probe(x, y, seed=3)
    scaled = fit_probe(x.double() * scale + 5 * scale, y, seed=3)
    assert scaled.penalty == plain.penalty
    assert scaled.c == pytest.approx(plain.c / scale**2, rel=1e-4)
    assert torch.equal(scaled.predict(test.double() * scale + 5 * scale), plain.predict(test))


def test_the_penalty_is_chosen_for_the_data_and_by_the_seed_alone() -> None:
    clean = blobs(300, 40, 3, spread=0.3)
    assert fit_probe(*clean, seed=1).penalty in PENALTIES
    first, again = fit_probe(*clean, seed=1), fit_probe(*clean, seed=1)
    assert torch.equal(first.weight, again.weight)
    x, y = blobs(1000, 30, 4, spread=4)
    test_x, test_y = blobs(1000, 30, 4, spread=4)  # same seed, so the same class means and axes
    chosen = (fit_probe(x[:400], y[:400]).predict(test_x) == test_y).float().mean()
    best = max(
        float((fit_logistic(x[:400], y[:400], penalty=penalty).predict(test_x) == test_y).float().mean())
        for penalty in PENALTIES[::3]
    )
    assert chosen > best - 0.03


@pytest.mark.parametrize(("count", "spread", "classes", "seed"), [(90, 4.0, 3, 0), (90, 1.5, 3, 1)])
def test_the_penalty_chosen_is_that_of_scikit_learn_on_the_same_parts(
    count: int, spread: float, classes: int, seed: int
) -> None:
    """Most right over all parts, of equal ones the lower cross-entropy, no further than `PATIENCE` after the lowest."""
    x, y = blobs(count, 6, classes, spread=spread, seed=seed)
    parts = _validation_parts(y, seed)
    tried: list[tuple[float, float, float]] = []
    for penalty in PENALTIES:
        right = entropy = 0.0
        for part in parts:
            c = fit_logistic(x[~part], y[~part], penalty).c
            oracle = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8, max_iter=10_000)
            oracle.fit(x[~part].double().numpy(), y[~part].numpy())
            said = oracle.predict_proba(x[part].double().numpy())
            right += float((said.argmax(1) == y[part].numpy()).sum())
            entropy -= float(np.log(said[np.arange(len(said)), y[part].numpy()]).sum())
        tried.append((right, -entropy, penalty))
        if len(tried) > PATIENCE and max(one[1] for one in tried[:-PATIENCE]) > max(
            one[1] for one in tried[-PATIENCE:]
        ):
            break
    assert fit_probe(x, y, seed=seed).penalty == max(tried)[2]


def test_small_classes_do_not_all_fall_to_the_first_part() -> None:
    parts = _validation_parts(torch.arange(10) // 2, seed=0)
    assert [int(part.sum()) for part in parts] == [2] * 5


def test_a_class_that_was_not_seen_is_the_least_likely() -> None:
    x, y = blobs(60, 8, 3)
    probe = fit_probe(x, y * 2)
    weight, bias = probe.head(6)
    assert torch.equal(weight[[1, 3, 5]], torch.zeros(3, 8))
    assert torch.equal(bias[[1, 3, 5]], probe.bias.min().expand(3))
    assert torch.equal(bias[[0, 2, 4]], probe.bias)


def test_validation_parts_are_stratified_and_keep_every_class_in_training() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    parts = _validation_parts(labels, seed=0)
    assert len(parts) == 5
    assert int(torch.stack(parts).sum(0).max()) == 1
    for part in parts:
        assert int((labels[part] == 0).sum()) == 10
        assert int((labels[part] == 1).sum()) == 2
        assert set(labels[~part].tolist()) == {0, 1, 2, 3}
    large = _validation_parts(torch.arange(2000) % 4, seed=0)
    assert [int(part.sum()) for part in large] == [400]


def test_one_label_a_class_falls_back_to_a_fixed_penalty() -> None:
    x, y = blobs(5, 20, 5)
    probe = fit_probe(x, y)
    assert probe.penalty == DEFAULT_PENALTY
    assert torch.equal(probe.predict(x), y)


def test_classes_with_gaps_and_equal_features() -> None:
    x, y = blobs(60, 8, 3)
    probe = fit_probe(x, y * 5 + 2)
    assert probe.classes.tolist() == [2, 7, 12]
    assert (probe.predict(x) == y * 5 + 2).float().mean() > 0.9
    weight, bias = probe.head(14)
    assert weight.shape == (14, 8)
    assert torch.allclose(F.linear(x, weight, bias)[:, probe.classes], probe.logits(x), atol=1e-4)
    constant = fit_probe(torch.ones(9, 4), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1]))
    assert constant.predict(torch.ones(2, 4)).tolist() == [0, 0]


def test_bad_input_is_named() -> None:
    x, y = blobs(10, 4, 2)
    with pytest.raises(DataError, match="at least 2 classes, got 1"):
        fit_probe(x, torch.zeros(10, dtype=torch.int64))
    with pytest.raises(DataError, match="not finite"):
        fit_probe(x / 0, y)
    with pytest.raises(DataError, match="one integer label for each of 10"):
        fit_probe(x, y[:4])
    with pytest.raises(SettingsError, match="width 4, got 3"):
        fit_probe(x, y).predict(x[:, :3])
