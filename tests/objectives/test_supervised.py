"""Learning from labels: the head's rate, its start, and what a rare class weighs, each by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from selfmask.backbones.backbone import Backbone
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.objectives.base import Batch, Job
from selfmask.objectives.registry import objective_settings
from selfmask.objectives.supervised import Supervised


@pytest.fixture
def labelled(images: ImageSet) -> ImageSet:
    """The three kinds as classes, of which the first is rare."""
    few = [*range(5), *range(30, 90)]
    pixels = torch.stack([images.image(k) for k in few])
    return ImageSet.from_array(pixels, torch.tensor(few) // 30)


def made(backbone: Backbone, images: ImageSet, **given: Any) -> Supervised:
    settings = objective_settings("supervised", given)
    objective = Supervised.make(Job(backbone, images, 12, 24, batch=8), settings)
    objective.prepare(backbone, images)
    return objective


def test_a_rare_class_weighs_more_where_that_is_asked(backbone: Backbone, labelled: ImageSet) -> None:
    objective = made(backbone, labelled, class_weights="balanced")
    wanted = torch.tensor([65 / (3 * 5), 65 / (3 * 30), 65 / (3 * 30)])
    torch.testing.assert_close(objective.class_weights, wanted)
    some = torch.tensor([0, 1, 20, 50, 60])
    views = backbone.preprocessing.normalise(labelled.subset(some).resized(12))
    labels = labelled.labels[some]
    loss, _ = objective.loss(backbone.module, Batch([views], labels, some), 0, 10)
    logits = objective.linear(backbone.module(views))
    each = -logits.log_softmax(dim=1)[range(5), labels]
    torch.testing.assert_close(loss, (wanted[labels] * each).mean())
    assert not torch.isclose(loss, F.cross_entropy(logits, labels), rtol=1e-4)


def test_over_all_images_the_weights_are_torch_s(backbone: Backbone, labelled: ImageSet) -> None:
    """They add up to the number of images, so no batch has to make them do so."""
    objective = made(backbone, labelled, class_weights="balanced")
    views, everything = backbone.preprocessing.normalise(labelled.resized(12)), torch.arange(len(labelled))
    loss, _ = objective.loss(backbone.module, Batch([views], labelled.labels, everything), 0, 10)
    logits = objective.linear(backbone.module(views))
    weights = objective.class_weights
    torch.testing.assert_close(loss, F.cross_entropy(logits, labelled.labels, weight=weights))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_without_images_is_not_said_of_any(
    backbone: Backbone, labelled: ImageSet, smoothing: float
) -> None:
    """Labels that start at 1 have one."""
    pixels = torch.stack([labelled.image(k) for k in range(len(labelled))])
    shifted = ImageSet.from_array(pixels, labelled.labels + 1)
    objective = made(
        backbone, shifted, class_weights="balanced", label_smoothing=smoothing, head_start="random"
    )
    wanted = torch.tensor([0, 65 / (3 * 5), 65 / (3 * 30), 65 / (3 * 30)])
    torch.testing.assert_close(objective.class_weights, wanted)
    views, everything = backbone.preprocessing.normalise(shifted.resized(12)), torch.arange(len(shifted))
    optimizer = torch.optim.Adam(objective.linear.parameters(), lr=0.1)
    for step in range(200):
        optimizer.zero_grad()
        loss, _ = objective.loss(backbone.module, Batch([views], shifted.labels, everything), step, 200)
        loss.backward()
        optimizer.step()
    said = objective.linear(backbone.module(views)).softmax(dim=1).mean(dim=0)
    assert float(said[0].detach()) < 0.06


def test_the_head_s_rate_is_half_over_the_mean_square_length(backbone: Backbone, labelled: ImageSet) -> None:
    x = features(backbone, labelled, size=12)
    wanted = 0.5 / float(x.square().sum(dim=1).mean())
    assert made(backbone, labelled).head_rate == pytest.approx(wanted, rel=1e-5)
