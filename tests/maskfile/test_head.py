"""What a head says of features: a linear one as torch's layer does, one of texts as CLIP does, no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfmask.maskfile.head import class_rows, linear_layer, logits, predicts
from selfmask.maskfile.quantised import quantised

X = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_linear_head_is_torch_s_layer(bias: bool, dtype: torch.dtype) -> None:
    layer = nn.Linear(7, 3, bias=bias).requires_grad_(False).to(dtype)
    head = dict(layer.state_dict())
    said = logits(X, head)
    assert said is not None
    assert torch.allclose(said, layer.float()(X), atol=1e-6)
    assert predicts(head)
    found = linear_layer(head)
    assert (found is not None) == bias
    if found is not None:
        assert torch.equal(found[0], layer.weight)
        assert found[1].dtype == torch.float32


def test_a_head_of_texts_is_clip_s() -> None:
    said = logits(X, {"text": ROWS, "logit_scale": torch.tensor([20.0])})
    assert said is not None
    assert torch.allclose(
        said, 20 * nn.CosineSimilarity(-1)(X[:, None], ROWS[None]) * ROWS.norm(dim=1), atol=1e-4
    )
    assert linear_layer({"text": ROWS, "logit_scale": torch.tensor(20.0)}) is None


def test_one_in_few_bits_says_what_its_values_say() -> None:
    head = {"weight": quantised(ROWS, 4, "w"), "bias": quantised(torch.arange(3.0), 8, "b")}
    plain = {name: tensor.values() for name, tensor in head.items()}
    said, again = logits(X, head), logits(X, plain)
    assert said is not None
    assert again is not None
    assert torch.equal(said, again)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"weight": torch.ones(3, 7, 1, 1), "bias": torch.ones(3)},
        {"weight": torch.ones(3, 7), "bias": torch.ones(4)},
        {"text": torch.ones(3, 7)},
        {"text": torch.ones(3, 7), "logit_scale": torch.ones(2)},
        {"0.weight": torch.ones(3, 7), "0.bias": torch.ones(3)},
    ],
)
def test_nobody_knows_what_another_says(head: dict[str, Any]) -> None:
    assert logits(X, head) is None
    assert linear_layer(head) is None


@pytest.mark.parametrize("rows", [torch.ones(3, 8), torch.ones(0, 7)])
def test_rows_that_do_not_fit_say_nothing(rows: Tensor) -> None:
    assert predicts({"weight": rows})
    assert logits(X, {"weight": rows}) is None
    assert logits(X[0], {"weight": torch.ones(3, 7)}) is None


def test_a_damaged_head_is_one_and_another_s_is_none() -> None:
    assert class_rows({"weight": torch.ones(3, 7, 1, 1)}) is not None
    for head in ({}, {"0.weight": torch.ones(3, 7)}, {"text": torch.ones(3, 7)}):
        assert class_rows(head) is None
        assert not predicts(head)
