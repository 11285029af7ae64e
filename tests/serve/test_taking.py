"""What is put over the network lies in the folder, and nothing that lay there before is lost; which backbone it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build
from selfmask.bank.bank import Bank
from selfmask.errors import SettingsError
from selfmask.maskset import MaskSet
from selfmask.serve.intake import Refused
from selfmask.serve.opening import open_bank
from selfmask.serve.settings import ServeSettings
from selfmask.serve.taking import take_mask


def test_a_file_that_was_refused_is_not_written_over(
    tmp_path: Path, model: nn.Module, write_mask: Callable[..., Path]
) -> None:
    folder, other = tmp_path / "masks", copy.deepcopy(model)
    folder.mkdir()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    write_mask(folder / "a.mask.safetensors", model, 1)
    north = write_mask(folder / "north.mask.safetensors", other, 2)
    before, good = north.read_bytes(), write_mask(tmp_path / "good", model, 3).read_bytes()
    with Bank(Backbone(model, None, "resnet", 10, Preprocessing(size=8)), folder) as bank:
        with pytest.raises(Refused, match=r"lies there already, and is not written over: .* not the base"):
            take_mask(bank, folder, "north", good)
        assert north.read_bytes() == before
        (folder / "later.mask.safetensors").write_bytes(good)  # the bank has not looked since
        assert not take_mask(bank, folder, "later", good)
        assert take_mask(bank, folder, "new", good)
        assert bank.names == ("a", "later", "new")


def test_a_damaged_file_does_not_decide_whether_the_others_are_served(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "backup.safetensors").write_bytes(b"7 bytes")
    settings = ServeSettings(folder, weights=weights)
    unknown = pytest.raises(
        SettingsError, match=r"not known \(backup\.safetensors: .*\): name it by --backbone"
    )
    with unknown, open_bank(settings, "cpu"):
        pass
    backbone = build("timm:test_resnet", weights=weights)
    backbone.preprocessing = replace(backbone.preprocessing, size=48, crop=0.5)
    masks = MaskSet(backbone.module)
    recipe = backbone.preprocessing.describe()
    masks.save(folder / "site.mask.safetensors", backbone=backbone.describe(), preprocessing=recipe)
    masks.remove()
    named = replace(settings, backbone="timm:test_resnet")
    with open_bank(named, "cpu") as bank:
        assert bank.names == ("site",)
        assert bank.preprocessing(None) == backbone.preprocessing
    with open_bank(settings, "cpu") as bank:
        assert bank.names == ("site",)
        assert list(bank.refused) == [str(folder / "backup.safetensors")]


def test_a_link_is_not_written_through(
    tmp_path: Path, model: nn.Module, write_mask: Callable[..., Path]
) -> None:
    """Into a store, whose file is another mask's too."""
    folder = tmp_path / "masks"
    folder.mkdir()
    stored = write_mask(tmp_path / "v1", model, 1)
    for name in "ab":
        (folder / f"{name}.mask.safetensors").symlink_to(stored)
    before, good = stored.read_bytes(), write_mask(tmp_path / "v2", model, 2).read_bytes()
    with Bank(Backbone(model, None, "resnet", 10, Preprocessing(size=8)), folder) as bank:
        with pytest.raises(Refused, match="is a link"):
            take_mask(bank, folder, "a", good)
        assert stored.read_bytes() == before


def test_the_backbone_that_is_named_is_seen_as_the_first_mask_that_fits_it_saw_it(
    tmp_path: Path, weights: Path
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    other = build("timm:test_vit", pretrained=False, image_size=96)
    fits = build("timm:test_resnet", weights=weights)
    for name, backbone, size in (("a", other, 96), ("b", fits, 48)):
        masks = MaskSet(backbone.module)
        recipe = backbone.preprocessing.at(size)
        masks.save(
            folder / f"{name}.mask.safetensors", backbone=backbone.describe(), preprocessing=recipe.describe()
        )
        masks.remove()
    settings = ServeSettings(folder, backbone="timm:test_resnet", weights=weights)
    with open_bank(settings, "cpu") as bank:
        assert bank.names == ("b",)
        assert bank.backbone.preprocessing.size == 48
        shared = (folder / "b.mask.safetensors").read_bytes()
        (folder / "base.mask.safetensors").write_bytes(shared)  # as the untouched one is called in addresses
        changes = bank.refresh()
        assert changes.added == ()
        assert "means the untouched backbone" in changes.refused[str(folder / "base.mask.safetensors")]
