"""Whatever was on before, a switch gives the weights that `load(path).apply(model)` gives, to the bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.bank.packing import Packed, Writer, together
from selfmask.bank.specialist import Specialist
from selfmask.bank.switching import Switch
from selfmask.errors import SettingsError
from selfmask.maskfile.fingerprint import base_tensors
from selfmask.maskfile.loading import load
from selfmask.maskfile.quantised import quantised
from selfmask.maskfile.saving import save_mask
from selfmask.masking.weight import masked_weight

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHARES = (0.0, 0.001, 0.02, 0.03125, 0.04, 0.3, 0.97)


def network(seed: int, dtype: torch.dtype, channels_last: bool, tied: bool) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 24, (), generator=generator))
    model = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 40, 1), nn.Flatten(),
        nn.Linear(40, 40), nn.Linear(40, 40),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        model[4].weight[0, 0] = -0.0  # type: ignore[index, operator]
    if tied:
        model[5].weight = model[4].weight
    model.to(dtype).eval()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model


def a_mask(path: Path, model: nn.Module, seed: int, equal: bool) -> None:
    """Over some of the weights; the others it may train. `equal`: as many off as every other mask has."""
    tensors = base_tensors(model)
    generator = torch.Generator().manual_seed(seed)
    theta, masks, trained, moved, norms = {}, {}, {}, {}, {}
    for name, tensor in tensors.items():
        draw = int(torch.randint(0, 8, (), generator=generator))
        if "running" in name:
            if draw % 2:
                moved[name] = tensor + torch.rand(tensor.shape, generator=generator).to(tensor)
        elif draw == 6 and tensor.ndim == 1:
            change = torch.randn(tensor.shape, generator=generator) / 20
            norms[name] = quantised(change, 8, name)
        elif draw == 7:
            trained[name] = torch.randn(tensor.shape, generator=generator).to(tensor)
        elif equal or draw:
            share = 0.02 if equal else SHARES[draw]
            order = torch.randperm(tensor.numel(), generator=generator)
            mask = torch.ones(tensor.numel(), dtype=torch.bool)
            mask[order[: int(share * tensor.numel())]] = False
            theta[name], masks[name] = tensor, mask.reshape(tensor.shape)
    rest = {name: t for name, t in tensors.items() if name not in theta}
    save_mask(path, theta=theta, masks=masks, rest=rest, statistics=moved, trained=trained, norms=norms)


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every bit of the model's state."""
    state = {name: t.detach().contiguous().reshape(-1) for name, t in model.state_dict().items()}
    return {name: t.view(torch.uint8).numpy().tobytes() for name, t in state.items()}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    tied=st.booleans(),
    equal=st.booleans(),
    order=st.lists(st.integers(-1, 3), min_size=1, max_size=12),
    lent=st.booleans(),
)
def test_any_order_of_any_masks(
    seed: int, dtype: torch.dtype, channels_last: bool, tied: bool, equal: bool, order: list[int], lent: bool
) -> None:
    model = network(seed, dtype, channels_last, tied)
    before = bits(model)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(4)]
        wanted = [before]
        for i, path in enumerate(paths):
            a_mask(path, model, seed + i, equal)
            with load(path).apply(model) as adapted:
                wanted.append(bits(adapted))
        switch = Switch(model)
        specialists = [
            Specialist.of(
                load(path),
                "x",
                Preprocessing(),
                switch.own_name,
                switch.in_memory_order,
                switch.signed.tensors,
            )
            for path in paths
        ]
    for number in order:
        switch.to(None if number < 0 else specialists[number])
        assert bits(model) == wanted[number + 1]
        if lent:
            with switch.lending(), torch.no_grad():
                model[0].weight.zero_()  # type: ignore[operator]
                model[1].running_mean.add_(1)  # type: ignore[operator]
                model[4].bias.mul_(3)  # type: ignore[operator]
            switch.to(switch.worn)
            assert bits(model) == wanted[number + 1]
    switch.close()
    assert bits(model) == before


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from(SHARES), st.integers(0, 999)), min_size=1, max_size=6
    )
)
def test_packed_masks_are_what_was_packed_in_the_smaller_of_two_ways(
    tensors: list[tuple[int, float, int]],
) -> None:
    masks: dict[str, Tensor] = {}
    for i, (size, share, seed) in enumerate(tensors):
        mask = np.random.default_rng(seed).random(size) >= share
        if size:
            mask[seed % size] = True
        masks[str(i)] = torch.from_numpy(mask)
    packed = Packed.of(masks)
    for name, mask in masks.items():
        span, size = packed.spans[name], mask.numel()
        off = torch.zeros(size, dtype=torch.bool)
        if span.listed:
            off[packed.places(span, off.device)] = True
        else:
            off = packed.off(span, size, off.device)
        assert torch.equal(~off, mask)
        as_list, as_bits = 4 * int((~mask).sum()), (size + 7) // 8
        assert (span.end - span.begin) * (4 if span.listed else 1) == min(as_list, as_bits)
        theta = torch.randn(size)
        weights = torch.full((size,), torch.nan)
        Writer(packed).write(name, theta, weights)
        assert torch.equal(weights, masked_weight(theta, mask))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool)),
            st.sampled_from(((), (0,), (3,), (5, 7), (2, 0, 3), (300, 200))),
        ),
        max_size=8,
    )
)
def test_what_lies_together_is_what_it_was(kinds: list[tuple[torch.dtype, tuple[int, ...]]]) -> None:
    tensors = [torch.randn(shape).mul(9).to(dtype) for dtype, shape in kinds]
    copies = together(tensors)
    assert [(t.dtype, t.shape) for t in copies] == [(t.dtype, t.shape) for t in tensors]
    assert all(map(torch.equal, copies, tensors))
    for k, copy in enumerate(copies):  # nothing lies over anything else
        copy.fill_(k % 2)
    assert all(bool((copy == k % 2).all()) for k, copy in enumerate(copies))


