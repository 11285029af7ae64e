"""One idea a file. What order the rooms have, and that there is no circle, `lint-imports` checks (pyproject.toml)."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "selfmask"


def test_files_are_small() -> None:
    long = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert not long, f"one idea a file: {long}"


def test_nothing_is_called_utils() -> None:
    assert not list(SOURCE.rglob("util*.py"))
