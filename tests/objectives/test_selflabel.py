"""Self-labelling: clusters, balanced soft labels, heads at the centres, re-clustering, the checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.objectives.base import Batch, Objective
from selfmask.objectives.selflabel import SelfLabel, SelfLabelSettings

BatchFor = Callable[[Objective, int], Batch]


def prepared(backbone: Backbone, images: ImageSet, settings: SelfLabelSettings) -> SelfLabel:
    objective = SelfLabel(backbone.width, len(images), 12, settings, native=32)
    objective.prepare(backbone, images)
    return objective


@pytest.mark.parametrize("hard", [True, False])
def test_clusters_find_the_three_kinds(backbone: Backbone, images: ImageSet, hard: bool) -> None:
    objective = prepared(
        backbone, images, SelfLabelSettings(clusters=3, clusterings=2, hard=hard, target_size=24)
    )
    for k in range(2):
        labels = objective._labels(objective.targets.float(), k)
        assert torch.allclose(labels.sum(dim=1), torch.ones(90), atol=1e-5)
        kinds = labels.argmax(dim=1).view(3, 30).mode(dim=1).values
        assert sorted(kinds.tolist()) == [0, 1, 2]
        assert ((labels == 0) | (labels == 1)).all() == hard


def test_soft_labels_are_balanced(backbone: Backbone, images: ImageSet) -> None:
    uneven = images.subset([*range(60), *range(60, 66)])  # two kinds in plenty, few of the third
    objective = prepared(backbone, uneven, SelfLabelSettings(clusters=3, clusterings=1, target_size=24))
    labels = objective._labels(objective.targets.float(), 0)
    assert torch.allclose(labels.sum(dim=0), torch.full((3,), 22.0), rtol=0.02)


def test_heads_start_where_the_views_features_lie(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor
) -> None:
    objective = prepared(backbone, images, SelfLabelSettings(clusters=3, target_size=24))
    _, figures = objective.loss(backbone.module, batch_for(objective, 0), 0, 10)
    assert figures["agreement"] > 0.8
    assert figures["chance"] == pytest.approx(1.0986, abs=1e-4)


def test_gradients_reach_heads_and_network(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    objective = prepared(backbone, images, SelfLabelSettings(clusters=3, target_size=24))
    loss, _ = objective.loss(backbone.module, batch_for(objective, 0), 0, 10)
    loss.backward()
    assert objective.heads.grad is not None
    assert objective.heads.grad.abs().max() > 0
    first = next(backbone.module.parameters()).grad
    assert first is not None
    assert first.abs().max() > 0


def test_clusters_are_made_anew_on_schedule(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor
) -> None:
    settings = SelfLabelSettings(clusters=4, clusterings=1, rounds=3, target_size=24, watch=False)
    objective = prepared(backbone, images, settings)
    changed = []
    for step in range(12):
        before = objective.centres.clone()
        objective.loss(backbone.module, batch_for(objective, step), step, 12)
        objective.after_step(step, 12, backbone.module)
        if not torch.equal(before, objective.centres):
            changed.append(step + 1)
    assert changed == [4, 8]


def test_the_memory_follows_the_network(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    objective = prepared(
        backbone, images, SelfLabelSettings(clusters=3, rounds=2, target_size=24, watch=False)
    )
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.neg_()
    batch = batch_for(objective, 0)
    found = F.normalize(backbone.module(batch.views[0]).detach(), dim=1)

    def likeness() -> float:
        return float((objective.memory[batch.indices].float() * found).sum(dim=1).mean())

    before = likeness()
    for _ in range(3):
        objective.loss(backbone.module, batch, 0, 10)
    assert likeness() > max(before, 0.9)


def test_a_resumed_run_has_everything(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    settings = SelfLabelSettings(clusters=3, rounds=2, target_size=24, watch=False)
    one = prepared(backbone, images, settings)
    one.loss(backbone.module, batch_for(one, 0), 0, 4)
    other = SelfLabel(backbone.width, len(images), 12, settings, native=32)
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    for step in range(1, 4):
        mine, _ = one.loss(backbone.module, batch_for(one, step), step, 4)
        theirs, _ = other.loss(backbone.module, batch_for(one, step), step, 4)
        assert torch.equal(mine, theirs)
        one.after_step(step, 4, backbone.module)
        other.after_step(step, 4, backbone.module)


@pytest.mark.parametrize(
    "changes", [{"clusters": 1}, {"clusterings": 0}, {"rounds": 0}, {"epsilon": 0.0}, {"crop": 0}]
)
def test_settings_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        SelfLabelSettings(**changes)  # pyright: ignore[reportArgumentType]


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(SettingsError, match="5 images cannot make 9 clusters"):
        SelfLabel(16, 5, 12, SelfLabelSettings(clusters=9))
