"""What every table and figure here is made of: cells. A cell is one training, or one untouched network, measured.

Each is one JSON file in a folder of runs; one that is there is not run again. A cell that is stopped in its training
goes on from its checkpoint.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from selfmask.errors import RunError
from selfmask.masking.rules import Threshold
from selfmask.run.result import read_json, write_json

SHARED = Path(__file__).resolve().parents[2] / "shared"
Found = dict[str, Any]
Measure = Literal["head", "knn", "probe", "low-shot"]

DATA: dict[str, dict[str, Any]] = {
    "CIFAR-10": {"data": str(SHARED / "data/cifar10")},
    "clothing": {"data": str(SHARED / "data/clothing")},
    "DTD": {"data": str(SHARED / "data/dtd10")},
    "signs": {"data": str(SHARED / "data/gtsrb"), "mirror": False},
    "digits": {"data": "digits", "mirror": False},
}
BACKBONES: dict[str, dict[str, Any]] = {
    "EfficientNet-Lite0": {},
    "ResNet-18": {"backbone": "timm:resnet18", "weights": SHARED / "weights/resnet18_in1k.safetensors"},
    "ResNet-50": {"backbone": "keras:resnet50", "weights": SHARED / "weights/resnet50_in1k.safetensors"},
    "ViT-S/14": {
        "backbone": "timm:vit_small_patch14_dinov2",
        "weights": SHARED / "weights/vit_small_patch14_dinov2_224.safetensors",
    },
}
PATCH = {"ViT-S/14": 14}


@dataclass(frozen=True)
class Cell:
    """One training to be measured.

    tags: what tables ask by, and what its file is called. settings: of `AdaptSettings`, beyond those of the data and
    the backbone. how: what is trained; "untouched" is measured only. measures: on the test images. rule: a threshold
    of its own. found: the cell whose densities the rule takes, tensor by tensor; it comes before this one.
    keep: what the JSON file has beside the rest: densities of the "layers", the "log" of the training.
    test: test images at most.
    """

    data: str
    backbone: str
    seed: int
    tags: Mapping[str, str]
    settings: Mapping[str, Any]
    how: Literal["masks", "full", "untouched", "cascade"] = "masks"
    measures: tuple[Measure, ...] = ("head",)
    rule: Threshold | None = None
    found: Cell | None = None
    keep: tuple[Literal["layers", "log"], ...] = ()
    test: int = 400

    @property
    def name(self) -> str:
        """Of its file, and of its folder."""
        words = [self.data, self.backbone, *self.tags.values(), str(self.seed)]
        return re.sub(r"[^\w.]+", "-", "-".join(words).lower()).strip("-")

    def asked(self, out: Path) -> dict[str, Any]:
        """All that is given of `AdaptSettings`."""
        data = DATA.get(self.data, {"data": self.data})
        backbone = BACKBONES.get(self.backbone, {"backbone": self.backbone})
        given = {**data, **backbone, **self.settings, "seed": self.seed}
        if "size" in given and self.backbone in PATCH:
            given["size"] = given["size"] // PATCH[self.backbone] * PATCH[self.backbone]
        if self.found is not None:
            given["density_from"] = out / self.found.name / "mask.safetensors"
        return given


@dataclass(frozen=True)
class Stretch:
    """So long may a command take, in seconds, before it ends by itself to be called again; None for no limit."""

    seconds: float | None
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether nothing new should be begun."""
        return self.seconds is not None and time.monotonic() - self.began > self.seconds

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the end of the stretch is a Ctrl-C: a training writes its checkpoint and stops."""
        left = None if self.seconds is None else max(1.0, self.seconds - (time.monotonic() - self.began))

        def stop(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, left or 0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def fill(cells: Sequence[Cell], out: Path, stretch: Stretch) -> bool:
    """Run what is missing, in order; False where the stretch ended before all was done."""
    from learning import learn  # torch is not needed to list or to draw what is there

    for cell in cells:
        path = out / f"{cell.name}.json"
        if path.is_file():
            continue
        if stretch.over:
            return False
        try:
            with stretch.watched():
                found = learn(cell, out)
        except KeyboardInterrupt:  # also one that comes when the cell has just been learnt
            found = None
        if found is None:
            return False
        write_json(path, found)
        said = ", ".join(
            f"{k} {found[k]:.4f}" for k in ("before", "head", "knn", "probe", "density") if k in found
        )
        print(f"{cell.name}: {said} ({found['seconds']['total']:.0f} s)", flush=True)
    return True


def gathered(cells: Sequence[Cell], out: Path) -> list[Found]:
    """What is there of the cells, in their order."""
    return [read_json(path) for cell in cells if (path := out / f"{cell.name}.json").is_file()]


def pick(found: Sequence[Found], **tags: Any) -> list[Found]:
    """Those cells that have all these tags."""
    return [one for one in found if all(one.get(k) == v for k, v in tags.items())]


def values(found: Sequence[Found], key: str) -> list[float]:
    """One figure of each cell; none where cells lack it."""
    return [one[key] for one in found if key in one]


def spread(numbers: Sequence[float], digits: int = 3, scale: float = 1) -> str:
    """Mean, and standard deviation where there are several; a dash for none."""
    if not numbers:
        return "–"
    text = f"{scale * mean(numbers):.{digits}f}"
    return text if len(numbers) < 2 else f"{text} ± {scale * stdev(numbers):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    if any(len(row) != len(head) for row in rows):
        raise RunError(f"a row has another length than the table's head: {head}")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def seeds(found: Sequence[Found]) -> list[int]:
    """The seeds of the cells."""
    return sorted({one["seed"] for one in found})
