"""Distillation from a larger resolution: its targets, its loss, and that masks learn from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Batch, Objective
from selfmask.objectives.distil import Distil, DistilSettings, clean_features, target_size, target_size_for

BatchFor = Callable[[Objective, int], Batch]


def prepared(backbone: Backbone, images: ImageSet, **settings: object) -> Distil:
    chosen = DistilSettings(target_size=24, **settings)  # pyright: ignore[reportArgumentType]
    objective = Distil(backbone.width, len(images), 12, chosen, native=32)
    assert any("24 px (asked for)" in line for line in objective.prepare(backbone, images))
    return objective


def test_targets_are_the_directions_of_the_clean_features_and_their_mirror_images(
    backbone: Backbone, images: ImageSet
) -> None:
    objective = prepared(backbone, images)
    x = backbone.preprocessing.normalise(images.resized(24))
    with torch.no_grad():
        both = backbone.module(x) + backbone.module(x.flip(3))
    assert torch.allclose(objective.targets.float(), F.normalize(both, dim=1), atol=1e-3)


def test_images_that_may_not_be_mirrored_are_not(backbone: Backbone, images: ImageSet) -> None:
    objective = Distil(backbone.width, len(images), 12, DistilSettings(target_size=24), flips=False)
    objective.prepare(backbone, images)
    plain = clean_features(backbone, images, 24, mirrored=False)
    assert torch.allclose(objective.targets.float(), F.normalize(plain, dim=1), atol=1e-3)
    assert objective.views[0].flip == 0


def test_the_loss_is_the_mean_cosine_distance(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor
) -> None:
    objective = prepared(backbone, images)
    batch = batch_for(objective, 0)
    loss, figures = objective.loss(backbone.module, batch, 0, 10)
    cosines = F.cosine_similarity(backbone.module(batch.views[0]), objective.targets[batch.indices].float())
    assert torch.allclose(loss, 1 - cosines.mean(), atol=2e-4)  # targets are kept in half precision
    assert figures["cosine"] == pytest.approx(float(cosines.mean().detach()), abs=2e-4)
    assert 0 < figures["spread"] < 1


def test_masks_learn_from_it(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    objective = prepared(backbone, images)
    objective.targets.copy_(objective.targets.roll(3, dims=1))  # far from what the network gives at first
    masks = MaskSet(backbone.module, select=lambda name, p: p.ndim == 4)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.02, betas=(0.9, 0.99))
    losses = []
    for step in range(120):
        loss, _ = objective.loss(backbone.module, batch_for(objective, step), step, 120)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert any(not mask.all() for mask in masks.masks().values())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_resumed_run_has_the_targets(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    one = prepared(backbone, images)
    other = Distil(backbone.width, len(images), 12, one.settings, native=32)
    other.load_state_dict(one.state_dict())
    batch = batch_for(one, 0)
    mine, _ = one.loss(backbone.module, batch, 0, 10)
    theirs, _ = other.loss(backbone.module, batch, 0, 10)
    assert torch.equal(mine, theirs)


def test_another_number_of_images_is_refused(backbone: Backbone, images: ImageSet) -> None:
    with pytest.raises(SettingsError, match="made for 5 images, not 90"):
        Distil(backbone.width, 5, 12).prepare(backbone, images)


@pytest.mark.parametrize(
    ("size", "native", "family", "wanted"),
    [
        (64, 224, "efficientnet", 160),
        (128, 224, "resnet", 224),
        (224, 224, "resnet", 288),
        (36, 32, "resnet", 36),
        (64, 64, "resnet", 64),
        (6, 224, "resnet", 6),
        (70, 224, "vit", 140),
        (112, 224, "clip", 224),
        (126, 224, "vit", 126),
        (224, 224, "vit", 224),
    ],
)
def test_target_sizes(backbone: Backbone, size: int, native: int, family: str, wanted: int) -> None:
    assert target_size_for(size, native, replace(backbone, family=family)).value == wanted


def test_a_network_of_one_size_only_gets_its_targets_there() -> None:
    fixed = from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)), preprocessing=Preprocessing(size=16)
    )
    for family in ("vit", "resnet"):
        found = target_size_for(16, 32, replace(fixed, family=family))
        assert found.value == 16
        assert "does not take 3" in found.why
    assert target_size(16, 16, 32, fixed).value == 16
    with pytest.raises(SettingsError, match=r"target_size 24: .* does not take images of 24 × 24 pixels"):
        target_size(24, 16, 32, fixed)


@pytest.mark.parametrize("changes", [{"target_size": 0}, {"crop": 0.0}, {"crop": 1.1}])
def test_settings_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        DistilSettings(**changes)  # pyright: ignore[reportArgumentType]


def test_no_parameters_of_its_own(backbone: Backbone, images: ImageSet) -> None:
    objective = prepared(backbone, images)
    own: list[Tensor] = list(objective.parameters())
    assert own == []
    assert objective.head() == {}
