"""What the settings of a cascade refuse, and where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import SettingsError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"experts": 0}, "--experts must be at least 1, got 0"),
        ({"expert_steps": 0}, "--expert-steps must be at least 1"),
        ({"expert_lr": 0.0}, "--expert-lr must be positive, got 0.0"),
        ({"expert_lr": float("nan")}, "--expert-lr must be positive, got nan"),
        ({"width": -1}, "--width must be at least 1"),
        ({"finetune": True}, "--finetune is a row of `selfmask adapt`"),
        ({"norms_alone": True}, "--norms-alone is a row of `selfmask adapt`"),
        ({"max_bytes": "20k"}, "--max-bytes is the size of one mask"),
        ({"batch": 1}, "--batch must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CascadeSettings(data="photos", **wrong)


def test_where_it_is_written_and_what_is_kept() -> None:
    assert CascadeSettings(data="a/photos").folder() == Path("runs/photos-cascade")
    assert CascadeSettings(data="photos", out=Path("here")).folder() == Path("here")
    assert CascadeSettings(data="photos").modes() == ("conditional", "unconditional")
    assert CascadeSettings(data="photos", keep="conditional").modes() == ("conditional",)