def test_what_breaks_off_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(1, torch.float32, False, False)
    a_mask(tmp_path / "a.safetensors", model, 1, True)
    a_mask(tmp_path / "b.safetensors", model, 2, True)
    base = bits(model)
    with load(tmp_path / "b.safetensors").apply(model) as adapted:
        wanted = bits(adapted)
    switch = Switch(model)
    a, b = (
        Specialist.of(
            load(tmp_path / f"{x}.safetensors"),
            x,
            Preprocessing(),
            switch.own_name,
            switch.in_memory_order,
            switch.signed.tensors,
        )
        for x in "ab"
    )  # fmt: skip
    switch.to(a)
    calls = iter([False, False, True])
    real = Writer.write_over

    def fails(self: Writer, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        if next(calls, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "write_over", fails)
    with pytest.raises(KeyboardInterrupt):
        switch.to(b)
    assert bits(model) != wanted
    switch.to(b)
    assert bits(model) == wanted
    # Nor does anything of it stay where something else comes next.
    switch.to(None)
    calls = iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        switch.to(a)
    assert bits(model) != base
    switch.to(None)
    assert bits(model) == base
    switch.close()


def test_what_was_put_in_a_tensor_s_place_while_it_was_lent_is_seen() -> None:
    model = network(1, torch.float32, False, False)
    base = bits(model)
    switch = Switch(model)
    with switch.lending():
        model[1].running_mean = torch.ones_like(model[1].running_mean)  # type: ignore[arg-type]
    switch.to(None)
    assert bits(model) == base
    with switch.lending():
        model[5].get_parameter("weight").data.mul_(3)  # leaves no trace
    switch.to(None)
    assert bits(model) == base
    with switch.lending():
        model[4].weight = nn.Parameter(torch.zeros(40, 40))
    with pytest.raises(SettingsError, match=r"4\.weight was moved, cast or replaced"):
        switch.to(None)
    switch.close()
    assert bits(model) == base


def test_weights_with_gaps_between_them_are_no_bank_s(tmp_path: Path) -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer)
    a_mask(tmp_path / "a.safetensors", model, 0, True)
    layer.weight = nn.Parameter(torch.cat([layer.weight.detach()] * 2, 1)[:, :8])
    before = bits(model)
    switch = Switch(model)
    with pytest.raises(SettingsError, match="without gaps"):
        Specialist.of(
            load(tmp_path / "a.safetensors"),
            "a",
            Preprocessing(),
            switch.own_name,
            switch.in_memory_order,
            switch.signed.tensors,
        )
    switch.close()
    assert bits(model) == before
