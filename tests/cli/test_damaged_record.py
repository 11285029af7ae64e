"""A mask file whose record of its backbone is nonsense is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from selfmask.cli import main
from selfmask.maskset import MaskSet


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"image_size": "a"}, "its image_size is 'a'"),
        ({"image_size": True}, "its image_size is True"),
        ({"spec": 3}, "its spec is 3"),
        ({"weights": ["w"]}, "its weights is ['w']"),
    ],
)
@pytest.mark.parametrize("command", ["apply", "export"])
def test_nonsense(
    record: dict[str, Any], words: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    path = MaskSet(model, select="0.weight").save(
        tmp_path / "m.safetensors", backbone={"spec": "package:efficientnet_lite0", **record}
    )
    assert main([command, str(path), "--out", str(tmp_path / "x.onnx")]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1, line
    assert words in line
    assert not (tmp_path / "x.onnx").exists()
