"""Weights files in the layouts that authors publish, and files that are none."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from selfmask.backbones.state import load_strict, read_state_dict, unwrapped
from selfmask.errors import BackboneError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


WRAPPERS: dict[str, Any] = {
    "prefix module.": lambda state: {f"module.{key}": one for key, one in state.items()},
    "prefix backbone. beside a head": lambda state: {
        **{f"backbone.{key}": one for key, one in state.items()},
        "head.mlp.0.weight": torch.zeros(2, 2),
    },
    "compiled": lambda state: {f"_orig_mod.{key}": one for key, one in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=1.0)},
    "teacher beside a student": lambda state: {
        "student": {key: one + 1 for key, one in state.items()},
        "teacher": state,
        "epoch": 100,
    },
}


@given(st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=4), st.booleans())
@settings(deadline=None, max_examples=40)
def test_any_wrapping_is_undone(names: list[str], as_file: bool) -> None:
    state = network().state_dict()
    content: Any = dict(state)
    nested = False
    for name in names:
        flat = all(isinstance(one, Tensor) for one in content.values())
        if "prefix" in name or name == "compiled":
            if nested or not flat:
                continue  # nobody prefixes the keys of a nest
        elif not flat:
            nested = True
        content = WRAPPERS[name](content) if flat or name in ("state_dict", "model") else content
    found = unwrapped(content, "it")
    kept = {key: one for key, one in found.items() if not key.startswith("head.")}
    assert same(kept, state)


def test_dino_checkpoint_with_its_settings_is_read(tmp_path: Path) -> None:
    state = network().state_dict()
    student = {f"module.backbone.{key}": one + 1 for key, one in state.items()}
    teacher = {f"backbone.{key}": one for key, one in state.items()}
    teacher["head.last_layer.weight_v"] = torch.zeros(2, 2)
    path = tmp_path / "checkpoint.pth"
    torch.save(
        {"student": student, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(arch="x")}, path
    )
    assert same(read_state_dict(path), state)


def test_safetensors_and_pth_agree(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    assert same(read_state_dict(tmp_path / "a.safetensors"), state)
    assert same(read_state_dict(tmp_path / "a.pth"), state)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/selfmask-was-here",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"weight": torch.zeros(1), "more": Hostile()}, path)
    with pytest.raises(BackboneError, match="would run code"):
        read_state_dict(path)
    assert not Path("/tmp/selfmask-was-here").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"\x00" * 20, "no readable safetensors file"),
        ("a.safetensors", b"", "no readable safetensors file"),
        ("a.pth", b"not a checkpoint", r"a\.pth"),
        ("a.pth", b"", r"a\.pth"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=message):
        read_state_dict(tmp_path / name)


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {}}, tmp_path / "a.pth")
    with pytest.raises(BackboneError, match="holds no state dict"):
        read_state_dict(tmp_path / "a.pth")
    with pytest.raises(BackboneError, match="no weights file at"):
        read_state_dict(tmp_path / "absent.pth")


def test_heads_are_dropped_and_old_checkpoints_completed() -> None:
    source, target = network(), network()
    state = {key: one for key, one in source.state_dict().items() if "num_batches" not in key}
    state |= {
        "projection_head.0.weight": torch.zeros(1),
        "prototypes.weight": torch.zeros(1),
        "fc.bias": torch.zeros(1),
    }
    load_strict(target, state, "a file", "a network")
    assert same(target.state_dict(), source.state_dict())


def test_half_precision_weights_become_the_network_s_precision() -> None:
    source, target = network(), network()
    load_strict(target, {key: one.half() for key, one in source.state_dict().items()}, "f", "n")
    weight = target.state_dict()["0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, source.state_dict()["0.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("1.weight"), r"1\.weight is not among them \(first of 1 missing, 0 unknown"),
        (lambda s: s.update({"0.weight": torch.zeros(4, 3, 5, 5)}),
         r"0\.weight is \(4, 3, 5, 5\) there and \(4, 3, 3, 3\)"),
        (lambda s: s.update({"1.weights": s.pop("1.weight")}),
         r"1\.weight is not among them; did you mean '1\.weights'"),
        (lambda s: s.update({"2.weight": torch.zeros(1)}), r"2\.weight is not in the network"),
    ],
)  # fmt: skip
def test_the_first_mismatch_is_named_and_nothing_is_loaded(change: Any, message: str) -> None:
    target = network()
    before = {key: one.clone() for key, one in target.state_dict().items()}
    state = dict(network().state_dict())
    change(state)
    with pytest.raises(BackboneError, match=message) as caught:
        load_strict(target, state, "some.pth", "some:network")
    assert "some.pth do not fit some:network" in str(caught.value)
    assert same(target.state_dict(), before)


def test_another_layout_is_converted() -> None:
    source, target = network(), network()
    theirs = {f"their_{key}": one for key, one in source.state_dict().items()}
    load_strict(
        target, theirs, "f", "n", lambda state: {k.removeprefix("their_"): v for k, v in state.items()}
    )
    assert same(target.state_dict(), source.state_dict())
    with pytest.raises(BackboneError, match="do not fit"):
        load_strict(target, {"x": torch.zeros(1)}, "f", "n", lambda state: {"y": state["z"]})


@pytest.mark.parametrize("nest", ["state_dict", "model"])
def test_a_tensor_beside_the_nest_hides_it_not(nest: str) -> None:
    """As the best accuracy in the checkpoints of torch's own example for ImageNet."""
    state = {"weight": torch.ones(2)}
    assert unwrapped({"epoch": 3, nest: state, "best_acc1": torch.tensor(76.1)}, "x") == state
