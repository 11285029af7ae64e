"""The yardstick: what can be wrong in it without being seen. Bytes, the choice of a rate, what is run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rivals
import torch
from rival_methods import HEADS, METHODS, Rival, head_bytes, read_flat, write_flat
from rivals_table import chosen_rate, pack, points, table, unpack
from torch import Tensor, nn

from selfmask.backbones.spec import build
from selfmask.run.result import write_json


def drawn(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {str(number): torch.randn(shape) for number, shape in enumerate(shapes)}


@pytest.mark.parametrize("dtype", HEADS)
def test_a_flat_file_holds_what_was_trained_and_nothing_else(tmp_path: Path, dtype: Any) -> None:
    tensors, head = drawn((5, 20), (7,), (30, 2), (6, 1, 3, 3)), {"weight": torch.randn(10, 64)}
    sizes = []
    for number, content in enumerate((tensors, {**tensors, **head})):
        path = tmp_path / str(number)
        write_flat(path, content, dtype)
        sizes.append(path.stat().st_size)
        found = read_flat(path, content, dtype)
        for name, tensor in content.items():
            # int8: half a step, and the step is rounded to 8 bits of mantissa.
            most = {"float32": 0.0, "float16": 2e-3, "int8": 1 / 127}[dtype] * float(tensor.abs().max())
            assert (found[name] - tensor).abs().max() <= most
            assert found[name].shape == tensor.shape
    elements = sum(t.numel() for t in tensors.values())
    assert sizes[0] - elements * {"float32": 4, "float16": 2, "int8": 1}[dtype] < 256
    # The header may grow by a few digits.
    assert abs(sizes[1] - sizes[0] - head_bytes(head, dtype)) <= 16


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.train is not None])
def test_a_rival_trains_what_it_says_and_its_file_brings_it_back(
    name: str, tmp_path: Path, weights: Path
) -> None:
    backbone = build("timm:test_resnet", weights=weights)
    before = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    rival = Rival(METHODS[name], backbone.module.train(METHODS[name].moving))
    moved = {n for n, p in backbone.module.named_parameters() if p.requires_grad}
    assert moved
    with torch.no_grad():
        for tensor in rival.trained.values():
            tensor += 0.01 * torch.rand_like(tensor)
    after = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    # Nothing but what is stored differs from the base.
    for key, tensor in before.items():
        own = key if key in after else key.replace(".weight", ".base_layer.weight")
        own = own if own in after else key.replace(".bias", ".base_layer.bias")
        assert torch.equal(after[own], tensor) or own in rival.trained
    head = {"weight": torch.randn(10, 64), "bias": torch.zeros(10)}
    for ((stored, own),) in rival.stored(head, tmp_path):
        path = tmp_path / f"rival.{stored.way}.safetensors"
        assert stored.file == path.stat().st_size > stored.head
        found = read_flat(path, {**rival.base, **head}, stored.way)  # type: ignore[arg-type]
        for key, tensor in rival.trained.items():
            assert torch.equal(tensor, rival.base[key] + found[key])
            assert (tensor - after[key]).abs().max() <= {"float32": 1e-6}.get(stored.way, 1e-3)
        assert torch.equal(own["weight"], found["weight"])


def test_lora_adapts_convolutions_but_none_in_groups(weights: Path) -> None:
    module = build("timm:test_efficientnet", weights=None, pretrained=False).module
    whole = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    grouped = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    trained = Rival(METHODS["LoRA 2"], module).trained
    assert {n.partition(".lora_")[0] for n in trained} == set(whole)
    assert all(min(t.shape[0], t.shape[1]) == 2 for t in trained.values())


def result(rate: float | None, top1: float, loss: float, right: list[int], **more: Any) -> dict[str, Any]:
    hits = np.array(right, bool)
    ways = [{"way": w, "file": 1000, "head": 10, "right": pack(torch.from_numpy(hits))} for w in HEADS]
    return {
        "data": "d", "backbone": "b", "size": 64, "method": "norms", "rate": rate, "seed": 0, "test": len(right),
        "seconds": 1.0, "validation": {"top1": top1, "loss": loss}, "ways": ways, **more,
    }  # fmt: skip


def test_a_rate_is_chosen_by_what_was_held_out_alone() -> None:
    good_on_test = result(1.0, 0.70, 0.1, [1, 1, 1, 1])
    first, second = result(2.0, 0.71, 0.9, [0, 0, 0, 0]), result(3.0, 0.71, 0.8, [0, 1, 0, 0])
    assert chosen_rate([good_on_test, first, second]) == 3.0
    grid = {"norms": (1.0, 2.0, 3.0), "probe": ()}
    probe = result(None, 0.5, 1.0, [1, 0, 0, 0], method="probe")
    # With a second seed neither what is held out nor the test is asked again.
    again = [result(1.0, 0.99, 0.0, [1, 1, 1, 1], seed=1), result(3.0, 0.1, 9.0, [0, 1, 1, 0], seed=1)]
    made = points([good_on_test, first, second, probe, *again], grid, [0, 1])
    (chosen,) = (p for p in made if (p.method, p.way) == ("norms", "float32"))
    assert (chosen.rate, chosen.edge, chosen.partly, sorted(chosen.right)) == (3.0, True, False, [0, 1])
    assert chosen.top1 == pytest.approx((0.25 + 0.5) / 2)
    (base,) = (p for p in made if (p.method, p.way) == ("probe", "float32"))
    value, low, high = chosen.gain(base)  # on the one common seed: -1, 1, 0, 0
    assert (value, low, high) == (0.0, pytest.approx(-0.8, abs=0.01), pytest.approx(0.8, abs=0.01))
    assert points([first], grid, [0])[0].partly
    assert "3*" in table(made, list(METHODS))


def test_hits_come_back(tmp_path: Path) -> None:
    right = torch.rand(1003) < 0.5
    assert np.array_equal(unpack(pack(right), 1003), right.numpy())


class Counted:
    """In place of a training: its result is held out to be best at a rate of 0.01."""

    made: ClassVar[list[tuple[str, float | None, int]]] = []
    measures: ClassVar[list[float | None]] = []
    scores: ClassVar[list[float | None]] = []

    def __init__(self, setting: int, name: str, rate: float | None, scores: float | None) -> None:
        Counted.made.append((name, rate, setting))
        Counted.scores.append(scores)
        held = -abs((rate or 0) - 0.01)
        self.result = {
            "method": name,
            "rate": rate,
            "seed": setting,
            "validation": {"top1": held, "loss": 0.0},
        }

    def measured(self) -> dict[str, Any]:
        Counted.measures.append(self.result["rate"])
        return {**self.result, "ways": []}


def test_what_is_there_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "Setting", lambda cell, seed, threads: seed)
    monkeypatch.setattr(rivals, "Trained", Counted)
    cell = rivals.Cell.of("digits", "resnet18", 64)
    Counted.made, Counted.measures = [], []
    rivals.fill(tmp_path, cell, ["probe", "norms"], [0, 1], 1)
    rates = METHODS["norms"].rates
    assert Counted.made == [
        ("probe", None, 0), *(("norms", rate, 0) for rate in rates), ("probe", None, 1), ("norms", 0.01, 1)
    ]  # fmt: skip
    assert Counted.measures == [None, 0.01, None, 0.01]
    Counted.made.clear()
    rivals.fill(tmp_path, cell, ["probe", "norms"], [0, 1], 1)
    assert Counted.made == []
    # Stopped before its best was measured: that one alone is trained once more.
    path = rivals.file_of(tmp_path, cell, "norms", 0.01, 0)
    content = json.loads(path.read_text())
    del content["ways"]
    path.write_text(json.dumps(content))
    rivals.file_of(tmp_path, cell, "norms", rates[0], 0).unlink()
    rivals.fill(tmp_path, cell, ["norms"], [0], 1)
    assert Counted.made == [("norms", rates[0], 0), ("norms", 0.01, 0)]
    assert "ways" in json.loads(path.read_text())


def test_scores_take_the_rate_that_was_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "Setting", lambda cell, seed, threads: seed)
    monkeypatch.setattr(rivals, "Trained", Counted)
    cell = rivals.Cell.of("digits", "resnet18", 64)
    with pytest.raises(SystemExit, match="takes the rate of 'masks', which is not searched"):
        rivals.fill(tmp_path, cell, ["searched masks, norms"], [0], 1)
    write_json(
        rivals.file_of(tmp_path, cell, "masks", 0.06, 0),
        {"method": "masks", "rate": 0.06, "validation": {"top1": 0.5, "loss": 0.0}, "ways": []},
    )
    Counted.scores = []
    rivals.fill(tmp_path, cell, ["searched masks, norms"], [0, 1], 1)
    assert set(Counted.scores) == {0.06}
    Counted.scores = []
    rivals.fill(tmp_path, cell, ["masks, norms", "norms"], [0], 1)
    assert set(Counted.scores) == {0.03, None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe", "norms", "masks, norms", "LoRA 1"])
def test_all_start_from_the_same_head(
    name: str, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate at which nothing moves every method is the probe, on the test images too, however it is stored."""
    settings = {"data": "digits", "backbone": "timm:test_resnet", "weights": weights, "steps": 2,
                "objective_settings": {"head_rate": 1e-12}}  # fmt: skip
    setting = rivals.Setting(rivals.Cell("digits", "test", 32, settings), 0, 1)
    method = METHODS[name]
    monkeypatch.setitem(METHODS, name, replace(method, rates=(1e-9,) if method.rates else ()))
    scores = 1e-9 if method.scores is not None else None
    trained = rivals.Trained(setting, name, 1e-9 if method.rates else None, scores)
    found = trained.measured()
    x = setting.features(setting.plan.backbone, setting.test)
    head = setting.objective().head()
    right = rivals.linear(x, head).argmax(1) == setting.test.labels
    for way in found["ways"]:
        differ = np.abs(unpack(way["right"], found["test"]) - right.numpy()).sum()
        assert differ <= (0 if way["way"].endswith("float32") else 0.02 * len(right))
        assert way["file"] > way["head"] > 0
