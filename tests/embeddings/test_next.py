"""What `selfmask adapt` names at its end as the next command is one that works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from selfmask.cli import main
from selfmask.run.adapt import _next
from selfmask.run.settings import AdaptSettings


@pytest.mark.parametrize(
    ("objective", "command", "out"),
    [("supervised", "predict", "predictions.csv"), ("contrast", "embed", "embeddings.parquet")],
)
def test_the_next_command_works(
    used,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objective: str,
    command: str,
    out: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").symlink_to(used.photos)
    words = [
        "adapt", "my photos", "--backbone", "timm:test_resnet", "--weights", str(used.weights), "--size", "32",
        "--objective", objective, "--steps", "2", "--batch", "16", "--no-evaluate", "--threads", "1",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert said.startswith(f"Next: selfmask {command} 'runs/my photos' ")
    following = [str(used.photos) if word == "NEW-IMAGES" else word for word in shlex.split(said)[2:]]
    assert main(following) == 0
    assert (tmp_path / out).is_file()


def test_a_mask_that_does_harm_is_not_to_be_used() -> None:
    found = _next(AdaptSettings("photos"), Path("runs/x"), predicts=True, kept=False)
    assert found == ("selfmask", "report", "runs/x")
