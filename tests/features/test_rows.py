"""The table of rows: reference, pairing, JSON and print."""

from __future__ import annotations

import json

import pytest
import torch
from rich.console import Console

from selfmask.errors import DataError
from selfmask.features.intervals import accuracy_interval, paired_interval
from selfmask.features.rows import Outcome, Rows


def right(share: float, count: int = 500, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share


def four() -> Rows:
    return Rows.of(
        [
            Outcome("pretrained", knn=right(0.5), probe=right(0.6)),
            Outcome("statistics only", knn=right(0.45), probe=right(0.55)),
            Outcome("masked", knn=right(0.7), probe=right(0.75), head=right(0.8)),
            Outcome("full fine-tuning", knn=right(0.7), head=right(0.61, seed=1)),
        ]
    )


def test_differences_are_paired_with_the_first_row() -> None:
    rows = four()
    assert rows.images == 500
    assert rows["pretrained"].knn_gain is None
    masked = rows["masked"]
    assert masked.knn is not None
    assert masked.knn_gain is not None
    assert masked.head_gain is not None
    assert (masked.knn.value, masked.knn.low, masked.knn.high) == accuracy_interval(right(0.7))
    assert (masked.knn_gain.value, masked.knn_gain.low) == paired_interval(right(0.7), right(0.5))[:2]
    # The head's reference is the pretrained probe.
    assert masked.head_gain.value == paired_interval(right(0.8), right(0.6))[0]
    assert rows["full fine-tuning"].probe is None
    with pytest.raises(KeyError, match="the table has pretrained, statistics only"):
        rows["nothing"]


def test_json_goes_there_and_back() -> None:
    rows = four()
    assert Rows.from_json(json.loads(json.dumps(rows.to_json()))) == rows


def test_the_printed_table_says_what_was_measured() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(four().table())
        text = console.export_text()
    assert "…" not in text, "80 columns must be enough"
    rows = {block.split("│")[1].strip(): block for block in text.split("├") if "│" in block}
    masked = next(block for name, block in rows.items() if name == "masked")
    accuracy, low, high = accuracy_interval(right(0.7))
    assert f"{accuracy:.3f}" in masked
    assert f"[{low:.3f}, {high:.3f}]" in masked
    assert "+0." in masked
    assert "−0." in next(block for name, block in rows.items() if name == "statistics only")
    assert "linear probe" in text
    assert "500 test images" in text


def test_rows_on_different_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"same test images, got \[10, 20\]"):
        Rows.of([Outcome("a", knn=right(0.5, 10)), Outcome("b", knn=right(0.5, 20))])
    with pytest.raises(DataError, match="nothing was measured"):
        Rows.of([Outcome("a")])
    with pytest.raises(DataError, match="at least one row"):
        Rows.of([])
