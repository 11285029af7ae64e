"""`selfmask adapt --pictures`: page and figures of the report beside the mask; a failure of theirs costs no mask."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfmask.cli import main
from selfmask.errors import DataError


def adapt(out: Path, weights: Path) -> int:
    return main(
        [
            "adapt", "digits", "--out", str(out), "--backbone", "timm:test_resnet", "--weights", str(weights),
            "--images", "60", "--size", "32", "--steps", "3", "--lr", "0.3", "--threads", "1", "--no-evaluate",
            "--pictures",
        ]
    )  # fmt: skip


@pytest.mark.slow
def test_every_figure_of_the_page_is_a_file(tmp_path: Path, weights: Path) -> None:
    assert adapt(tmp_path / "run", weights) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    figures = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert {"embedding", "training", "size", "densities-by-depth", "magnitudes"} <= figures
    assert all(f'id="{name}"' in page for name in figures)


def test_without_pictures_there_is_still_a_mask(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise DataError("the images are gone")

    monkeypatch.setattr("selfmask.tasks.adapt.write_report", fail)
    assert adapt(tmp_path / "run", weights) == 0
    assert (tmp_path / "run" / "mask.safetensors").is_file()
    assert not (tmp_path / "run" / "report.html").exists()
    assert "the pictures were not made: the images are gone" in capsys.readouterr().err.replace("\n", " ")
