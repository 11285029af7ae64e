"""Saving, loading, applying and removing: the network is the training-time one, and then the base, to the bit."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import selfmask
from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.fingerprint import base_tensors, combined, signature
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import save_mask
from selfmask.masking.occupancy import Hold
from selfmask.masking.weight import masked_weight
from selfmask.maskset import MaskSet

MASKED = ("conv2.weight", "conv3.weight")


def some_masks(model: nn.Module, share: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name in MASKED:
        theta = model.get_parameter(name).detach()
        drawn = torch.rand(theta.shape, generator=random) < share
        found[name] = ~(drawn & (theta.abs() > theta.abs().median()))
    return found


def save(path: Path, model: nn.Module, masks: dict[str, Tensor], **more: Any) -> Path:
    state = model.state_dict()
    theta = {name: state.pop(name) for name in masks}
    return save_mask(path, theta=theta, masks=masks, rest=state, **more)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8)) for n in a
    )


def test_a_saved_mask_makes_the_training_time_network(tmp_path: Path, model: nn.Module) -> None:
    before = state(model)
    images = torch.randn(4, 3, 8, 8)
    masks = MaskSet(model, select=list(MASKED), norm_stats="adapt", train="fc.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3, trained={"lr": 0.01})
    model.train()
    for _ in range(6):
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    expected = model(images)
    truth = masks.masks()
    assert any(not bool(m.all()) for m in truth.values())
    path = masks.save(tmp_path / "a.mask.safetensors", note={"steps": 6})
    masks.remove()
    # The counters of the batch norms come back as well.
    assert same(state(model), before)

    mask = load(path)
    assert same(mask.masks(), truth)
    assert mask.metadata["note"] == {"steps": 6}
    assert mask.metadata["rule"]["name"] == "threshold"
    assert set(mask.trained) == {"fc.weight", "fc.bias"}
    with mask.apply(model) as adapted:
        assert torch.equal(adapted(images), expected)
    assert same(state(model), before)
    # What was trained beside the masks starts anywhere, so its base values are no matter.
    nn.init.ones_(model.fc.weight)  # type: ignore[union-attr]
    handle = mask.apply(model)
    assert torch.equal(model(images), expected)
    handle.remove()
    handle.remove()
    assert not handle.applied


def test_a_thousand_times_on_and_off_changes_no_bit(tmp_path: Path, model: nn.Module) -> None:
    masks = some_masks(model)
    statistics = {"norm1.running_mean": torch.randn(8)}
    mask = load(save(tmp_path / "a.safetensors", model, masks, statistics=statistics))
    before = state(model)
    expected = copy.deepcopy(model)
    for name in MASKED:
        expected.get_parameter(name).data = masked_weight(before[name], masks[name])
    expected.get_buffer("norm1.running_mean").copy_(statistics["norm1.running_mean"])
    wanted = state(expected)
    for _ in range(1000):
        with mask.apply(model):
            assert same(state(model), wanted)
    assert same(state(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_bases_of_every_floating_dtype(tmp_path: Path, model: nn.Module, dtype: torch.dtype) -> None:
    model.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masks = some_masks(model)
    before = state(model)
    for packed in (False, True):
        mask = load(save(tmp_path / "a.safetensors", model, masks, packed=packed))
        assert same(mask.masks(), masks)
        with mask.apply(model):
            for name in MASKED:
                assert torch.equal(model.get_parameter(name), masked_weight(before[name], masks[name]))
        assert same(state(model), before)


def test_bytes_add_up_and_any_safetensors_reader_reads_the_file(tmp_path: Path, model: nn.Module) -> None:
    path = save(
        tmp_path / "a.safetensors",
        model,
        some_masks(model),
        statistics={"norm1.running_mean": torch.randn(8), "norm1.num_batches_tracked": torch.tensor(7)},
        head={"weight": torch.randn(5, 10), "classes": torch.arange(5), "half": torch.randn(3).half()},
        metadata={"training": {"data": "digits", "λ": 50}},
    )
    mask = load(path)
    parts = mask.bytes()
    assert parts["file"] == path.stat().st_size
    assert sum(v for k, v in parts.items() if k != "file") == parts["file"]
    assert parts["statistics"] == 8 * 4 + 8
    with safe_open(path, "pt") as file:
        assert file.metadata()["training"] == '{"data":"digits","λ":50}'
        assert set(mask.head) == {"weight", "classes", "half"}
        for name, value in mask.head.items():
            assert torch.equal(file.get_tensor(f"head/{name}"), value)
        alphas = file.get_tensor("alpha")
        assert alphas[0] == np.float32(np.sqrt(some_masks(model)[MASKED[0]].double().mean().item()))
        assert torch.equal(file.get_tensor("statistics/F32"), mask.statistics["norm1.running_mean"])
    with mask.apply(model):
        assert int(model.get_buffer("norm1.num_batches_tracked")) == 7


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path, model: nn.Module) -> None:
    one = save(tmp_path / "a.safetensors", model, some_masks(model))
    two = save(tmp_path / "b.safetensors", model, some_masks(model))
    assert one.read_bytes() == two.read_bytes()


def test_a_mask_with_no_off_weight_and_one_that_masks_nothing(tmp_path: Path, model: nn.Module) -> None:
    masks = {name: torch.ones_like(m) for name, m in some_masks(model).items()}
    mask = load(save(tmp_path / "a.safetensors", model, masks))
    assert mask.bytes()["masks"] == 0
    assert mask.density() == 1.0
    before = state(model)
    with mask.apply(model):
        assert same(state(model), before)
    nothing = load(save(tmp_path / "b.safetensors", model, {}))
    assert nothing.masks() == {}
    nothing.apply(model).remove()


def test_a_tensor_that_is_off_altogether_is_stored_but_not_applied(tmp_path: Path, model: nn.Module) -> None:
    masks = {name: torch.zeros_like(m) for name, m in some_masks(model).items()}
    mask = load(save(tmp_path / "a.safetensors", model, masks))
    assert same(mask.masks(), masks)
    before = state(model)
    with pytest.raises(MaskFileError, match=r"every weight of 'conv2.weight' is off"):
        mask.apply(model)
    assert same(state(model), before)


def test_writing_is_whole_or_not_at_all(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.safetensors", model, some_masks(model))
    old = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, model, some_masks(model, share=0.5))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_reported_as_such(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.safetensors", model, some_masks(model))
    old = path.read_bytes()
    whole = os.fdopen

    def full(handle: int, mode: str) -> Any:
        os.close(handle)
        return whole(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, model, some_masks(model, share=0.5))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path, model: nn.Module) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = save(tmp_path / "deep" / "er" / "a.safetensors", model, some_masks(model))
    assert path.stat().st_mode == plain.stat().st_mode


def test_what_cannot_be_saved_is_said(tmp_path: Path, model: nn.Module) -> None:
    masks = some_masks(model)
    path = tmp_path / "a.safetensors"
    for more, message in (
        ({"metadata": {"x": float("nan")}}, "metadata\\['x'\\] cannot be written as JSON"),
        ({"metadata": {"x": {1, 2}}}, "metadata\\['x'\\]"),
        ({"metadata": {"x": "half a character: \ud800"}}, "metadata\\['x'\\] cannot be written as JSON"),
        ({"metadata": {"selfmask.format": 3}}, "belong to the format"),
        ({"head": {"z": torch.zeros(2, dtype=torch.complex64)}}, "z: dtype torch.complex64"),
    ):
        with pytest.raises(SettingsError, match=message):
            save(path, model, masks, **more)
    theta = {name: model.get_parameter(name) for name in MASKED}
    with pytest.raises(SettingsError, match="name the same tensors"):
        save_mask(path, theta=theta, masks={MASKED[0]: masks[MASKED[0]]})
    with pytest.raises(SettingsError, match="must be bool of shape"):
        save_mask(path, theta=theta, masks={n: m.float() for n, m in masks.items()})
    assert not path.exists()


def base_fingerprint(model: nn.Module) -> str:
    return combined({name: signature(tensor).digest for name, tensor in base_tensors(model).items()})


def test_the_base_fingerprint_knows_bits_and_nothing_else(model: nn.Module) -> None:
    first = base_fingerprint(model)
    assert base_fingerprint(copy.deepcopy(model).to(memory_format=torch.channels_last)) == first  # type: ignore[call-overload]
    model.get_buffer("norm1.num_batches_tracked").add_(1)
    assert base_fingerprint(model) == first
    with torch.no_grad():
        model.get_parameter("fc.bias")[0] = torch.nextafter(
            model.get_parameter("fc.bias")[0], torch.tensor(9.0)
        )
    assert base_fingerprint(model) != first


@pytest.mark.parametrize("metadata", [{"site": {1: "a", "1": "b"}}, {"site": "x" * (17 << 20)}])
def test_metadata_that_no_reader_would_take_is_not_written(
    metadata: dict[str, Any], tmp_path: Path, model: nn.Module
) -> None:
    masks = MaskSet(model)
    with pytest.raises(SettingsError, match="metadata"):
        masks.save(tmp_path / "a", **metadata)
    assert not (tmp_path / "a").exists()


def test_what_breaks_off_on_the_way_leaves_the_base(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, before = load(save(tmp_path / "a", model, some_masks(model))), state(model)

    def fails(*_: Any) -> None:
        assert not same(state(model), before)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Hold, "keep", fails)
        with pytest.raises(KeyboardInterrupt):
            mask.apply(model)
    assert same(state(model), before)
    mask.apply(model).remove()


def test_statistics_that_moved_under_a_mask_are_the_base_s_again(tmp_path: Path, model: nn.Module) -> None:
    mask, before = load(save(tmp_path / "a", model, some_masks(model))), state(model)
    assert not mask.statistics
    with mask.apply(model):
        model.train()(torch.randn(4, 3, 8, 8))
    assert same(state(model), before)


def test_masks_in_memory_are_things_of_their_own(tmp_path: Path, model: nn.Module) -> None:
    path = save(tmp_path / "a", model, some_masks(model))
    one, other = load(path), load(path)
    assert one != other
    assert len({one, other, one}) == 2


def test_the_writer_s_version_is_the_writer_s(tmp_path: Path, model: nn.Module) -> None:
    masks = some_masks(model)
    mask = load(
        save(tmp_path / "a", model, masks, metadata={"selfmask": "0.0.1", "rows": 1, "budget": {}, "site": 3})
    )
    assert mask.metadata["selfmask"] == selfmask.__version__
    derived = load(save_derived(tmp_path / "b", mask, masks, note={}))
    assert derived.metadata == {"selfmask": selfmask.__version__, "site": 3}


def test_what_is_nested_too_deep_is_neither_written_nor_read(tmp_path: Path, model: nn.Module) -> None:
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(SettingsError, match="nested deeper than 64 levels"):
        save(tmp_path / "a", model, some_masks(model), metadata={"note": deep})
