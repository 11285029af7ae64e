"""The structure of features: their principal axes, and their clusters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask.errors import DataError

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Axes:
    """mean (D,); axes (rank, D), orthonormal rows, the one of the largest variance first; variances (rank,). float64.

    The largest entry of each axis is positive, so that nothing depends on the linear algebra library's choice of
    signs.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor


def principal_axes(x: Tensor, *, complete: bool = False) -> Axes:
    """The principal axes of x (N, D), computed in float64 on x's device.

    Axes whose variance is rounding (1e-12 of the largest) are left out, so the rank may be less than min(N, D); where
    N < D they are found from the images' products, so that few images cost no more than they hold. `complete` gives
    all D axes by way of the covariance, for a square rotation.
    """
    wide = x.double()
    mean = wide.mean(dim=0)
    if is_one_point(wide - mean, mean) and not complete:
        return Axes(mean, wide.new_zeros(0, wide.shape[1]), wide.new_zeros(0))
    rest = max(1, len(x) - 1)
    if complete:
        variances, axes = torch.linalg.eigh((wide - mean).T @ (wide - mean) / rest)
    else:
        squares, axes = directions(wide - mean)
        variances = squares / rest
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    return Axes(mean, (axes * signs).flip(1).T, variances.flip(0))


def is_one_point(centred: Tensor, mean: Tensor) -> bool:
    """Whether the spread of `centred` (N, D) is no more than the rounding of the mean (D,): all points are the same."""
    length = float(centred.square().sum(dim=1).mean().sqrt())
    return length <= _ROUNDING * float(mean.norm()) or length == 0.0


def directions(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (rank,), increasing, and eigenvectors (D, rank) of XᵀX for a centred X (N, D), without rounding's.

    By the smaller of XᵀX and XXᵀ, so that few images of many dimensions cost no more than they hold. The signs are
    the library's choice.
    """
    count, width = centred.shape
    dual = count < width
    values, vectors = torch.linalg.eigh(centred @ centred.T if dual else centred.T @ centred)
    keep = values > _ROUNDING * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    return values, centred.T @ (vectors / values.sqrt()) if dual else vectors


def kmeans(
    x: Tensor, clusters: int, *, seed: int, starts: int = 1, iterations: int = 300
) -> tuple[Tensor, Tensor]:
    """k-means++ and Lloyd's algorithm on x (N, D), the best of `starts`.

    Returns the centres (clusters, D) in x's dtype, float32 or float64, and the clusters of x, int64 (N,); on the CPU.
    Raises `DataError` for fewer points than clusters.
    """
    if not 1 <= clusters <= len(x):
        raise DataError(f"{len(x)} images cannot make {clusters} clusters: take at most {len(x)}")
    from sklearn.cluster import KMeans  # here, because it takes a second and a half to import

    # The stubs know n_init as a string only.
    solver = KMeans(clusters, n_init=starts, max_iter=iterations, random_state=seed)  # pyright: ignore[reportArgumentType]
    found = solver.fit(x.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_), torch.from_numpy(found.labels_).long()
