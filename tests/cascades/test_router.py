"""The router against scikit-learn's own pipeline, and what it does with odd data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from selfmask.cascades.router import Router, fit_router
from selfmask.errors import DataError, MaskFileError, SettingsError


def clusters(sizes: list[int], width: int = 48, spread: float = 0.3, seed: int = 0) -> Tensor:
    """Features of a positive mean, as a network's are, with one blob for each size."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(sizes), width, generator=generator)
    x = centres.repeat_interleave(torch.tensor(sizes), dim=0)
    axes = torch.randn(width, width, generator=generator) * torch.logspace(0, -2, width)[:, None]
    return 3 + x + spread * torch.randn(len(x), width, generator=generator) @ axes


def test_probabilities_are_scikit_learns() -> None:
    """The whole pipeline fitted a second time in float64, without our rounding of the projection."""
    x = clusters([120, 90, 80, 60, 50], spread=1.5)
    router, assignment, lines = fit_router(x, 5, seed=3)
    unit = F.normalize(x.double(), dim=1).numpy()
    pca = PCA(20, whiten=True, svd_solver="covariance_eigh").fit(unit)
    mixture = GaussianMixture(5, n_init=3, max_iter=300, random_state=3).fit(pca.transform(unit))
    new = clusters([30, 30, 30, 30, 30], spread=3.0)
    expected = mixture.predict_proba(pca.transform(F.normalize(new.double(), dim=1).numpy()))
    assert lines == []
    assert router.means.shape == (5, 20)
    assert np.abs(router.probabilities(new).numpy() - expected).max() < 1e-5
    assert np.array_equal(assignment.numpy(), mixture.predict(pca.transform(unit)))
    assert float(np.sort(expected, axis=1)[:, -2].max()) > 1e-4  # some images are between clusters


def test_kmeans_is_scikit_learns() -> None:
    x = clusters([60, 60, 60])
    router, assignment, _ = fit_router(x, 3, kind="kmeans", seed=1)
    unit = F.normalize(x.double(), dim=1).numpy()
    z = PCA(20, whiten=True, svd_solver="covariance_eigh").fit(unit).transform(unit)
    expected = KMeans(3, n_init=10, random_state=1).fit_predict(z)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(assignment.numpy(), expected)
    assert torch.equal(router.probabilities(x).max(dim=1).values, torch.ones(180, dtype=torch.float64))


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 4), st.integers(0, 50), st.sampled_from(["gmm", "kmeans"]))
def test_every_image_gets_one_expert_whatever_its_company_and_scale(
    experts: int, seed: int, kind: str
) -> None:
    x = clusters([40] * 4, width=24, seed=seed)
    router, assignment, _ = fit_router(x, experts, kind=kind, seed=seed)  # type: ignore[arg-type]
    assert router.experts <= experts
    assert sorted(set(assignment.tolist())) == list(range(router.experts))
    probabilities = router.probabilities(x * 100)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(160, dtype=torch.float64))
    one_by_one = torch.cat([router.assign(image[None]) for image in x])
    assert torch.equal(one_by_one, assignment)
    again = Router.from_tensors(kind, router.tensors())
    assert torch.equal(again.assign(x), assignment)


def test_small_clusters_are_merged_into_their_neighbour_and_said() -> None:
    x = clusters([200, 200, 200, 5], spread=0.05)
    router, assignment, lines = fit_router(x, 4, components=3)
    assert router.experts == 3
    assert router.components(x).shape == (605, 4)
    assert int(torch.bincount(assignment).min()) >= 200
    assert any("a cluster of 5 images" in line for line in lines)
    assert lines[-1] == "router: 3 experts instead of 4"


def test_copies_of_two_images_make_two_experts_at_most() -> None:
    x = clusters([1, 1]).repeat_interleave(40, dim=0)
    router, assignment, lines = fit_router(x, 5)
    assert router.experts <= 2
    assert any("instead of 20" in line for line in lines)  # one principal component is all there is
    assert len(set(assignment[:40].tolist())) == 1


def test_one_expert_takes_all() -> None:
    router, assignment, lines = fit_router(clusters([30]), 1)
    assert router.experts == 1
    assert assignment.tolist() == [0] * 30
    assert lines == []


def test_data_that_cannot_be_routed_is_refused() -> None:
    with pytest.raises(DataError, match=r"5 experts need at least 80 images .* there are 79: take at most 4"):
        fit_router(clusters([79]), 5)
    with pytest.raises(DataError, match="same features"):
        fit_router(torch.ones(64, 10), 2)
    with pytest.raises(DataError, match="finite"):
        fit_router(clusters([64]) / 0, 2)
    with pytest.raises(SettingsError, match="at least 1 expert"):
        fit_router(clusters([64]), 0)
    router, _, _ = fit_router(clusters([64]), 2)
    with pytest.raises(SettingsError, match=r"takes features \(N, 48\)"):
        router.assign(torch.ones(2, 47))


@pytest.mark.parametrize("name", ["projection", "offset", "means", "factors", "log_weights", "owner"])
def test_damaged_tensors_are_refused(name: str) -> None:
    router, _, _ = fit_router(clusters([40, 40]), 2)
    tensors = router.tensors()
    with pytest.raises(MaskFileError, match="router is damaged"):
        Router.from_tensors("gmm", {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(MaskFileError, match="router is damaged"):
        Router.from_tensors("gmm", tensors | {name: tensors[name][:-1] + 7})
    with pytest.raises(MaskFileError, match="router is damaged"):
        Router.from_tensors("other", tensors)


@pytest.mark.parametrize("owner", [[2**50, 0], [-1, 0], [0, 2], [1, 2]])
def test_numbers_of_experts_that_cannot_be_are_refused_at_once(owner: list[int]) -> None:
    router, _, _ = fit_router(clusters([40, 40]), 2)
    with pytest.raises(MaskFileError, match=r"router is damaged.*without a gap"):
        Router.from_tensors("gmm", router.tensors() | {"owner": torch.tensor(owner)})
