"""The table that every adaptation is judged by, as numbers, JSON and a table to print, and what it comes to.

Rows: pretrained, the same whitened and at a larger size, statistics only, masked, the same whitened, full fine-tuning
and norm weights alone (if asked). Each accuracy carries its 95 % interval, each row after the first its paired
difference to the first; the masked network also that to the untouched network at its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rich.table import Table
from torch import Tensor

from selfmask._common.units import signed
from selfmask.errors import DataError
from selfmask.features.intervals import accuracy_interval, paired_interval

PRETRAINED = "pretrained"
WHITENED = "whitened"
STATISTICS_ONLY = "statistics only"
MASKED = "masked"
FULL_FINE_TUNING = "full fine-tuning"
NORMS_ALONE = "norm weights alone"

_MEASURES = {"knn": "k-NN", "probe": "linear probe", "head": "head"}


@dataclass(frozen=True)
class Outcome:
    """Which test images a network got right, bool (M,) each, in the test set's order; None: not measured."""

    name: str
    knn: Tensor | None = None
    probe: Tensor | None = None
    head: Tensor | None = None


@dataclass(frozen=True)
class Estimate:
    """An accuracy in [0, 1] or a difference of two in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Row:
    """One network: accuracies, and their differences from the first row (None in the first row itself).

    The trained head is compared with the first row's probe: the pretrained network has no head of its own,
    and its probe is the best linear head on it.
    """

    name: str
    knn: Estimate | None = None
    probe: Estimate | None = None
    head: Estimate | None = None
    knn_gain: Estimate | None = None
    probe_gain: Estimate | None = None
    head_gain: Estimate | None = None


@dataclass(frozen=True)
class Rival:
    """The untouched network at its best: the row of the highest accuracy that can be had without a mask.

    row: its name. accuracy: its own. ours: the row of the masked network that is compared with it. gain: that row's
    paired difference to it. measure: what both are compared by.
    """

    row: str
    accuracy: Estimate
    ours: str
    gain: Estimate
    measure: Literal["knn", "probe"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison comes to, as every command says it. `sentence` is one sentence or two, for a reader."""

    kind: Literal["better", "worse", "no different", "not measured"]
    sentence: str

    @property
    def words(self) -> str:
        """The same in two or three words, or none."""
        return {"better": "It helped.", "worse": "It harmed.", "no different": "No clear difference."}.get(
            self.kind, ""
        )

    @classmethod
    def on(cls, gain: Estimate, subject: str, measure: str) -> Verdict:
        """Of `subject`, by its paired difference in `measure`: "better" is better by more than the interval."""
        kind = "better" if gain.low > 0 else "worse" if gain.high < 0 else "no different"
        within = ", within the interval" if kind == "no different" else ""
        value, low, high = signed(gain.value), signed(gain.low), signed(gain.high)
        return cls(
            kind,
            f"{subject} is {kind}{within}: {value} points of {measure} (95 % interval {low} to {high}).",
        )

    def beside(self, rival: Rival) -> Verdict:
        """The same, with a sentence on the rival: a gain counts only beside the best that could be had for less."""
        name = {"knn": "k-NN", "probe": "linear probe"}[rival.measure]
        best = f"the untouched network at its best, {rival.row} ({name} {rival.accuracy.value:.3f})"
        found = Verdict.on(rival.gain, f"Beside {best}, {rival.ours}", "top-1")
        advice = "" if found.kind == "better" else " Where that can be had, keep the untouched network."
        return Verdict(self.kind, f"{self.sentence} {found.sentence}{advice}")


NOT_MEASURED = Verdict(
    "not measured",
    "Nothing was measured: that needs labels on some training images and on some test images.",
)
STOPPED = Verdict("not measured", "Nothing was measured: the run was stopped before it could be.")


