"""Principal axes and clusters, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from selfmask._common.clustering import kmeans, principal_axes
from selfmask.errors import DataError


def features(count: int, width: int) -> torch.Tensor:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(1, 0.1, width) + 3


@pytest.mark.parametrize(("count", "width"), [(50, 8), (8, 50), (20, 20)])
def test_axes_are_scikit_learns(count: int, width: int) -> None:
    x = features(count, width)
    found = principal_axes(x)
    oracle = PCA(svd_solver="full").fit(x.double().numpy())
    rank = min(count - 1, width)
    assert found.axes.shape == (rank, width)
    assert found.variances.numpy() == pytest.approx(np.asarray(oracle.explained_variance_)[:rank])
    assert found.axes.numpy() == pytest.approx(np.asarray(oracle.components_)[:rank], abs=1e-6)
    assert found.mean.numpy() == pytest.approx(oracle.mean_)


def test_axes_without_variance_are_left_out() -> None:
    x = features(30, 3) @ torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    assert len(principal_axes(x.double()).variances) <= 10
    flat = torch.ones(5, 4)
    assert principal_axes(flat).axes.shape == (0, 4)
    assert principal_axes(features(1, 4)).axes.shape == (0, 4)


def test_a_complete_set_of_axes_is_a_rotation() -> None:
    found = principal_axes(features(5, 12), complete=True)
    assert found.axes.shape == (12, 12)
    assert torch.allclose(found.axes @ found.axes.T, torch.eye(12, dtype=torch.float64))
    assert torch.allclose(found.variances[:4], principal_axes(features(5, 12)).variances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clusters_are_scikit_learns(dtype: torch.dtype) -> None:
    x = torch.cat([features(30, 4), features(30, 4) + 5]).to(dtype)
    centres, labels = kmeans(x, 2, seed=3, starts=2)
    oracle = KMeans(2, n_init=2, random_state=3).fit(x.numpy())  # pyright: ignore[reportArgumentType]
    assert centres.dtype == dtype
    assert labels.tolist() == np.asarray(oracle.labels_).tolist()
    with pytest.raises(DataError, match="at most 60"):
        kmeans(x, 61, seed=0)
