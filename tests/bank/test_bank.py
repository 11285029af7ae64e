"""A bank gives what each mask gives by itself, whatever was on before, and leaves the base as it was."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import selfmask
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.bank.bank import Bank
from selfmask.bank.prediction import names_of
from selfmask.errors import DataError, MaskFileError, SettingsError, WrongBaseError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet


def pictures(count: int, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every bit of the model's state: a zero's sign too."""
    state = {name: t.detach().contiguous().reshape(-1) for name, t in model.state_dict().items()}
    return {name: t.view(torch.uint8).numpy().tobytes() for name, t in state.items()}


def alone(backbone: Backbone, path: Path | None, images: Tensor, size: int) -> Tensor:
    """The features of one mask's images by `load` and `apply`, in batches of 256."""
    own = Backbone(backbone.module, None, "resnet", backbone.width, Preprocessing(size=size))
    if path is None:
        return features(own, ImageSet.from_array(images), batch_size=256)
    with selfmask.load(path).apply(backbone.module):
        return features(own, ImageSet.from_array(images), batch_size=256)


@pytest.mark.parametrize("memory", ["1 GB", "4 kB", 0])
def test_a_mixed_batch_is_what_each_mask_gives_by_itself(
    backbone: Backbone, folder: Path, memory: str | int
) -> None:
    images = pictures(150)
    options = ["a", "b", "c", "d", "e", None]
    generator = torch.Generator().manual_seed(1)
    names = [options[int(i)] for i in torch.randint(0, 6, (150,), generator=generator)]
    before = bits(backbone.module)
    with selfmask.Bank(backbone, folder, memory=memory) as bank:
        mixed = bank.embed(images, names)
        assert torch.equal(bank.embed(images, names), mixed)
    assert bits(backbone.module) == before
    for name in options:
        places = [i for i, other in enumerate(names) if other == name]
        path = None if name is None else folder / f"{name}.mask.safetensors"
        assert torch.equal(mixed[places], alone(backbone, path, images[places], 12 if name == "d" else 8))
    assert not torch.equal(mixed[names.index("a")], mixed[names.index("b")])


def test_one_mask_for_all_and_more_images_than_a_batch(backbone: Backbone, folder: Path) -> None:
    images = pictures(260, 9)
    with Bank(backbone, folder / "c.mask.safetensors") as bank:
        assert bank.names == ("c",)
        found = bank.embed(images, "c")
        assert torch.equal(bank.embed(images, ["c"] * 260), found)
    assert torch.equal(found, alone(backbone, folder / "c.mask.safetensors", images, 8))


def test_an_image_has_the_same_features_wherever_it_comes_from(
    tmp_path: Path, backbone: Backbone, folder: Path
) -> None:
    image = pictures(1, 40)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    path = tmp_path / "one.png"
    picture.save(path)
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    clear = picture.copy()
    clear.putalpha(255)
    array = image.permute(1, 2, 0).numpy()
    with Bank(backbone, folder) as bank:
        found = bank.embed([path, str(path), stored.getvalue(), picture, clear, image, array], "a")
        assert all(torch.equal(row, found[0]) for row in found)
        for wrong in (7, image.float(), image[:1], array[..., :1]):
            with pytest.raises(DataError, match="image 1 is a"):
                bank.embed([image, wrong], "a")  # type: ignore[list-item]
        with pytest.raises(DataError, match=r"none\.png cannot be read: the file does not exist"):
            bank.embed([tmp_path / "none.png"], "a")
        with pytest.raises(DataError, match="one str; put it into a list"):
            bank.embed("one.png", "a")
        assert bank.embed([], "a").shape == (0, 10)
        assert bank.predict([], "b") == []


def test_predictions_are_those_of_the_masks_own_head(backbone: Backbone, folder: Path) -> None:
    images = pictures(9)
    names = ["b", "d", "b"] * 3
    with Bank(backbone, folder) as bank:
        found = bank.predict(images, names, top=2)
        x = bank.embed(images, names)
        assert bank.predict_features(x, names, top=2) == found
        with pytest.raises(SettingsError, match="'a' brings no head"):
            bank.predict(images[:2], ["b", "a"])
        with pytest.raises(SettingsError, match="untouched backbone has no head"):
            bank.predict(images[:1], [None])
        with pytest.raises(SettingsError, match="top is"):
            bank.predict(images[:1], ["b"], top=0)
    for prediction, name, row in zip(found, names, x, strict=True):
        head = selfmask.load(folder / f"{name}.mask.safetensors").head
        chance = F.linear(row, head["weight"], head["bias"]).softmax(0)
        order = chance.argsort(descending=True)[:2].tolist()
        assert [label for label, _ in prediction.top] == [("cat", "dog", "fish")[k] for k in order]
        assert prediction.label == prediction.top[0][0]
        assert prediction.probability == pytest.approx(float(chance.max()), abs=1e-6)