@dataclass(frozen=True)
class Rows:
    """The rows of one comparison on `images` test images."""

    rows: tuple[Row, ...]
    images: int
    rival: Rival | None = None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], judged: str = MASKED) -> Rows:
        """Intervals and paired differences of `outcomes`; the first is what the others are compared with.

        judged: the row that the untouched network at its best is held against, as it is or whitened.
        """
        if not outcomes:
            raise DataError("a table of results needs at least one row, got none")
        counts = {len(right) for outcome in outcomes for right in _measured(outcome).values()}
        if len(counts) != 1:
            raise DataError(
                f"all rows must be measured on the same test images, got {sorted(counts)} of them"
                if counts
                else "nothing was measured: give each row a k-NN, probe or head result"
            )
        first = _measured(outcomes[0])
        reference = ({"head": first["probe"]} if "probe" in first else {}) | first
        rows = [_row(outcome, reference if index else {}) for index, outcome in enumerate(outcomes)]
        return cls(tuple(rows), counts.pop(), _rival(outcomes, judged))

    def with_rivals_of(self, before: Rows | None) -> Rows:
        """With what was trained beside the same mask `before`, and has no row now."""
        if before is None or before.rows[0] != self.rows[0]:
            return self
        there, rivals = {row.name for row in self.rows}, (FULL_FINE_TUNING, NORMS_ALONE)
        kept = [row for row in before.rows if row.name in rivals and row.name not in there]
        return replace(self, rows=(*self.rows, *kept))

    def __getitem__(self, name: str) -> Row:
        """The row of that name; `KeyError` names those that exist."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; the table has {', '.join(row.name for row in self.rows)}")

    def verdict(self, name: str = MASKED, subject: str = "The masked network") -> Verdict:
        """What the row `name` comes to beside the first: its head against the probe there, else k-NN by k-NN."""
        row = next((row for row in self.rows if row.name == name), None)
        if row is None or (row.head_gain is None and row.knn_gain is None):
            return Verdict("not measured", f"{subject} was not measured.")
        kind, _, size = self.rows[0].name.partition(", ")
        features = f"the {kind} features" + (f" at {size}" if size else "")
        if row.head_gain is not None:
            found = Verdict.on(row.head_gain, subject, f"top-1 against the linear probe on {features}")
            if found.kind != "better" and row.knn_gain is not None and row.knn_gain.low > 0:
                also = Verdict.on(row.knn_gain, "As embeddings it", "k-NN")
                found = Verdict(found.kind, f"{found.sentence} {also.sentence}")
        else:
            assert row.knn_gain is not None
            found = Verdict.on(row.knn_gain, subject, f"k-NN top-1 against {features}")
        if self.rival is None or not _is(name, self.rival.ours) or self.rival.row == self.rows[0].name:
            return found
        return found.beside(self.rival)

    def to_json(self) -> dict[str, Any]:
        """`{"images": M, "rows": [{"name", "knn": {"value", "low", "high"}, …}], "rival"}`; None: not measured."""
        rival = None if self.rival is None else asdict(self.rival)
        return {"images": self.images, "rows": [asdict(row) for row in self.rows], "rival": rival}

    def table(self) -> Table:
        """A table for a terminal of 80 columns; measures that no row has are left out.

        Each cell: the accuracy, its interval, and below them the difference from the first row with its interval.
        """
        title = f"top-1 on {self.images} test images; below, Δ to {self.rows[0].name}; 95 % intervals"
        table = Table(title=title, title_justify="left", show_lines=True)
        table.add_column("network")  # the one that gives way where a line is full
        shown = [key for key in _MEASURES if any(getattr(row, key) is not None for row in self.rows)]
        for key in shown:
            table.add_column(_MEASURES[key], no_wrap=True)
        for row in self.rows:
            cells: list[str] = []
            for key in shown:
                accuracy, gain = getattr(row, key), getattr(row, f"{key}_gain")
                lines = ["–"] if accuracy is None else str(accuracy).replace("[", r"\[").split(" ", 1)
                if gain is not None:
                    lines += _signed(gain)
                cells.append("\n".join(lines))
            table.add_row(row.name, *cells)
        return table


def _measured(outcome: Outcome) -> dict[str, Tensor]:
    found = {key: getattr(outcome, key) for key in _MEASURES}
    return {key: right for key, right in found.items() if right is not None}


def _rival(outcomes: Sequence[Outcome], judged: str) -> Rival | None:
    """The best of the untouched rows by the measure that the row `judged` is judged by; None without such rows.

    The masked network's own head against their probes, else k-NN by k-NN, each side with the best of its rows.
    """
    heads = _right(outcomes, judged, "head")
    measure: Literal["knn", "probe"] = "probe" if heads else "knn"
    ours, theirs = heads or _right(outcomes, judged, measure), _right(outcomes, PRETRAINED, measure)
    if not ours or not theirs:
        return None
    own, best = (max(rows, key=lambda name: float(rows[name].float().mean())) for rows in (ours, theirs))
    accuracy, gain = accuracy_interval(theirs[best]), paired_interval(ours[own], theirs[best])
    return Rival(best, Estimate(*accuracy), own, Estimate(*gain), measure)


def _right(outcomes: Sequence[Outcome], kind: str, measure: str) -> dict[str, Tensor]:
    """What the rows of `kind`, whatever a comma and more follows it, got right by `measure`, by name."""
    rows = (outcome for outcome in outcomes if _is(kind, outcome.name))
    return {row.name: right for row in rows if (right := getattr(row, measure)) is not None}


def _is(kind: str, name: str) -> bool:
    """Whether the row `name` is the row `kind`, or that with more said behind a comma: whitened, or at a size."""
    return name == kind or name.startswith(f"{kind}, ")


def _row(outcome: Outcome, reference: dict[str, Tensor]) -> Row:
    estimates: dict[str, Estimate] = {}
    for key, right in _measured(outcome).items():
        estimates[key] = Estimate(*accuracy_interval(right))
        if key in reference:
            estimates[f"{key}_gain"] = Estimate(*paired_interval(right, reference[key]))
    return Row(outcome.name, **estimates)


def _signed(gain: Estimate) -> list[str]:
    """Bold where the interval leaves out zero, which is what "better by more than the interval" means."""
    texts = [f"{gain.value:+.3f}", rf"\[{gain.low:+.3f}, {gain.high:+.3f}]"]
    texts = [text.replace("-", "−") for text in texts]
    return [f"[bold]{text}[/bold]" for text in texts] if gain.low > 0 or gain.high < 0 else texts
