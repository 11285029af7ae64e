"""What a run tells its tracker is its log and its rows; TensorBoard's files are read back, the others stood in for."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking as theirs
import pytest
from rich.console import Console

from selfmask.errors import MissingExtraError, RunError
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.settings import AdaptSettings
from selfmask.run.tracking import Tracker


def run(weights: Path, out: Path, track: Tracker | None, **more: Any) -> tuple[Run, str]:
    written = io.StringIO()
    settings = AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, size=32, batch=16, images=64, steps=3,
        threads=1, statistics=False, track=track, **more,
    )  # fmt: skip
    return learn_mask(settings, console=Console(file=written, width=200)), written.getvalue()


def expected(out: Path) -> tuple[dict[tuple[str, int], float], dict[str, float]]:
    """The figures of each logged step but the rate of images, and those of the end."""
    folder = RunFolder(out)
    logged = {
        (name, entry["step"]): value
        for entry in folder.log().steps
        for name, value in entry.items()
        if name not in ("step", "images_per_second")
    }
    rows = folder.result().rows
    assert rows is not None
    ends = {
        f"{row.name.replace(', ', '_')}/{name}": estimate.value
        for row in rows.rows
        for name in ("knn", "probe", "head")
        if (estimate := getattr(row, name)) is not None
    }
    return logged, ends


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_s_files_hold_the_log(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(weights, tmp_path / "r", "tensorboard")
    logged, ends = expected(tmp_path / "r")
    board = EventAccumulator(str(tmp_path / "r" / "selfmask"))
    board.Reload()
    told = {(name, e.step): e.value for name in board.Tags()["scalars"] for e in board.Scalars(name)}
    assert {key: told[key] for key in logged} == pytest.approx(logged, rel=1e-5)
    assert {name: told[name, 0] for name in ends} == pytest.approx(ends, rel=1e-6)
    assert {name for name, _ in told} == {n for n, _ in logged} | set(ends) | {
        "file_bytes",
        "training_seconds",
    }
    hparams = next((tmp_path / "r").rglob("hparams.yml")).read_text()
    assert "data: digits" in hparams


class StandIn:
    """wandb and mlflow, as far as accelerate's trackers ask for them."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.told: list[tuple[int | None, dict[str, float]]] = []
        self.ended = 0
        self.config = SimpleNamespace(update=lambda values, **_: self.settings.update(values))
        self.utils = SimpleNamespace(
            validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        )

    def init(self, **how: Any) -> StandIn:
        self.begun.append(how)
        return self

    def search_experiments(self, **_: Any) -> list[Any]:
        return []

    def create_experiment(self, name: str, **_: Any) -> str:
        return name

    def start_run(self, experiment_id: str, run_name: str, **_: Any) -> None:
        self.begun.append({"project": experiment_id, "name": run_name})

    def log_params(self, values: dict[str, Any]) -> None:
        self.settings |= values

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.told.append((step, values))

    log_metrics = log

    def finish(self) -> None:
        self.ended += 1

    end_run = finish


@pytest.fixture
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    monkeypatch.setitem(sys.modules, request.param, found)
    monkeypatch.setattr(theirs, "_available_trackers", [theirs.LoggerType(request.param)])
    return found


@pytest.mark.parametrize(
    ("stand_in", "name"), [("wandb", "wandb"), ("mlflow", "mlflow")], indirect=["stand_in"]
)
def test_what_the_others_are_told(stand_in: StandIn, name: Tracker, weights: Path, tmp_path: Path) -> None:
    done, said = run(weights, tmp_path / "r", name)
    logged, ends = expected(tmp_path / "r")
    told = {(key, step): value for step, values in stand_in.told for key, value in values.items()}
    assert {key: told[key] for key in logged} == pytest.approx(logged, rel=1e-5)
    assert {key: told[key, None] for key in ends} == ends
    assert done.result is not None
    assert told["file_bytes", None] == done.result.bytes["file"]
    assert stand_in.begun[0] | {"dir": ""} == {"project": "selfmask", "name": "r", "dir": ""}
    assert (stand_in.settings["data"], stand_in.settings["steps"], stand_in.ended) == ("digits", 3, 1)
    assert "warning: the tracker" not in said


@pytest.mark.parametrize("stand_in", ["wandb"], indirect=True)
def test_a_tracker_that_fails_ends_alone(
    stand_in: StandIn, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server has gone \x1b[2J")

    monkeypatch.setattr(stand_in, "log", fail)
    done, said = run(weights, tmp_path / "r", "wandb", evaluate=False)
    assert done.result is not None
    assert said.count("warning: the tracker failed, and the run goes on without it: the server has gone") == 1
    assert "\x1b" not in said
    assert stand_in.told == []

    monkeypatch.setattr(stand_in, "init", fail)
    with pytest.raises(RunError, match=r"cannot be begun: the server has gone .*--resume"):
        run(weights, tmp_path / "s", "wandb", evaluate=False)
    assert run(weights, tmp_path / "s", None, evaluate=False, resume=True)[0].result is not None


def test_a_tracker_that_is_not_there(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "_available_trackers", [])
    for name, how in (("tensorboard", r"selfmask\[track\]"), ("mlflow", "pip install mlflow")):
        with pytest.raises(MissingExtraError, match=f"--track {name} needs the package {name}: .*{how}"):
            run(weights, tmp_path / "r", name)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "r").exists()
