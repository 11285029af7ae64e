"""Pictures of a feature space: two dimensions for the eye, and nearest neighbours, before and after.

A two-dimensional embedding keeps neighbourhoods, not distances: that two clusters lie apart in it proves
nothing. The k-NN accuracy is the figure; the picture only shows which classes it comes from.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from selfmask._common.clustering import principal_axes
from selfmask.errors import MissingExtraError, SettingsError

Method = Literal["tsne", "umap", "pca"]


def embed(features: Tensor, *, method: Method = "tsne", seed: int = 0) -> NDArray[np.float64]:
    """Features (N, width) in two dimensions, float64 (N, 2), centred and scaled to unit deviation.

    Features are L2-normalised first, as the k-NN figure sees them. `tsne` starts from the principal
    components, so the same features give the same picture; its perplexity is 30, less for fewer than 91
    images. `umap` needs the extra of that name. Raises `SettingsError` for fewer than five images.
    """
    if features.ndim != 2 or len(features) < 5:
        raise SettingsError(f"an embedding needs features (N ≥ 5, width), got shape {tuple(features.shape)}")
    x = F.normalize(features.detach().float().cpu(), dim=1).numpy()
    count = len(x)
    reduced = _reduced(x)
    if method == "umap":
        if importlib.util.find_spec("umap") is None:
            raise MissingExtraError("UMAP is not installed: pip install 'selfmask[umap]', or choose t-SNE")
        import umap  # type: ignore[import-not-found]

        flat = umap.UMAP(n_neighbors=min(15, count - 1), random_state=seed, n_jobs=1).fit_transform(reduced)
    elif method == "tsne":
        perplexity = min(30.0, (count - 1) / 3)
        flat = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)
    else:
        flat = reduced[:, :2]
    return _standardised(np.asarray(flat, np.float64))


def _reduced(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The principal components that hold 95 % of the variance, 50 at least: t-SNE searches them many times faster.

    Of a network's features 50 hold nearly all; of a cascade's, whose directions all vary alike, hardly any.
    """
    found = principal_axes(torch.from_numpy(x))
    components = ((torch.from_numpy(x) - found.mean) @ found.axes.T).float().numpy()
    held = np.cumsum(found.variances.numpy()) / max(float(found.variances.sum()), 1e-300)
    components = components[:, : max(50, int(np.searchsorted(held, 0.95)) + 1)]
    # Images that lie on a line still need a second coordinate.
    return np.pad(components, ((0, 0), (0, max(0, 2 - components.shape[1]))))


def aligned(moving: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """`moving` (N, 2) rotated and mirrored to lie closest to `to` (N, 2) (orthogonal Procrustes).

    The axes of an embedding mean nothing, so that this changes nothing but makes two pictures comparable.
    """
    left, _, right = np.linalg.svd(moving.T @ to)
    return moving @ (left @ right)


def nearest(features: Tensor, queries: Tensor, k: int = 5) -> Tensor:
    """For each query (int64 (Q,), indices into `features` (N, width)) its `k` nearest others by cosine.

    Returns int64 (Q, min(k, N − 1)), nearest first, never the query itself.
    """
    normalised = F.normalize(features.detach().float(), dim=1)
    cosine = normalised[queries] @ normalised.T
    cosine[torch.arange(len(queries)), queries] = -torch.inf
    return cosine.topk(min(k, len(features) - 1), dim=1).indices


def choose_queries(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` images drawn at random, from as many different classes as there are: int64 (≤ count,).

    Drawn, not picked for looks. Unlabelled images (−1) count as one class.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    rounds: dict[int, int] = {}
    # The n-th image of every class comes before the (n + 1)-th of any.
    ranks = []
    for index in order.tolist():
        label = int(labels[index])
        ranks.append((rounds.get(label, 0), index))
        rounds[label] = rounds.get(label, 0) + 1
    ranks.sort(key=lambda item: item[0])
    return torch.tensor([index for _, index in ranks[:count]], dtype=torch.int64)


def _standardised(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = flat - flat.mean(axis=0)
    deviation = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return centred / deviation if deviation else centred
