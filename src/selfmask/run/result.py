"""What a run found, as `result.json` keeps it: written and read by one type."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import RunError
from selfmask.features.agreement import Agreement
from selfmask.features.forecast import Forecast
from selfmask.features.intervals import paired_interval
from selfmask.features.measure import HeadCost
from selfmask.features.rows import NOT_MEASURED, Estimate, Rows, Verdict
from selfmask.run.log import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class MaskSummary:
    """All masked tensors together: see `masking.status.Status`."""

    weights: int
    on: int
    density: float
    flipped: int
    steps: int
    packed_bytes: int
    entropy_bytes: int
    norms: int = 0


@dataclass(frozen=True)
class Check:
    """The masked head beside the probe of the untouched network, both on training images held out.

    gain: the paired difference in top-1. kept: whether the mask is passed off as a result.
    """

    images: int
    gain: Estimate
    kept: bool

    @classmethod
    def of(cls, masked: Tensor, untouched: Tensor) -> Check:
        """From which of the images each got right, bool (N,).

        A mask is not kept where it is worse by more than the interval, or by more than a point and more than one image.
        """
        gain = Estimate(*paired_interval(masked, untouched))
        lost = int(untouched.sum()) - int(masked.sum())
        worse = gain.high < 0 or (gain.value < -0.01 and lost > 1)
        return cls(len(masked), gain, not worse)


@dataclass(frozen=True)
class RateTried:
    """How a training at one peak rate of the scores does on the images held out, by its head.

    right: the share of them, in [0, 1]. loss: the mean cross-entropy, nats; None where the training diverged.
    """

    rate: float
    right: float
    loss: float | None


@dataclass(frozen=True)
class Spent:
    """What a file of so many bytes gave up, and what that costs.

    record: what its metadata has under "budget"; None where the whole file fits. file: its bytes.
    images: labelled images held out that the cost was measured on, 0 where there are none or there is no linear head.
    change: the paired difference in the head's top-1 to the whole network; None where it was not measured.
    """

    max_bytes: int
    file: int
    record: dict[str, Any] | None
    images: int = 0
    change: Estimate | None = None

    def __str__(self) -> str:
        said = f"{self.file:,} of {self.max_bytes:,} bytes"
        if self.record is None:
            return f"{said}: nothing was given up"
        said += f", whole {self.record['whole']:,}: " + left_in_words(self.record)
        if self.change is None:
            return f"{said}; what that costs was not measured"
        value, low, high = (100 * end for end in (self.change.value, self.change.low, self.change.high))
        return (
            f"{said}; top-1 on {self.images} images held out {value:+.1f} points ({low:+.1f} to {high:+.1f})"
        )


def left_in_words(record: Mapping[str, Any]) -> str:
    """What a file within a budget still has, by what it records under "budget".

    >>> left_in_words({"head": 3, "norms": [2, 4], "off": 12, "left_out": ["rule"]})
    'head in 3 bits, norm weights in 2 to 4 bits, 12 weights off; metadata without rule'
    """
    left = [f"head in {record['head']} bits"] if record["head"] else []
    if record["norms"]:
        fewest, most = (str(record["norms"][end]) for end in (0, -1))
        left.append(f"norm weights in {fewest if fewest == most else f'{fewest} to {most}'} bits")
    left.append(f"{record['off']:,} weights off")
    without = f"; metadata without {', '.join(map(str, record['left_out']))}" if record["left_out"] else ""
    return ", ".join(left) + without


@dataclass(frozen=True)
class Seconds:
    """training: of all stretches of a run that was stopped and resumed (of a cascade: of the last call). total: of the
    last stretch, all included.
    """

    training: float
    total: float


@dataclass(frozen=True)
class Cluster:
    """One cluster: how many of its images have a label, its classes from the most common one down, and
    `covered[x - 1]`, the share of the labelled images, in [0, 1], that its x most common classes make up."""

    expert: int
    images: int
    labelled: int
    classes: tuple[str, ...]
    covered: tuple[float, ...]


@dataclass(frozen=True)
class CascadePart:
    """What only a cascade has.

    expert_training: of each expert images, batch, steps, rate and the density that it found.
    passes: forward passes an image, by row. storage: see `cascade.evaluation.storage`.
    """

    experts: int
    router: str
    expert_training: tuple[dict[str, float], ...]
    passes: dict[str, int]
    storage: dict[str, Any]
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True)
class Result:
    """A finished run.

    training: what the mask file's metadata has under "training". rows: None where nothing could be measured.
    verdict: what that comes to. progress: how far the objective itself came, whether or not there were labels.
    check: how the mask stood the check on images held out, if there was one.
    agreement: how it stood measures without labels, of an objective that needs none.
    forecast: what was to be expected of that objective, said before it trained.
    crop: what evaluation views show of an image, the share of its short side, in all rows alike; it was chosen on the
        untouched network.
    rates: those that `--search-lr` tried, in their order; empty without it.
    spent: what was given up for `--max-bytes`. masks: None for a cascade.
    bytes: of the file that the run is about, by part. command: the words that make this run.
    warnings: what a user should see: how the data was split, what could not be measured or drawn.
    """

    data: str
    backbone: str | None
    objective: str
    seed: int
    size: int
    training: dict[str, Any]
    rows: Rows | None
    bytes: dict[str, int]
    seconds: Seconds
    command: tuple[str, ...]
    versions: dict[str, str]
    machine: dict[str, str]
    verdict: Verdict = NOT_MEASURED
    progress: Progress | None = None
    check: Check | None = None
    agreement: Agreement | None = None
    forecast: Forecast | None = None
    rates: tuple[RateTried, ...] = ()
    spent: Spent | None = None
    crop: float | None = None
    masks: MaskSummary | None = None
    head_cost: HeadCost | None = None
    cascade: CascadePart | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def kept(self) -> bool:
        """Whether the mask is in `mask.safetensors`, and not in `rejected.mask.safetensors`."""
        return self.check is None or self.check.kept

    def document(self) -> dict[str, Any]:
        """As JSON-able data."""
        return msgspec.to_builtins(self)

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_json(path, self.document())

    @classmethod
    def read(cls, path: Path) -> Result:
        """What `write` wrote. Raises `RunError`, naming the place, where it is damaged or something else."""
        return read_as(path, cls, "is not a result of this program")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    try:
        write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + os.linesep).encode())
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; make room and go on with --resume"
        ) from error


def read_as(path: Path, kind: type[T], wrong: str) -> T:
    """What `write_json` wrote of a `kind`. Raises `RunError` where it is none, saying that `path` `wrong`."""
    try:
        return msgspec.convert(read_json(path), kind)
    except (msgspec.ValidationError, UnicodeError) as error:  # half a character is no text to msgspec
        raise RunError(f"{path} {wrong}: {error}") from error


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises `RunError` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON's")
