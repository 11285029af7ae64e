"""Whitening against numpy's own decomposition, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from selfmask.features.knn import knn
from selfmask.features.whitening import SHRINKAGE, Whitening


@pytest.mark.parametrize("images", [7, 200])
def test_products_are_those_of_the_shrunk_covariance(images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 12, generator=generator) * torch.logspace(0, -2, 12) + 1
    found = Whitening.of(x).apply(x).double()
    unit = (x.double() / x.double().norm(dim=1, keepdim=True)).numpy()
    centred = unit - unit.mean(axis=0)
    covariance = centred.T @ centred / (images - 1)
    rank = np.linalg.matrix_rank(covariance, tol=1e-12 * np.linalg.norm(covariance, 2))
    shrunk = covariance + SHRINKAGE * np.trace(covariance) / rank * np.eye(12)
    wanted = centred @ np.linalg.inv(shrunk) @ centred.T
    assert np.allclose((found @ found.T).numpy(), wanted, atol=1e-5)


def with_a_loud_direction(images: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (images,), generator=generator)
    x = 0.02 * torch.randn(images, 6, generator=generator)
    x[:, 0] += torch.randn(images, generator=generator)  # says nothing of the class
    x[:, 1] += 0.2 * y
    x[:, 5] += 3
    return x, y


def test_k_nn_gains_where_one_direction_drowns_the_others() -> None:
    (train_x, train_y), (test_x, test_y) = (with_a_loud_direction(300, seed) for seed in (0, 1))
    whitening = Whitening.of(train_x)
    plain = (knn(train_x, train_y, test_x) == test_y).float().mean()
    better = (knn(whitening.apply(train_x), train_y, whitening.apply(test_x)) == test_y).float().mean()
    assert better > plain + 0.1
    assert better > 0.9


def test_it_is_held_to_help_where_the_first_direction_holds_much_by_scikit_learn() -> None:
    x, _ = with_a_loud_direction(300, 0)
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    share = PCA().fit(unit.numpy()).explained_variance_ratio_[0]
    assert Whitening.of(x).first == pytest.approx(share, abs=1e-9)
    wide = torch.cat([10 * x, torch.randn(300, 100, generator=torch.Generator().manual_seed(1))], 1)
    assert Whitening.of(wide).helps
    assert not Whitening.of(wide[:, 1:]).helps
    assert not Whitening.of(wide[:49]).helps  # too few to tell
    assert Whitening.of(wide[:50]).helps
    assert not Whitening.of(x).helps  # too few dimensions


@pytest.mark.parametrize("x", [torch.ones(5, 3), torch.full((50, 7), 0.1), torch.zeros(4, 3)])
def test_images_that_are_all_the_same_whiten_to_nothing(x: Tensor) -> None:
    found = Whitening.of(x)
    assert not len(found.axes)
    assert not found.helps
    assert found.apply(x).shape == (len(x), 0)
