"""The feature space in two dimensions, before and after.

A two-dimensional embedding keeps neighbourhoods, not distances: that two clusters lie apart in it proves
nothing. The k-NN accuracy is the figure; the picture only shows which classes it comes from.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from selfmask._common.clustering import kmeans, principal_axes
from selfmask._common.style import GRID, MARKERS, MUTED, SERIES
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.reports.before_after import BeforeAfter
from selfmask.reports.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height
from selfmask.reports.wording import label as label_of
from selfmask.reports.wording import listed

Method = Literal["tsne", "umap", "pca"]

SHOWN_CLASSES = len(SERIES)
"""The classes with the most images have a colour each; the rest is drawn in grey."""


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
    check_method(method)
    if not reduced.any():  # all images are the same: t-SNE would end the process
        return np.zeros((count, 2))
    if method == "umap":
        import umap  # type: ignore[import-not-found]

        flat = umap.UMAP(n_neighbors=min(15, count - 1), random_state=seed, n_jobs=1).fit_transform(reduced)
    elif method == "tsne":
        from sklearn.manifold import TSNE  # here, because it takes seconds to import

        perplexity = min(30.0, (count - 1) / 3)
        flat = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)
    else:
        flat = reduced[:, :2]
    return _standardised(np.asarray(flat, np.float64))


def check_method(method: Method) -> None:
    """Raise `MissingExtraError` where the package is missing that it needs."""
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise MissingExtraError("UMAP is not installed: pip install 'selfmask[umap]', or choose t-SNE")


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


def _standardised(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = flat - flat.mean(axis=0)
    deviation = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return centred / deviation if deviation else centred


def embedding_of(seen: BeforeAfter, method: Method = "tsne", clusters: int = 8) -> Chart:
    """The embedding of `seen`, coloured by label, or, where nothing is labelled, by k-means of the features after."""
    labels, classes, coloured_by = seen.images.labels.tolist(), list(seen.images.classes), "label"
    if max(labels, default=-1) < 0:
        count = min(clusters, max(2, len(labels) // 20))
        labels = kmeans(F.normalize(seen.after, dim=1), count, seed=0)[1].tolist()
        classes = [f"cluster {i + 1}" for i in range(count)]
        coloured_by = "cluster (k-means of the features after)"
    before = embed(seen.before, method=method)
    after = aligned(embed(seen.after, method=method), before)
    name = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal components"}[method]
    return embedding_chart(
        {"Before (pretrained)": before, "After (masked)": after},
        labels,
        classes,
        method=name,
        coloured_by=coloured_by,
    )


def embedding_chart(
    panels: Mapping[str, NDArray[np.float64]],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    method: str = "t-SNE",
    coloured_by: str = "label",
    name: str = "embedding",
) -> Chart:
    """One panel for each embedding (N, 2) of the same N images; `labels[i]` −1 is unlabelled, drawn in grey."""
    counts = Counter(label for label in labels if label >= 0)
    shown = sorted(label for label, _ in counts.most_common(SHOWN_CLASSES))
    rest = [i for i, label in enumerate(labels) if label not in shown]
    looks = {label: (ink.light, marker) for label, ink, marker in zip(shown, SERIES, MARKERS, strict=False)}

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        names = [label_of(classes[label]) for label in shown]
        ncols = columns_of_legend(figure, names) if names else 1
        rows, columns = (len(panels), 1) if narrow else (1, len(panels))
        legend = 20 * -(-len(names) // ncols)
        set_height(figure, (300 * rows if narrow else 720 / max(columns, 2) * 0.92 + 24) + legend)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, (title, flat) in zip(axes.flat, panels.items(), strict=True):
            if rest:
                axis.plot(
                    flat[rest, 0],
                    flat[rest, 1],
                    ".",
                    color=MUTED.light,
                    markersize=3,
                    alpha=0.5,
                    linestyle="none",
                )
            for label in shown:
                chosen = [i for i, other in enumerate(labels) if other == label]
                colour, marker = looks[label]
                axis.plot(
                    flat[chosen, 0],
                    flat[chosen, 1],
                    marker,
                    color=colour,
                    markersize=4,
                    markeredgewidth=0,
                    alpha=0.85,
                    linestyle="none",
                    label=label_of(classes[label]),
                )
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            for spine in axis.spines.values():
                spine.set(visible=True, color=GRID.light)
        if shown:
            handles, found = next(iter(axes.flat)).get_legend_handles_labels()
            figure.legend(
                handles, found, loc="outside lower left", ncols=ncols, markerscale=1.6, handletextpad=0.2
            )

    titles = [title.lower() for title in panels]
    return Chart(
        name,
        "How the network sees the images, before and after",
        f"Each point is one image, coloured by {coloured_by}; images that the network finds alike lie close "
        f"together ({method}). Distances between far groups mean nothing.",
        f"{len(labels)} images, {method} of the features {listed(titles)}; "
        + (f"classes {listed([classes[label] for label in shown])}" if shown else "no labels")
        + (f"; {len(rest)} images of other classes or none in grey." if rest else "."),
        DataTable(
            ("panel", "image", "label", "x", "y"),
            tuple(
                (title, i, classes[label] if label >= 0 else "", float(x), float(y))
                for title, flat in panels.items()
                for i, (label, (x, y)) in enumerate(zip(labels, flat, strict=True))
            ),
        ),
        draw,
    )
