"""Training curves: is the run healthy, has it settled, how fast was it?"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfmask._common.style import BLUE, GREEN, MUTED, OCHRE, ORANGE, PURPLE, ROSE, SKY, Ink
from selfmask.reports.chart import Chart, DataTable, is_narrow, set_height
from selfmask.reports.wording import listed
from selfmask.run.log import Log

_AS_LOGGED = "Each point is one line of the log."


@dataclass(frozen=True)
class _Curve:
    keys: tuple[str, ...]  # the first that the log has is drawn
    title: str
    ink: Ink
    factor: float = 1.0
    from_zero: bool = False
    to_all: bool = False  # up to 100 %, whatever was reached


_WATCHED = ("knn", "validation_accuracy", "validation", "watch_knn")

_CURVES = (
    _Curve(("loss",), "loss", BLUE),
    _Curve(("accuracy", "train_accuracy"), "training accuracy (%)", GREEN, 100, to_all=True),
    _Curve(_WATCHED, "accuracy on watched images (%)", ROSE, 100, to_all=True),
    _Curve(("off",), "weights off (%)", ORANGE, 100, True),
    _Curve(("flipped", "flips"), "bits flipped in a step (%)", PURPLE, 100, True),
    _Curve(("cosine",), "cosine with the targets", GREEN),
    _Curve(("agreement",), "agreement with the targets (%)", GREEN, 100),
    _Curve(("usage",), "prototypes in use (%)", SKY, 100, True),
    _Curve(("spread",), "spread of the features", MUTED, 1, True),
    _Curve(("lr", "rate", "learning_rate"), "learning rate", MUTED, 1, True),
    _Curve(("images_per_second",), "images per second", OCHRE, 1, True),
)


def training_chart(log: Log, name: str = "training") -> Chart | None:
    """One small panel for each figure that the log has: thin line as logged, thick line its running mean; or None."""
    found = [(curve, key) for curve in _CURVES if (key := _first(curve, log)) is not None]
    if not found:
        return None

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        columns = 1 if narrow or len(found) == 1 else 2
        rows = -(-len(found) // columns)
        set_height(figure, rows * (150 if narrow else 185) + 20)
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
        for number, (axis, (curve, key)) in enumerate(zip(axes, found, strict=False)):
            steps, values = log.curve(key)
            values = [value * curve.factor for value in values]
            window = _window(values)
            if window > 1:
                axis.plot(steps, values, color=curve.ink.light, linewidth=0.8, alpha=0.35)
            lone = {"marker": "o"} if len(values) < 12 else {}
            axis.plot(steps, smoothed(values, window), color=curve.ink.light, **lone)
            axis.set_title(curve.title, fontsize=12, fontweight="normal")
            if curve.from_zero:
                axis.set_ylim(bottom=0)
            if curve.factor == 100:  # a share: there is nothing above all of it
                axis.set_ylim(top=100 if curve.to_all else min(100, axis.get_ylim()[1]))
            axis.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            if number >= len(found) - columns:
                axis.set_xlabel("step")
                axis.tick_params(labelbottom=True)
        for axis in axes[len(found) :]:
            axis.remove()

    keys = [key for _, key in found]
    noisy = any(_window(log.curve(key)[1]) > 1 for key in keys)
    return Chart(
        name,
        "The course of the training",
        "Thin lines are the figures as logged, thick lines their running mean." if noisy else _AS_LOGGED,
        _alt(log, [(curve, key) for curve, key in found]),
        DataTable(
            ("step", *keys),
            tuple((int(entry["step"]), *(entry.get(key) for key in keys)) for entry in log.steps),
        ),
        draw,
    )


def smoothed(values: list[float], window: int) -> list[float]:
    """Centred running mean over `window` values (odd; fewer at the ends), for noisy curves."""
    half = window // 2
    result = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        part = values[i - reach : i + reach + 1]
        result.append(sum(part) / len(part))
    return result


def _window(values: list[float]) -> int:
    """How many values the running mean is taken over: a twenty-fifth of the run, odd."""
    return max(1, len(values) // 25) | 1


def _first(curve: _Curve, log: Log) -> str | None:
    return next((key for key in curve.keys if log.curve(key)[0]), None)


def _alt(log: Log, found: list[tuple[_Curve, str]]) -> str:
    if not found:
        return "Nothing was logged."
    courses = []
    for curve, key in found:
        _, values = log.curve(key)
        few = max(1, len(values) // 10)
        begin = curve.factor * sum(values[:few]) / few
        end = curve.factor * sum(values[-few:]) / few
        courses.append(f"{curve.title} from {begin:.3g} to {end:.3g}")
    return f"Over {log.steps[-1]['step'] + 1} steps: {listed(courses)} (means of the first and last tenth)."
