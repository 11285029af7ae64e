"""What a rounded head costs, against predictions counted by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfmask.features.measure import head_cost


@dataclass
class Labelled:
    labels: Tensor

    def labelled(self) -> Labelled:
        return self

    def __len__(self) -> int:
        return len(self.labels)


def measured(monkeypatch: Any, x: Tensor, labels: Tensor, exact: Any, stored: Any) -> Any:
    monkeypatch.setattr("selfmask.features.measure.features", lambda *_, **__: x)
    return head_cost(None, Labelled(labels), exact, stored, "float16")  # type: ignore[arg-type]


def test_against_a_count_by_hand(monkeypatch: Any) -> None:
    # In float16 1 and 1 + 2⁻¹² are one number: argmax then takes the first class, so the second image is misread.
    exact = {"weight": torch.tensor([[1.0, 1.0], [1.0, 1 + 2**-12]]), "bias": torch.zeros(2)}
    stored = {name: t.half() for name, t in exact.items()}
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 2.0]])
    cost = measured(monkeypatch, x, torch.tensor([0, 1, 0, 0]), exact, stored)
    assert (cost.exact, cost.stored, cost.changed, cost.images) == (0.75, 0.75, 2, 4)
    cost = measured(monkeypatch, x, torch.tensor([0, 1, 0, 1]), exact, stored)
    assert (cost.exact, cost.stored, cost.dtype) == (1.0, 0.5, "float16")
    assert cost.interval[0] <= -0.5 <= cost.interval[1]
    assert "top-1 50.00, exact 100.00" in str(cost)
    assert cost.describe()["changed"] == 2


def test_nothing_to_measure(monkeypatch: Any) -> None:
    head = {"text": torch.ones(2, 2)}
    assert measured(monkeypatch, torch.ones(1, 2), torch.tensor([0]), head, head) is None
    pair = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    assert measured(monkeypatch, torch.ones(1, 2), torch.zeros(0, dtype=torch.long), pair, pair) is None
