"""Passes over images show their progress to whoever asked for it, and to nobody else."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from selfmask.features.passes import passing, showing


def batches() -> list[torch.Tensor]:
    return [torch.full((n, 3, 2, 2), float(n)) for n in (4, 4, 2)]


def shown(*, terminal: bool, amount: int = 3) -> str:
    """What is written to a console while `amount` batches are taken."""
    written = io.StringIO()
    with showing(Console(file=written, force_terminal=terminal, width=100)):
        running = passing(batches(), 10, "pretrained")
        found = [next(running) for _ in range(amount)]
        if amount == 3:
            assert not list(running)
        else:
            running.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(torch.equal(a, b) for a, b in zip(found, batches(), strict=False))
    return written.getvalue()


def test_a_pass_is_shown_on_a_terminal_and_leaves_no_trace() -> None:
    text = shown(terminal=True)
    assert "pretrained" in text
    assert "10/10" in text
    assert text.endswith("\x1b[2K")  # the last thing: the line is wiped


def test_a_pass_that_is_broken_off_ends_its_line() -> None:
    assert shown(terminal=True, amount=1).endswith("\x1b[2K")


def test_no_terminal_no_line() -> None:
    assert shown(terminal=False) == ""


def test_without_a_terminal_there_is_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfmask.features.passes.EVERY", 0.0)
    assert [line.split(" images, ")[0] for line in shown(terminal=False).splitlines()] == [
        "pretrained: 4 of 10",
        "pretrained: 8 of 10",
    ]


def test_nobody_asked() -> None:
    with showing(Console(file=io.StringIO(), force_terminal=True)):
        pass
    assert [len(b) for b in passing(batches(), 10, "pretrained")] == [4, 4, 2]
