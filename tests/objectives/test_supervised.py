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
    smoothing = objective.settings.label_smoothing
    expected = F.cross_entropy(logits, labels, weight=wanted, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    assert not torch.isclose(loss, F.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-4)


def test_the_head_s_rate_is_half_over_the_mean_square_length(backbone: Backbone, labelled: ImageSet) -> None:
    x = features(backbone, labelled, size=12)
    wanted = 0.5 / float(x.square().sum(dim=1).mean())
    assert made(backbone, labelled).head_rate == pytest.approx(wanted, rel=1e-5)
