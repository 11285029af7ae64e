"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Tests draw the same numbers wherever they run and whatever ran before them."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and images beside the repository, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real weights and images of {SHARED}, which are not on this machine")
    return SHARED