def test_use_lends_the_masked_model_and_undoes_what_was_done_to_it(backbone: Backbone, folder: Path) -> None:
    module, images = backbone.module, pictures(4)
    module.train()
    before = bits(module)
    with Bank(backbone, folder) as bank:
        clean = {name: bank.embed(images, name) for name in (*bank.names, None)}
        with bank.use("a") as model:
            assert model is module
            assert not model.training
            model.train()
            model(torch.rand(4, 3, 8, 8))  # moves the running statistics
            with torch.no_grad():
                model.conv1.weight.mul_(2)  # type: ignore[union-attr, operator]
                model.conv1.bias.zero_()  # type: ignore[union-attr, operator]
        for name in ("a", "b", None):
            assert torch.equal(bank.embed(images, name), clean[name])
        with bank.use(None) as model:
            assert bits(model) == before
        with bank.use("b"):
            for inside in (lambda: bank.embed(images, "b"), bank.close, bank.use("a").__enter__):
                with pytest.raises(SettingsError, match="end that block first"):
                    inside()
        with pytest.raises(ZeroDivisionError), bank.use("c"):
            raise ZeroDivisionError
        assert torch.equal(bank.embed(images, "b"), clean["b"])
    assert bits(module) == before
    assert module.training


def test_the_bank_has_the_model_for_itself(backbone: Backbone, folder: Path) -> None:
    mask = selfmask.load(folder / "a.mask.safetensors")
    bank = Bank(backbone, folder)
    for other in (lambda: mask.apply(backbone.module), lambda: Bank(backbone, folder)):
        with pytest.raises(
            WrongBaseError,
            match=r"held by a Bank, so .*; call bank\.close\(\) first",
        ):
            other()
    bank.close()
    bank.close()
    with pytest.raises(SettingsError, match="closed"):
        bank.embed(pictures(1), "a")
    with mask.apply(backbone.module), pytest.raises(WrongBaseError, match=r"held by the applied mask a\."):
        Bank(backbone, folder)


def test_a_model_that_was_moved_is_no_model_of_the_bank(backbone: Backbone, folder: Path) -> None:
    with Bank(backbone, folder) as bank:
        with bank.use("a") as model:
            model.conv1.to(torch.float64)  # type: ignore[union-attr, operator]
        with pytest.raises(SettingsError, match="moved, cast or replaced"):
            bank.embed(pictures(1), "b")


def test_unknown_names_and_settings_are_told(backbone: Backbone, folder: Path) -> None:
    with Bank(backbone, folder) as bank:
        with pytest.raises(SettingsError, match=r"no mask 'A'.*did you mean 'a'"):
            bank.embed(pictures(1), "A")
        with pytest.raises(SettingsError, match="2 names for 3 images"):
            bank.embed(pictures(3), ["a", "b"])
        with pytest.raises(SettingsError, match="no mask"):
            bank.card("../a")
    for memory in ("much", "-1", True, "1 PB"):
        with pytest.raises(SettingsError, match="memory is a number of bytes"):
            Bank(backbone, memory=memory)
    with pytest.raises(SettingsError, match="watch is the seconds"):
        Bank(backbone, watch=0)


def test_a_card_says_what_is_known(backbone: Backbone, folder: Path) -> None:
    with Bank(backbone, folder) as bank:
        card = bank.card("d")
        assert (card.classes, card.size, card.predicts) == (("cat", "dog", "fish"), 12, True)
        assert card.bytes == (folder / "d.mask.safetensors").stat().st_size
        assert card.density == pytest.approx(selfmask.load(card.path).density())
        assert card.document()["classes"] == ["cat", "dog", "fish"]
        assert (bank.card("a").classes, bank.card("a").size, bank.card("a").predicts) == ((), 8, False)


