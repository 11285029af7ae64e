"""The records of rules and selections in words: nothing that was set is left out."""

from __future__ import annotations

from typing import Any

import pytest

from selfmask.masking.rules import Progressive, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.tasks.words import budget_in_words, in_words, made_by


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Threshold().describe(), "name threshold, mu 0.0, start 1.0, spread 0.0"),
        (TopK(0.5).describe(), "name topk, density 0.5, init random"),
        (
            TopK(Progressive(end=0.3, steps=100)).describe(),
            "name topk, density 1.0 to 0.3 over 100 steps, init random",
        ),
        (TopK({"a": 0.5, "b": 0.25}).describe(), "name topk, density found, 2 tensors, init random"),
        (
            TopK(Progressive(end={"a": 0.5, "b": 0.25}, steps=9)).describe(),
            "name topk, density 1.0 to (found, 2 tensors) over 9 steps, init random",
        ),
        (Selection().describe(), "select auto, weights all"),
        (
            Selection(share=LargestShare(0.5), stages=2).describe(),
            "select auto, weights largest 50 %, stages 2",
        ),
        (Selection(share=RandomShare(0.125)).describe(), "select auto, weights random 12.5 %"),
        ("3 epochs on my flowers", "3 epochs on my flowers"),
        ({"lr": 0.1, "notes": {"who": "me"}, "none": None}, "lr 0.1, notes (who me)"),
        ({"weights": {"kind": 1, "share": "x"}}, "weights (kind 1, share x)"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_words(record: Any, words: str) -> None:
    assert in_words(record) == words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "at most 20,480 bytes of 86,660: head in 3 bits, norm weights in 2 to 8 bits, 8,632 weights off"
         "; metadata without rule, flipped"),
        ({"norms": [4], "head": 0, "left_out": []},
         "at most 20,480 bytes of 86,660: norm weights in 4 bits, 8,632 weights off"),
        ({"norms": [], "off": 0, "left_out": []}, "at most 20,480 bytes of 86,660: head in 3 bits, 0 weights off"),
        ({"whole": "all", "norms": [], "left_out": []},
         "max_bytes 20480, whole all, left_out [], head 3, norms [], off 8632"),
    ],
)  # fmt: skip
def test_what_is_left_within_a_budget(changed: dict[str, Any], words: str) -> None:
    record = {
        "max_bytes": 20480, "whole": 86660, "left_out": ["rule", "flipped"], "head": 3, "norms": [2, 8], "off": 8632
    }  # fmt: skip
    assert budget_in_words({**record, **changed}) == words


@pytest.mark.parametrize("record", ["all of it", {}, {"max_bytes": 3}, [1]])
def test_a_budget_written_by_hand_is_said_as_it_is(record: Any) -> None:
    assert budget_in_words(record) == in_words(record)


def test_what_a_combined_mask_is_made_of() -> None:
    members = [{"file": "a", "training": {"data": "digits"}}, {"file": "b", "training": None}, 3]
    derived = {"operation": "or", "from": members}
    assert made_by({"derived": derived}) == "or of a (digits), b (data unknown), 3 (data unknown)"
    assert made_by({}) == made_by({"derived": 3}) == made_by({"derived": {"from": "x"}}) == ""
