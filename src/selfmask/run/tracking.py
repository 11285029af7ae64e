"""What a run tells to a tracker of experiments, by accelerate's: TensorBoard, Weights & Biases, MLflow.

A tracker may be far away. What fails in it ends the tracking and not the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from selfmask._common.console import tell
from selfmask._common.escape import encodable, one_line
from selfmask.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from selfmask.run.result import Result

Tracker = Literal["tensorboard", "wandb", "mlflow"]

_MEASURES = ("knn", "probe", "head")


def trackers_for(name: Tracker | None, folder: Path) -> dict[str, Any]:
    """What `Accelerator` is to be made with, so that a run in `folder` is tracked by `name`.

    Raises `MissingExtraError` where that tracker is not installed.
    """
    if name is None:
        return {}
    from accelerate.tracking import get_available_trackers

    if name not in map(str, get_available_trackers()):
        how = "pip install 'selfmask[track]'" if name == "tensorboard" else f"pip install {name}"
        raise MissingExtraError(f"--track {name} needs the package {name}: {how}")
    return {"log_with": name, "project_dir": folder}


@contextmanager
def tracked(accelerator: Accelerator, folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the trackers of `accelerator` are at work: begun with `settings`, ended whatever happens.

    Raises `RunError` where one cannot be begun (no account, no server).
    """
    name = folder.resolve().name
    try:
        accelerator.init_trackers(
            "selfmask",
            config={key: value for key, value in map(_plain, settings.items()) if value is not None},
            init_kwargs={"wandb": {"name": name, "dir": str(folder)}, "mlflow": {"run_name": name}},
        )
    except Exception as error:  # whatever the tracker's own package raises
        raise RunError(
            f"the tracker cannot be begun: {_said(error)}; mend it or leave --track out, and go on "
            "with --resume"
        ) from error
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            with suppress(Exception):  # its last words are not worth the run
                tracker.finish()


def track(
    accelerator: Accelerator, figures: Mapping[str, float], console: Console, step: int | None = None
) -> None:
    """Tell `figures` (of `step`, or of the run) to the trackers, if there are any. The first failure ends them."""
    try:
        accelerator.log(dict(figures), step=step)
    except Exception as error:
        accelerator.trackers.clear()
        tell(console, f"warning: the tracker failed, and the run goes on without it: {_said(error)}")


def figures_of(result: Result) -> dict[str, float]:
    """The end of a run in figures: accuracies in [0, 1] by row and measure, the file's bytes, the seconds."""
    rows = () if result.rows is None else result.rows.rows
    found = {
        f"{_NO_WORD.sub('_', row.name)}/{measure}": estimate.value
        for row in rows
        for measure in _MEASURES
        if (estimate := getattr(row, measure)) is not None
    }
    return found | {"file_bytes": float(result.bytes["file"]), "training_seconds": result.seconds.training}


_NO_WORD = re.compile(r"\W+")  # mlflow takes no comma in a name


def _plain(setting: tuple[str, Any]) -> tuple[str, Any]:
    name, value = setting
    return name, value if isinstance(value, bool | int | float | None) else encodable(str(value))


def _said(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))[:300] or type(error).__name__
