"""The head in half precision: half the bytes of it, and nothing else of the file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import selfmask
from selfmask.errors import SettingsError
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.quantised import Quantised, quantised
from selfmask.maskfile.saving import HeadDtype, head_as, stored_head

HEAD = {
    "weight": torch.linspace(-3, 3, 320).reshape(10, 32),
    "bias": torch.full((10,), 1 / 3),
    "count": torch.tensor([7]),
}


def test_only_the_head_is_rounded(model: nn.Module, tmp_path: Path) -> None:
    masks = selfmask.MaskSet(model, select=["conv2.weight"], train="fc.*")
    masks.set_scores({n: torch.randn_like(s) for n, s in masks.scores.items()})
    model.get_parameter("fc.weight").data.add_(1 / 3)
    model.get_buffer("norm1.running_mean").add_(1 / 3)
    exact = load(masks.save(tmp_path / "exact", head=HEAD))
    half = load(masks.save(tmp_path / "half", head=HEAD, head_dtype="float16"))
    masks.remove()
    assert half.bytes()["masks"] == exact.bytes()["masks"]
    assert half.bytes()["statistics"] == exact.bytes()["statistics"]
    assert exact.bytes()["head"] - half.bytes()["head"] == 2 * (320 + 10)
    assert {n: t.dtype for n, t in half.head.items()} == {
        "weight": torch.float16, "bias": torch.float16, "count": torch.int64,
    }  # fmt: skip
    assert torch.equal(half.head["weight"], HEAD["weight"].half())
    assert float((half.head["weight"].float() - HEAD["weight"]).abs().max()) <= 3 * 2**-11
    for kind in ("statistics", "trained"):
        one, other = getattr(exact, kind), getattr(half, kind)
        assert one.keys() == other.keys()
        assert len(one) > 0
        assert all(torch.equal(one[n], other[n]) for n in one)
        assert all(t.dtype == torch.float32 for t in other.values())
    outputs = []
    for mask in (exact, half):
        with mask.apply(model), torch.no_grad():
            outputs.append(model(torch.ones(1, 3, 8, 8)))
    assert torch.equal(*outputs)


def test_a_derived_file_takes_another_head(model: nn.Module, tmp_path: Path) -> None:
    masks = selfmask.MaskSet(model, select=["conv2.weight"])
    mask = load(masks.save(tmp_path / "exact", head=HEAD))
    masks.remove()
    path = save_derived(tmp_path / "half", mask, mask.masks(), note={}, head=head_as(mask.head, "float16"))
    assert load(path).bytes()["head"] == 2 * 330 + 8
    assert load(save_derived(tmp_path / "same", mask, mask.masks(), note={})).bytes()["head"] == 4 * 330 + 8


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("int4", 4)])
def test_a_head_in_steps_is_what_head_as_gives_and_takes_its_bits(
    model: nn.Module, tmp_path: Path, dtype: HeadDtype, bits: int
) -> None:
    masks = selfmask.MaskSet(model, select=["conv2.weight"])
    mask = load(masks.save(tmp_path / "m", head=HEAD, head_dtype=dtype))
    evaluated = head_as(HEAD, dtype)
    again = load(masks.save(tmp_path / "again", head=evaluated, head_dtype=dtype))
    masks.remove()
    assert mask.head_dtypes == {"weight": dtype, "bias": dtype, "count": "int64"}
    # Steps on whole bytes, two bytes a row for its scale, and the whole number as it is.
    assert mask.bytes()["head"] == (320 * bits + 10 * bits) // 8 + 2 * (10 + 1) + 8
    derived = load(save_derived(tmp_path / "derived", mask, mask.masks(), note={}))
    for found in (mask, again, derived):
        assert found.head_dtypes == mask.head_dtypes
        assert found.head.keys() == HEAD.keys()
        assert all(torch.equal(found.head[name], evaluated[name]) for name in HEAD)
    for row, exact in zip(mask.head["weight"], HEAD["weight"], strict=True):
        assert (row - exact).abs().max() <= exact.abs().max() / (2**bits - 2) * 1.1


def test_a_head_in_few_bits_does_not_become_one_of_more(model: nn.Module, tmp_path: Path) -> None:
    masks = selfmask.MaskSet(model, select=["conv2.weight"])
    few = {name: quantised(HEAD[name], 3, name) for name in ("weight", "bias")}
    for dtype in (None, "float32", "float16", "int8", "int4"):
        again = stored_head(few, dtype)
        assert all(isinstance(q, Quantised) and q.equals(few[name]) for name, q in again.items())
    eight = stored_head({"weight": quantised(HEAD["weight"], 8, "weight")}, "int4")["weight"]
    assert isinstance(eight, Quantised)
    assert eight.bits == 4
    with pytest.raises(SettingsError, match="images= is what max_bytes= judges by"):
        masks.save(tmp_path / "x", images=[torch.zeros(1, 3, 8, 8)])
    masks.remove()


def test_what_cannot_be_rounded_is_refused(model: nn.Module, tmp_path: Path) -> None:
    masks = selfmask.MaskSet(model, select=["conv2.weight"], train="fc.*")
    with pytest.raises(SettingsError, match="trained inside it are stored exactly"):
        masks.save(tmp_path / "x", head_dtype="float16")
    with pytest.raises(SettingsError, match="'weight' reaches 1e\\+05, beyond float16"):
        masks.save(tmp_path / "x", head={"weight": torch.tensor([1e5])}, head_dtype="float16")
    with pytest.raises(SettingsError, match="float32, float16, int8, int4, got 'int9'"):
        masks.save(tmp_path / "x", head=HEAD, head_dtype="int9")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="the head's 'weight' cannot be stored in 8 bits"):
        masks.save(tmp_path / "x", head={"weight": torch.tensor([torch.inf])}, head_dtype="int8")
    assert not (tmp_path / "x").exists()
    masks.remove()
    # What was not finite before is not the rounding's fault.
    assert head_as({"scale": torch.tensor([torch.inf])}, "float16")["scale"].isinf().all()
