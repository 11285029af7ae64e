"""Measures that need no labels beside the gain that labels tell, for runs that gained and runs that did not.

What is told after a run by both networks, and before it by the untouched one alone (`features.forecast`).

    python benchmarks/label_free.py --out runs/label_free                 # runs that gain
    python benchmarks/agreement.py --out runs/agreement runs/label_free   # and some that may not

What each run found is kept in docs/agreement.json. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from assets import DOCS
from label_free_cells import BACKBONES, DATA

from selfmask.features.forecast import LIMITS
from selfmask.features.rows import Estimate, Verdict
from selfmask.run.adapt import learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings

CHOSEN = ("objective_settings", "optimizer", "lr", "epochs", "steps")
"""What a run leaves open that is as the objective is by default."""
BARE = {"pull": 0.0, "colours": 0.0}
TRIALS: dict[str, dict[str, Any]] = {
    "clothing-bare": DATA["clothing"] | {"images": 1500, "objective_settings": BARE},
    "cifar-hot": DATA["cifar10"] | {"images": 2000, "lr": 0.06},
    "clothing-swav-short": DATA["clothing"] | {"images": 1500, "objective": "swav", "steps": 150},
    "cifar-swav-short": DATA["cifar10"] | {"images": 2000, "objective": "swav", "steps": 150},
    "signs-hot": DATA["gtsrb"] | {"images": 2000, "lr": 0.08},
    "signs-distil": DATA["gtsrb"] | {"images": 2000, "objective": "distil"},
    "digits-bare": DATA["digits"] | {"objective_settings": BARE},
    "dtd-bare": DATA["dtd10"] | {"objective_settings": {"pull": 0.0}},
    "signs-128": DATA["gtsrb"] | {"images": 1500, "size": 128},
    "clothing-128": DATA["clothing"] | {"images": 1500, "size": 128},
    "dtd-160": DATA["dtd10"] | {"size": 160},
    "vit-clothing": DATA["clothing"] | BACKBONES["vit-s14"] | {"images": 1000},
}
"""Too bold, without what holds it back, with an objective that is not made for so few images, or at a size where there
is little to gain; seed 0."""


def learn(out: Path, name: str) -> Path:
    """The folder of a trial's run, learnt where it is not there."""
    if not (out / name / "result.json").is_file():
        chosen: dict[str, Any] = {"objective": "contrast"} | TRIALS[name]
        learn_mask(
            AdaptSettings(**chosen, out=out / name, seed=0, held_out=0, statistics=False, larger=False)
        )
    return out / name


def told(place: Path) -> dict[str, Any]:
    """Of a finished run its gain in k-NN as (value, low, high), the measures without labels, and their verdict."""
    folder = RunFolder(place)
    result, recorded = folder.result(), folder.recorded()
    assert result.rows is not None
    assert result.agreement is not None
    gain = result.rows["masked"].knn_gain
    assert gain is not None
    return {
        "run": place.name, "data": Path(recorded["data"]).name, "backbone": result.backbone, "size": result.size,
        "objective": result.objective, "plain": not any(recorded[name] for name in CHOSEN),
        "gain": [gain.value, gain.low, gain.high],
        "kind": result.agreement.kind, **asdict(result.agreement),
    }  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, the runs in the order of their gain, and how often the verdict had the sign of a clear gain."""
    lines = [
        "| run | gain by labels, points | views found | neighbours shared | without labels |",
        "|---|---|---|---|---|",
    ]
    right = clear = 0
    for one in sorted(found, key=lambda one: one["gain"][0]):
        value, low, high = (100 * x for x in one["gain"])
        truth = Verdict.on(Estimate(*one["gain"]), "the mask", "k-NN").kind
        clear += truth != "no different"
        right += truth != "no different" and one["kind"] == truth
        views, shared = (
            " → ".join(f"{100 * x:.0f} %" for x in pair) if pair else "–"
            for pair in (one["found"], one["shared"])
        )
        lines.append(
            f"| {one['run']} | {value:+.1f} ({low:+.1f} to {high:+.1f}) | {views} | {shared} | {one['kind']} |"
        )
    return "\n".join([*lines, "", f"{right} of {clear} clear gains and losses have their sign."])


@dataclass(frozen=True)
class Cell:
    """Runs of one objective as it is by default, on one data set. share: what `LIMITS` goes by; None: not taken."""

    objective: str
    data: str
    backbone: str
    size: int
    share: float | None
    gain: float


def cells_of(found: Sequence[dict[str, Any]]) -> list[Cell]:
    """Of several runs of a cell the one of the middle gain counts, of two the lesser."""
    runs: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for one in sorted((one for one in found if one["plain"]), key=lambda one: one["gain"][0]):
        runs.setdefault((one["objective"], one["data"], one["backbone"], one["size"]), []).append(one)
    middle = {at: some[(len(some) - 1) // 2] for at, some in sorted(runs.items())}
    return [Cell(*at, (one[LIMITS[at[0]][0]] or [None])[0], one["gain"][0]) for at, one in middle.items()]


def limit_of(cells: Sequence[Cell]) -> float:
    """The share below which an objective gained, with the fewest errors; of several limits that with the most room."""
    known = [(cell.share, cell.gain > 0) for cell in cells if cell.share is not None]
    rooms = itertools.pairwise([0.0, *sorted(share for share, _ in known), 1.0])
    tried = [((low + high) / 2, high - low) for low, high in rooms]
    wrong = [sum((share < limit) != gained for share, gained in known) for limit, _ in tried]
    return min(zip(wrong, tried, strict=True), key=lambda one: (one[0], -one[1][1]))[1][0]


def foretold(cells: Sequence[Cell]) -> str:
    """Markdown: each cell, and whether the other data sets' limit tells its gain."""
    lines = [
        "| objective | data | backbone | px | told by | gain, points | by the other sets |",
        f"|{'---|' * 7}",
    ]
    right = asked = 0
    for own in cells:
        others = [cell for cell in cells if cell.objective == own.objective and cell.data != own.data]
        if own.share is None or not others:
            continue
        limit = limit_of(others)
        agrees = (own.share < limit) == (own.gain > 0)
        asked, right = asked + 1, right + agrees
        lines.append(
            f"| {own.objective} | {own.data} | {own.backbone.partition(':')[2]} | {own.size} "
            f"| {LIMITS[own.objective][0]} {100 * own.share:.0f} % | {100 * own.gain:+.1f} "
            f"| limit {100 * limit:.0f} %: {'right' if agrees else 'wrong'} |"
        )
    whole = {name: [cell for cell in cells if cell.objective == name] for name in LIMITS}
    limits = ", ".join(f"{name} {100 * limit_of(some):.0f} %" for name, some in whole.items() if some)
    return "\n".join([*lines, "", f"{right} of {asked} signs are right. By all sets: {limits}."])


def main() -> None:
    """Learn what is missing, keep what is new, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=Path("runs/agreement"), help="the trials' folders")
    parser.add_argument("--keep", type=Path, default=DOCS / "agreement.json")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    known: list[dict[str, Any]] = json.loads(asked.keep.read_text()) if asked.keep.is_file() else []
    there = {one["run"] for one in known}
    others = (
        place for runs in asked.runs for place in sorted(runs.iterdir()) if (place / "result.json").is_file()
    )
    trials = (learn(asked.out, name) for name in TRIALS if name not in there)
    for place in itertools.chain(others, trials):
        if place.name not in there:
            known.append(told(place))
            write_json(asked.keep, known)
    print(table(known))
    print()
    print(foretold(cells_of(known)))


if __name__ == "__main__":
    main()
