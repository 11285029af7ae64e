"""Weights with several names: tied parameters, shared modules, shared buffers; and two tensors over one memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import selfmask
from selfmask.errors import SelectionError, WrongBaseError
from selfmask.maskset import MaskSet


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, transposed in use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner = nn.Linear(12, 12)
        self.encoder = nn.Linear(12, 12, bias=False)
        self.decoder = nn.Linear(12, 12, bias=True)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.inner(torch.relu(self.encoder(x)))))


class Shared(nn.Module):
    """One block used twice, with its batch norm, and a buffer that two modules hold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        block = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12))
        self.first, self.other, self.second = block, nn.Linear(12, 12), block
        table = torch.randn(12)
        self.first.register_buffer("table", table)
        self.other.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.other(torch.relu(self.first(x))))) + self.other.get_buffer("table")


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


CASES: list[tuple[Callable[[], nn.Module], Any, tuple[str, ...]]] = [
    (Tied, "*.weight", ("inner.weight", "encoder.weight")),
    (Tied, "encoder.*", ("encoder.weight",)),
    (Tied, "decoder.weight", ("encoder.weight",)),
    (Tied, ["inner.weight", "decoder.weight"], ("inner.weight", "encoder.weight")),
    (Tied, lambda name, p: name == "decoder.weight", ("encoder.weight",)),
    (Shared, "*.weight", ("first.0.weight", "first.1.weight", "other.weight")),
    (Shared, "second.0.weight", ("first.0.weight",)),
    (Shared, nn.Linear, ("first.0.weight", "first.0.bias", "other.weight", "other.bias")),
]


@pytest.mark.parametrize(("make", "select", "names"), CASES)
def test_a_mask_follows_all_names_and_fits_its_own_base(
    make: Callable[[], nn.Module], select: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    model = make()
    before, x = snapshot(model), torch.randn(16, 12)
    masks = MaskSet(model, select)
    assert masks.names == names
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    for _ in range(6):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert masks.status().flipped > 5
    expected = model.eval()(x)
    path = masks.save(tmp_path / "a.mask.safetensors")
    base = make().eval()
    handle = selfmask.load(path).apply(base)
    assert torch.equal(base(x), expected)
    handle.remove()
    masks.remove()
    assert same(snapshot(model), before)
    assert same(snapshot(base), before)


def test_a_tied_parameter_is_masked_or_trained_by_whatever_name() -> None:
    with pytest.raises(SelectionError, match=r"'encoder\.weight' is masked as well"):
        MaskSet(Tied(), "encoder.weight", train="decoder.*")
    masks = MaskSet(Tied(), "inner.weight", train="decoder.*")
    assert set(masks.trained()) == {"encoder.weight", "decoder.bias"}


def test_a_preset_leaves_a_weight_of_which_one_name_is_a_heads() -> None:
    model = nn.Sequential()
    model.body = nn.Linear(20, 20)
    model.other = nn.Linear(20, 20)
    model.head = nn.Linear(20, 20)
    model.head.weight = model.body.weight
    assert MaskSet(model).names == ("other.weight",)


def test_untied_weights_of_the_same_values_are_another_network(tmp_path: Path) -> None:
    path = MaskSet(Tied(), "inner.weight").save(tmp_path / "a.mask.safetensors")
    untied = Tied()
    untied.decoder.weight = nn.Parameter(untied.encoder.weight.detach().clone())
    with pytest.raises(WrongBaseError, match=r"decoder\.weight"):
        selfmask.load(path).apply(untied)


def test_breaking_a_tie_under_a_mask_set_is_refused() -> None:
    masks = MaskSet(Tied(), "encoder.weight")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    decoder = masks.model.get_submodule("decoder")
    decoder.register_parameter("weight", nn.Parameter(torch.randn(12, 12)))
    with pytest.raises(ValueError, match=r"encoder\.weight is another parameter"):
        optimizer.step()


def test_two_parameters_over_the_same_memory_are_refused() -> None:
    model = Tied()
    model.decoder.weight = nn.Parameter(model.encoder.weight.data)
    with pytest.raises(
        SelectionError, match=r"decoder\.weight and encoder\.weight are two tensors over the same memory"
    ):
        MaskSet(model, "encoder.weight")
    model.decoder.weight = nn.Parameter(model.encoder.weight.data[3:9])
    with pytest.raises(SelectionError, match="over the same memory"):
        MaskSet(model, "decoder.weight")
    MaskSet(model, "inner.weight").remove()


def test_parts_of_one_memory_that_do_not_overlap_are_fine(tmp_path: Path) -> None:
    whole = torch.randn(2, 40, 20)
    model = nn.Sequential(nn.Linear(20, 40, bias=False), nn.ReLU(), nn.Linear(40, 20, bias=False))
    model[0].weight = nn.Parameter(whole[0])
    model[2].weight = nn.Parameter(whole[1].view(20, 40))
    MaskSet(model, "*").remove()
    MaskSet(
        nn.LSTM(8, 16, 2), "*weight*"
    ).remove()  # its weights are views into one flat memory on some devices
