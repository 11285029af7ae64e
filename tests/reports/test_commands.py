"""`selfmask report` and `selfmask analyze`, as they are called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from selfmask.errors import MaskFileError, RunError, SettingsError
from selfmask.reports.reading import read_run
from selfmask.tasks.analyze import AnalyzeSettings
from selfmask.tasks.analyze import run as analyze
from selfmask.tasks.report import ReportSettings
from selfmask.tasks.report import run as report


@pytest.mark.slow
def test_report_as_json(tiny_run, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "page.html"
    written = report(ReportSettings(run=tiny_run.path, out=page, figures=tmp_path / "f", images=0))
    document = json.loads(json.dumps(written.document()))
    assert document["page"] == str(page)
    assert document["status"] == "A learnt mask, finished"
    assert document["figures"]["training"]["rows"][0] == {
        "step": 0,
        "loss": 2.0,
        "off": 0.0,
        "images_per_second": 50.0,
    }
    assert all(Path(file).stat().st_size for file in document["files"])
    # The backbone named in the folder does not exist: said, not raised.
    assert any("base could not be built" in note for note in document["notes"])


def test_report_beside_the_run(tiny_run) -> None:
    (tiny_run.path / "result.json").unlink()  # then the command is that of the settings
    assert report(ReportSettings(run=tiny_run.path)).out == tiny_run.path / "report.html"
    page = (tiny_run.path / "report.html").read_text(encoding="utf-8")
    said = re.sub(r"<[^>]+>", "", page)
    assert "selfmask adapt some/folder/tiny --backbone timm:tiny --steps 30 --seed 3" in said


def test_the_report_of_a_lone_mask_leaves_the_run_s_own(tiny_run) -> None:
    own = tiny_run.path / "report.html"
    own.write_text("of the run", encoding="utf-8")
    written = report(ReportSettings(run=tiny_run.path / "mask.safetensors"))
    assert written.out == tiny_run.path / "mask.report.html"
    assert written.out.is_file()
    assert own.read_text(encoding="utf-8") == "of the run"


def test_analyze_with_and_without_files(tiny_run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = analyze(AnalyzeSettings(masks=(tiny_run.path,), out=out, base=True))
    document = json.loads(json.dumps(found.document()))
    assert set(document["tables"]) == {"masks", "table1-weights-on", "table3-over-runs"}
    assert set(document["figures"]) == {"densities-by-depth", "densities-by-stage", "filters"}
    assert all(Path(file).is_file() for file in document["files"])
    assert any("|θ|" in note for note in document["notes"])
    found = analyze(AnalyzeSettings(masks=(tiny_run.path,)))
    assert [s.label for s in found.study.subjects] == ["run"]


def test_wrong_paths_and_settings(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        report(ReportSettings(run=tmp_path))
    with pytest.raises(MaskFileError):
        analyze(AnalyzeSettings(masks=(tmp_path,)))
    with pytest.raises(SettingsError, match="0 or at least 5"):
        ReportSettings(run=tmp_path, images=3)


def test_the_command_holds_what_differs_from_the_defaults(tmp_path: Path) -> None:
    def command(**recorded: object) -> str | None:
        (tmp_path / "settings.json").write_text(json.dumps(recorded), encoding="utf-8")
        return read_run(tmp_path).command

    found = command(data="my photos", seed=0, steps=9, evaluate=False, lr=None, objective="swav")
    assert found == "selfmask adapt 'my photos' --objective swav --steps 9 --no-evaluate"
    assert command(data="x", experts=3) == "selfmask cascade x --experts 3"
    assert command() is None
