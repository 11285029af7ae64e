"""`--head-dtype float16`: the file holds the rounded head, and the row that is shown is the rounded head's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

import selfmask
from selfmask.maskfile.saving import head_as
from selfmask.run.adapt import learn_mask
from selfmask.run.result import Result
from selfmask.run.settings import AdaptSettings


def shown(result: Result) -> float:
    assert result.rows is not None
    head = result.rows["masked"].head
    assert head is not None
    return head.value


@pytest.mark.slow
def test_the_rounded_head_is_stored_and_measured(tmp_path: Path, weights: Path) -> None:
    runs = {}
    for dtype in ("float32", "float16", "int8"):
        settings = AdaptSettings(
            "digits", out=tmp_path / dtype, backbone="timm:test_resnet", weights=weights, size=32, steps=4,
            images=120, head_dtype=dtype, threads=1, statistics=False, larger=False,
        )  # fmt: skip
        console = Console(file=(tmp_path / f"{dtype}.txt").open("w"))
        runs[dtype] = learn_mask(settings, console=console).result
        console.file.close()
    exact, half, small = (selfmask.load(tmp_path / dtype / "mask.safetensors") for dtype in runs)
    assert {t.dtype for t in half.head.values()} == {torch.float16}
    assert torch.equal(half.head["weight"], exact.head["weight"].half())
    assert all(torch.equal(m, exact.masks()[n]) for n, m in half.masks().items())
    assert torch.equal(small.head["weight"], head_as(exact.head, "int8")["weight"])
    assert small.head_dtypes == {"weight": "int8", "bias": "int8"}
    measured = runs["int8"]
    assert measured is not None
    assert measured.head_cost is not None
    assert (measured.head_cost.dtype, measured.head_cost.stored) == (
        "int8",
        pytest.approx(shown(measured), abs=1e-9),
    )
    before, after = runs["float32"], runs["float16"]
    assert before is not None
    assert after is not None
    cost = after.head_cost
    assert before.head_cost is None
    assert cost is not None
    assert cost.dtype == "float16"
    assert cost.stored == pytest.approx(shown(after), abs=1e-9)
    assert cost.exact == pytest.approx(shown(before), abs=1e-9)
    assert "head as float16: top-1" in (tmp_path / "float16.txt").read_text()
    assert "head as" not in (tmp_path / "float32.txt").read_text()
    assert 2 * half.bytes()["head"] == exact.bytes()["head"]


def test_a_resumed_run_may_choose_anew() -> None:
    assert AdaptSettings("digits", head_dtype="float16").recorded() == AdaptSettings("digits").recorded()
