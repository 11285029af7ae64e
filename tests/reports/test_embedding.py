"""Embeddings and neighbours, against scikit-learn and SciPy."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from selfmask.errors import MissingExtraError, SettingsError
from selfmask.reports.embedding import _reduced, aligned, embed
from selfmask.reports.neighbours import choose_queries, nearest


def clusters(count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 3
    return torch.eye(12)[labels] * 5 + torch.randn(count, 12, generator=generator) * 0.3, labels


def test_tsne_keeps_clusters_and_repeats() -> None:
    features, labels = clusters()
    flat = embed(features)
    assert np.array_equal(flat, embed(features))
    assert flat.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert (flat**2).sum(axis=1).mean() == pytest.approx(1)
    found = nearest(torch.from_numpy(flat), torch.arange(len(labels)), 1)[:, 0]
    # Cosine in the plane is the angle; clusters around the centre keep it.
    assert (labels[found] == labels).float().mean() > 0.9


def test_pca_is_the_plane_of_largest_spread() -> None:
    features, _ = clusters()
    flat = embed(features, method="pca")
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    assert flat[:, 0].std() / flat[:, 1].std() == pytest.approx(singular[0] / singular[1], rel=1e-3)


def test_umap_is_an_extra() -> None:
    if importlib.util.find_spec("umap") is not None:
        pytest.skip("UMAP is installed here")
    with pytest.raises(MissingExtraError, match=r"selfmask\[umap\]"):
        embed(clusters()[0], method="umap")


@pytest.mark.parametrize("shape", [(4, 3), (9,)])
def test_too_few_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="N ≥ 5"):
        embed(torch.zeros(shape))


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_that_are_all_the_same_lie_on_one_point(method: Any, value: float) -> None:
    assert not embed(torch.full((30, 96), value), method=method).any()


def test_five_images_are_enough() -> None:
    assert embed(torch.randn(5, 3)).shape == (5, 2)


def test_alignment_is_a_rotation() -> None:
    generator = np.random.default_rng(0)
    to = generator.normal(size=(30, 2))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # with a mirror
    assert aligned(to @ turn, to) == pytest.approx(to)
    moving = generator.normal(size=(30, 2))
    rotation, _ = orthogonal_procrustes(moving, to)
    assert aligned(moving, to) == pytest.approx(moving @ rotation)


def test_neighbours_are_scikit_learns() -> None:
    features, _ = clusters()
    oracle = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features.numpy())
    expected = oracle.kneighbors(features.numpy(), return_distance=False)[:, 1:]
    assert np.array_equal(nearest(features, torch.arange(len(features)), 5).numpy(), expected)
    assert nearest(features[:4], torch.tensor([2]), 5).shape == (1, 3)


def test_queries_come_from_every_class_first() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] * 2 + [-1] * 3)
    chosen = choose_queries(labels, 6, seed=1)
    assert sorted(labels[chosen][:4].tolist()) == [-1, 0, 1, 2]
    assert len(set(chosen.tolist())) == 6
    assert torch.equal(chosen, choose_queries(labels, 6, seed=1))
    assert not torch.equal(chosen, choose_queries(labels, 6, seed=2))


def test_directions_that_vary_alike_are_not_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    alike = torch.randn(300, 120, generator=generator).numpy()
    centred = alike - alike.mean(axis=0)
    assert (_reduced(alike) ** 2).sum() >= 0.95 * (centred**2).sum()
    falling = alike * np.logspace(0, -3, 120, dtype=np.float32)
    expected = PCA(50, svd_solver="full").fit_transform(falling)
    assert np.abs(_reduced(falling)) == pytest.approx(np.abs(expected), abs=1e-4)
