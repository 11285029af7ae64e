"""Densities, against counts made by hand and by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import SettingsError
from selfmask.reports.density import grouped, layers, mean_and_deviation, series, total_density
from selfmask.reports.filters import filter_shares


def golden() -> dict[str, torch.Tensor]:
    qkv = torch.ones(6, 2, dtype=torch.bool)
    qkv[2:4, 0] = False  # two of k's four weights
    qkv[4, :] = False  # two of v's four: one whole filter
    return {
        "blocks.1.mlp.fc1.weight": torch.tensor([[True, False], [True, True]]),
        "blocks.0.attn.qkv.weight": qkv,
        "blocks.0.mlp.fc1.weight": torch.ones(2, 2, dtype=torch.bool),
        "blocks.0.mlp.fc1.bias": torch.tensor([True, False]),
    }


def test_golden_layers() -> None:
    found = {layer.place.name: (layer.weights, layer.on) for layer in layers(golden())}
    assert found == {
        "blocks.0.attn.qkv.weight[q]": (4, 4),
        "blocks.0.attn.qkv.weight[k]": (4, 2),
        "blocks.0.attn.qkv.weight[v]": (4, 2),
        "blocks.0.mlp.fc1.bias": (2, 1),
        "blocks.0.mlp.fc1.weight": (4, 4),
        "blocks.1.mlp.fc1.weight": (4, 3),
    }
    assert total_density(layers(golden())) == pytest.approx(16 / 22)
    assert grouped(layers(golden()), lambda place: place.stage) == {"block 0": (18, 13), "block 1": (4, 3)}


def test_golden_filters() -> None:
    found = {share.place.name: (share.off.tolist(), share.dead) for share in filter_shares(golden())}
    assert found == {
        "blocks.0.attn.qkv.weight[q]": ([0.0, 0.0], 0),
        "blocks.0.attn.qkv.weight[k]": ([0.5, 0.5], 0),
        "blocks.0.attn.qkv.weight[v]": ([1.0, 0.0], 1),
        "blocks.0.mlp.fc1.weight": ([0.0, 0.0], 0),
        "blocks.1.mlp.fc1.weight": ([0.5, 0.0], 0),
    }


def test_golden_series_over_two_masks() -> None:
    other = golden()
    other["blocks.1.mlp.fc1.weight"] = torch.zeros(2, 2, dtype=torch.bool)
    points = {(p.kind, p.part, p.depth): p for p in series([layers(golden()), layers(other)])}
    changed = points["fc1", "weight", 1]
    assert (changed.mean, changed.masks) == (pytest.approx(0.375), 2)
    assert changed.deviation == pytest.approx(np.std([0.75, 0.0], ddof=1))
    assert points["k", "weight", 0].mean == 0.5
    assert points["k", "weight", 0].deviation == 0


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.integers(0, 4), st.sampled_from(["layer1.{}.conv1", "blocks.{}.mlp.fc1"])
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**31),
)
def test_no_weight_is_lost_or_counted_twice(parts: list[tuple[int, int, str]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = {
        f"{name.format(i)}.weight": torch.rand(rows, columns, generator=generator) < 0.7
        for i, (rows, columns, name) in enumerate(parts)
    }
    found = layers(masks)
    assert sum(layer.weights for layer in found) == sum(mask.numel() for mask in masks.values())
    assert sum(layer.on for layer in found) == sum(int(mask.sum()) for mask in masks.values())
    for share in filter_shares(masks):
        mask = masks[share.place.parameter]
        expected = [1 - sum(row) / len(row) for row in mask.tolist()]
        assert share.off.tolist() == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_mean_and_deviation_are_numpys(values: list[float]) -> None:
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_a_mask_that_is_not_boolean_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fc\.weight has dtype torch\.uint8"):
        layers({"fc.weight": torch.ones(2, 2, dtype=torch.uint8)})
