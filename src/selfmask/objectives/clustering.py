"""Clusters and main axes of features: where heads and targets start from."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from selfmask.errors import DataError


def kmeans(x: Tensor, clusters: int, *, seed: int, iterations: int = 30) -> tuple[Tensor, Tensor]:
    """k-means++ and Lloyd's algorithm on x (N, D): centres float32 (clusters, D) and assignments int64 (N,)."""
    if not 1 <= clusters <= len(x):
        raise DataError(f"{len(x)} images cannot make {clusters} clusters: take at most {len(x)}")
    # One start: the stubs know n_init as a string only.
    solver = KMeans(clusters, n_init=1, max_iter=iterations, random_state=seed)  # pyright: ignore[reportArgumentType]
    found = solver.fit(x.float().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).float(), torch.from_numpy(found.labels_).long()


def principal_axes(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` leading principal axes of x (N, D) as rows, and the mean (D,). Fewer where D or N is less.

    Taken from the covariance in float64, with each axis's largest entry positive, so that they do not
    depend on the linear algebra library's choice of signs.
    """
    wide = x.double()
    mean = wide.mean(dim=0)
    covariance = (wide - mean).T @ (wide - mean) / max(1, len(x) - 1)
    _, vectors = torch.linalg.eigh(covariance)
    axes = vectors.flip(1).T[: min(count, len(x), x.shape[1])]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return (axes * largest.sign()).float(), mean.float()