def test_a_prediction_is_of_one_mask(
    backbone: Backbone,
    tmp_path: Path,
    model: nn.Module,
    save: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is replaced between the features and the head is asked anew."""
    folder, images = tmp_path / "masks", pictures(4)
    folder.mkdir()
    for number, name in enumerate(
        ["old", "new"]
    ):  # before the bank has the model: its weights are the base's then
        save(tmp_path / name, model, number, head={"weight": torch.randn(3, 10), "bias": torch.randn(3)})
    shutil.copy(tmp_path / "old", folder / "a.mask.safetensors")
    with Bank(backbone, folder) as bank:
        whole, before = bank.embed, bank.version("a")

        def embed(*given: Any, **more: Any) -> Tensor:
            x = whole(*given, **more)
            if bank.version("a") == before:
                shutil.copy(tmp_path / "new", folder / "a.mask.safetensors")
                assert bank.refresh().changed == ("a",)
            return x

        monkeypatch.setattr(bank, "embed", embed)
        found = bank.predict(images, "a")
        monkeypatch.undo()
        assert found == bank.predict(images, "a")


def test_a_closed_bank_looks_at_no_folder(backbone: Backbone, folder: Path) -> None:
    bank = Bank(backbone, folder, watch=0.02)
    own = [thread for thread in threading.enumerate() if thread.name == "selfmask bank"]
    assert len(own) == 1
    bank.close()
    own[0].join(5)
    assert not own[0].is_alive()


def test_a_model_that_was_put_into_training_is_used_in_evaluation(backbone: Backbone, folder: Path) -> None:
    with Bank(backbone, folder) as bank:
        before = bank.embed(pictures(3), "a")
        with bank.use("a") as model:
            model.train()
        assert torch.equal(bank.embed(pictures(3), "a"), before)


def test_classes_that_are_not_one_for_each_output_are_numbers() -> None:
    assert names_of(("cat", "dog"), 3) == ("0", "1", "2")
    assert names_of(("cat", "dog"), 2) == ("cat", "dog")


def test_what_is_no_number_tells_no_class(
    backbone: Backbone, tmp_path: Path, model: nn.Module, save: Callable[..., Path]
) -> None:
    head = {"weight": torch.full((3, 10), torch.nan), "bias": torch.zeros(3)}
    save(tmp_path / "a.mask.safetensors", model, 1, head=head)
    with Bank(backbone, tmp_path) as bank, pytest.raises(MaskFileError, match="gives what is no number"):
        bank.predict(pictures(2), "a")


def test_a_network_of_one_s_own_gives_what_it_gave_before(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    x = torch.randn(1, 3, 16, 16)
    (tmp_path / "masks").mkdir()
    with Bank(network, tmp_path / "masks") as bank:
        assert bank.backbone.module(x).shape == (1, 8)
        with pytest.raises(WrongBaseError):
            Bank(network, tmp_path / "masks")
        assert bank.backbone.module(x).shape == (1, 8)
    assert network(x).shape == (1, 8, 14, 14)
    with pytest.raises(SettingsError):
        Bank(network, tmp_path / "missing")
    assert network(x).shape == (1, 8, 14, 14)


def test_what_a_bank_is_given_by_mistake(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    mask = selfmask.load(folder / "a.mask.safetensors")
    for given in (mask, [mask]):
        with pytest.raises(SettingsError, match="the paths of files and folders, got Mask"):
            selfmask.Bank(backbone, given)  # type: ignore[arg-type]
    layers = nn.Sequential(nn.Dropout(), nn.Linear(backbone.width, 4))
    with mask.apply(backbone.module):
        pass
    masks = selfmask.MaskSet(backbone.module)
    masks.save(tmp_path / "deep.safetensors", head=layers.state_dict())
    masks.remove()
    tensors = r"has the tensors 1\.weight, 1\.bias; one that predicts has weight and bias"
    with (
        selfmask.Bank(backbone, [tmp_path / "deep.safetensors"]) as bank,
        pytest.raises(SettingsError, match=tensors),
    ):
        bank.predict(pictures(1), "deep")
    with pytest.raises(SettingsError, match=r"backbone_of takes a mask, .* got PosixPath"):
        selfmask.backbone_of(folder / "a.mask.safetensors")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"preprocessing is a selfmask\.Preprocessing.*got dict"):
        selfmask.from_module(nn.Conv2d(3, 8, 3), preprocessing={"size": 32})  # type: ignore[arg-type]
