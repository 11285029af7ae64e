"""Fusion against scikit-learn's whitened PCA in float64, and what conditional features may depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from selfmask.cascades.fusion import Fusion, Mode, fit_fusion, joined
from selfmask.errors import DataError, MaskFileError, SettingsError


def parts(count: int, width: int, experts: int, seed: int = 0) -> tuple[Tensor, list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(width, width, generator=generator) * torch.logspace(0, -2, width)[:, None]
    common = torch.randn(count, width, generator=generator) @ axes + 2
    own = [
        (common + 0.3 * torch.randn(count, width, generator=generator) @ axes).relu() for _ in range(experts)
    ]
    return common, own, torch.randint(0, experts, (count,), generator=generator)


@pytest.mark.parametrize("mode", ["conditional", "unconditional"])
@pytest.mark.parametrize("count", [60, 400])  # fewer and more images than joined features
def test_the_embedding_is_a_float64_whitened_pca(mode: Mode, count: int) -> None:
    x = joined(*parts(count, 32, 4), mode)
    assert x.shape == (count, 160)
    fusion = fit_fusion(x, 32, mode)
    new = joined(*parts(50, 32, 4, seed=1), mode)
    oracle = PCA(32, whiten=True, svd_solver="full").fit(x.double().numpy())
    expected = oracle.transform(new.double().numpy())
    found = fusion.apply(new).numpy()
    signs = np.sign((expected * found).sum(axis=0))
    assert fusion.width == 32
    assert np.abs(found - expected * signs).max() < 1e-4
    assert np.abs(fusion.apply(x).numpy().var(axis=0, ddof=1) - 1).max() < 1e-4


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_joined_features_are_an_images_own(count: int, experts: int, seed: int) -> None:
    dispatcher, own, assignment = parts(count, 7, experts, seed)
    whole = joined(dispatcher, own, assignment, "conditional")
    for index in range(count):
        expert = int(assignment[index])
        # Whatever the other experts say of the image does not enter.
        asked = [f[[index]] if k == expert else torch.full((1, 7), torch.nan) for k, f in enumerate(own)]
        alone = joined(dispatcher[[index]], asked, assignment[[index]], "conditional")
        assert torch.equal(alone[0], whole[index])
        blocks = whole[index].reshape(1 + experts, 7)
        assert torch.equal(blocks[0], dispatcher[index])
        assert torch.equal(blocks[1 + expert], own[expert][index])
        assert float(blocks[1:].abs().sum()) == pytest.approx(float(own[expert][index].abs().sum()))
    everything = joined(dispatcher, own, assignment, "unconditional")
    assert torch.equal(everything, torch.cat([dispatcher, *own], dim=1))


def test_no_more_components_than_there_are() -> None:
    x = torch.randn(9, 40)
    assert fit_fusion(x, 40, "conditional").width == 8
    flat = torch.randn(100, 3) @ torch.randn(3, 40)
    assert fit_fusion(flat, 40, "conditional").width == 3


def test_the_file_keeps_it_and_damage_is_refused() -> None:
    fusion = fit_fusion(torch.randn(30, 12), 6, "unconditional")
    again = Fusion.from_tensors("unconditional", fusion.tensors())
    x = torch.randn(4, 12)
    assert torch.equal(again.apply(x), fusion.apply(x))
    with pytest.raises(MaskFileError, match="damaged"):
        Fusion.from_tensors("unconditional", {"mean": fusion.mean})
    with pytest.raises(MaskFileError, match="damaged"):
        Fusion.from_tensors("unconditional", {**fusion.tensors(), "mean": fusion.mean[:-1]})
    with pytest.raises(MaskFileError, match="damaged"):
        Fusion.from_tensors("neither", fusion.tensors())
    with pytest.raises(SettingsError, match=r"joined features \(N, 12\)"):
        fusion.apply(torch.randn(4, 11))


def test_features_that_cannot_be_fused_are_refused() -> None:
    with pytest.raises(DataError, match="same features"):
        fit_fusion(torch.ones(20, 5), 5, "conditional")
    with pytest.raises(DataError, match="finite"):
        fit_fusion(torch.full((20, 5), torch.inf), 5, "conditional")
    with pytest.raises(SettingsError, match="width"):
        fit_fusion(torch.randn(20, 5), 0, "conditional")
