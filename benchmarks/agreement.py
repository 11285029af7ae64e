"""Measures that need no labels beside the gain that labels tell, for runs that gained and runs that did not.

    python benchmarks/label_free.py --out runs/label_free                 # runs that gain
    python benchmarks/agreement.py --out runs/agreement runs/label_free   # and some that may not

Each run's mask is looked at as `adapt` does it; what is found is kept in docs/agreement.json. Needs the folder
`shared` beside the repository.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from label_free import BACKBONES, DATA, DOCS

from selfmask.features.rows import Estimate, Verdict
from selfmask.run.adapt import learn_mask
from selfmask.run.agreement import FirstLook
from selfmask.run.folder import RunFolder
from selfmask.run.plan import make_plan
from selfmask.run.result import write_json
from selfmask.run.settings import AdaptSettings

BARE = {"pull": 0.0, "colours": 0.0}
TRIALS: dict[str, dict[str, Any]] = {
    "clothing-bare": DATA["clothing"] | {"images": 1500, "objective_settings": BARE},
    "cifar-hot": DATA["cifar10"] | {"images": 2000, "lr": 0.06},
    "clothing-swav": DATA["clothing"] | {"images": 1500, "objective": "swav"},
    "cifar-swav": DATA["cifar10"] | {"images": 2000, "objective": "swav"},
    "signs-hot": DATA["gtsrb"] | {"images": 2000, "lr": 0.08},
    "signs-distil": DATA["gtsrb"] | {"images": 2000, "objective": "distil"},
    "digits-bare": DATA["digits"] | {"objective_settings": BARE},
    "dtd-bare": DATA["dtd10"] | {"objective_settings": {"pull": 0.0}},
    "vit-clothing": DATA["clothing"] | BACKBONES["vit-s14"] | {"images": 1000},
}
"""Too bold, without what holds it back, or an objective that is not made for so few images; seed 0."""


def learn(out: Path, name: str) -> Path:
    """The folder of a trial's run, learnt where it is not there."""
    if not (out / name / "result.json").is_file():
        chosen: dict[str, Any] = {"objective": "contrast"} | TRIALS[name]
        learn_mask(
            AdaptSettings(**chosen, out=out / name, seed=0, held_out=0, statistics=False, larger=False)
        )
    return out / name


def looked_at(place: Path) -> dict[str, Any]:
    """A run's gain in k-NN as (value, low, high), the measures without labels, and the verdict on trained images."""
    folder = RunFolder(place)
    result, recorded = folder.result(), folder.recorded()
    assert result.rows is not None
    gain = result.rows["masked"].knn_gain
    assert gain is not None
    kept = ("data", "backbone", "weights", "mirror", "seed", "objective", "images", "held_out")
    same = {key: recorded[key] for key in kept}
    plan = make_plan(AdaptSettings(**same, size=result.size))
    unsplit = replace(plan, splits=replace(plan.splits, test=None))
    first, trained = FirstLook.of(plan), FirstLook.of(unsplit)
    assert first is not None
    assert trained is not None
    with folder.mask().apply(plan.backbone.module):
        found, fitted = first.beside(plan), trained.beside(plan)
    return {
        "run": place.name, "objective": result.objective, "gain": [gain.value, gain.low, gain.high],
        "kind": found.kind, "trained": fitted.kind, **asdict(found),
    }  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, the runs in the order of their gain, and how often the verdict had the sign of a clear gain."""
    lines = [
        "| run | gain by labels, points | views found | neighbours shared | without labels | on images trained on |",
        "|---|---|---|---|---|---|",
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
            f"| {one['run']} | {value:+.1f} ({low:+.1f} to {high:+.1f}) | {views} | {shared} | {one['kind']} "
            f"| {one['trained']} |"
        )
    return "\n".join([*lines, "", f"{right} of {clear} clear gains and losses have their sign."])


def main() -> None:
    """Learn what is missing, look at what was not looked at, print the table."""
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
    others = [
        place for runs in asked.runs for place in sorted(runs.iterdir()) if (place / "result.json").is_file()
    ]
    for place in [*(learn(asked.out, name) for name in TRIALS), *others]:
        if place.name not in {one["run"] for one in known}:
            known.append(looked_at(place))
            write_json(asked.keep, known)
    print(table(known))


if __name__ == "__main__":
    main()
