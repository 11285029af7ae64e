"""Embedding images with a cascade: the passes made, the values, and what an embedding may depend on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.cascades import network as network_module
from selfmask.cascades.fusion import Mode, joined
from selfmask.errors import BackboneError, MaskFileError, SettingsError
from selfmask.features.features import features

from .conftest import EXPERTS, Made, pictures


@pytest.mark.parametrize("mode", ["conditional", "unconditional"])
def test_embeddings_are_those_of_the_parts_by_hand(made: Made, mode: Mode) -> None:
    found = made.cascade.embed(made.images, made.backbone, mode=mode)
    members = []
    for number in range(EXPERTS + 1):
        with made.cascade.member(number).apply(made.backbone.module):
            members.append(features(made.backbone, made.images))
    assignment = made.router.assign(members[0])
    x = joined(members[0], members[1:], assignment, mode).double()
    fusion = made.cascade.fusions[mode]
    expected = (x - x.mean(dim=0)) @ fusion.projection.double().T
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 1e-4
    # Equal variances: it was fitted on these very images.
    assert torch.allclose(found.var(dim=0), torch.ones(found.shape[1]), atol=1e-3)


def test_a_conditional_embedding_is_the_images_own(made: Made) -> None:
    whole = made.cascade.embed(made.images, made.backbone)
    for index in (0, 1, 2, 77):
        alone = made.cascade.embed(made.images.subset([index]), made.backbone)
        assert float((alone[0] - whole[index]).abs().max()) < 1e-4
    order = torch.randperm(len(made.images))
    shuffled = made.cascade.embed(made.images.subset(order), made.backbone, batch_size=7)
    assert float((shuffled - whole[order]).abs().max()) < 1e-4


def test_chunks_change_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = ("dispatcher", "conditional", "unconditional")
    whole = made.cascade.embeddings(made.images, made.backbone, modes=modes)
    monkeypatch.setattr(network_module, "CHUNK", 40)
    parts = made.cascade.embeddings(made.images, made.backbone, modes=modes)
    for mode in modes:
        assert float((parts[mode] - whole[mode]).abs().max()) < 1e-4


def test_the_passes_are_as_many_as_it_says(made: Made) -> None:
    seen: list[int] = []
    hook = made.backbone.module.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    before = {name: value.clone() for name, value in made.backbone.module.state_dict().items()}
    for mode, expected in (("dispatcher", 1), ("conditional", 2), ("unconditional", 1 + EXPERTS)):
        seen.clear()
        made.cascade.embeddings(made.images, made.backbone, modes=(mode,))
        assert sum(seen) == made.cascade.passes(mode) * len(made.images)
        assert made.cascade.passes(mode) == expected
    hook.remove()
    assert all(torch.equal(value, before[name]) for name, value in made.backbone.module.state_dict().items())


def test_what_cannot_be_embedded_is_said(made: Made) -> None:
    narrow = from_module(
        nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        preprocessing=Preprocessing(size=8),
    )
    with pytest.raises(SettingsError, match="width 16, this one has 5"):
        made.cascade.embed(made.images, narrow)
    with pytest.raises(MaskFileError, match="pass the backbone"):
        made.cascade.embed(made.images)
    object.__setattr__(made.cascade, "fusions", {})
    with pytest.raises(SettingsError, match=r"has no conditional fusion \(it has: none\)"):
        made.cascade.embed(made.images, made.backbone)
    made.cascade.dispatcher.metadata["backbone"] = Backbone.describe(made.backbone)
    with pytest.raises(BackboneError, match="user's own"):
        made.cascade.backbone()


def test_the_preprocessing_is_the_one_that_it_was_learnt_with(made: Made) -> None:
    whole = made.cascade.embed(pictures(), made.backbone)
    made.backbone.preprocessing = Preprocessing(size=12)
    assert torch.equal(made.cascade.embed(pictures(), made.backbone), whole)
    assert made.backbone.preprocessing.size == 12
