"""The appendix's Table 2 at a budget of minutes: the threshold rule against top-k.

    python paper/table2/run.py --shared ../shared --out runs/table2 --scan     # chooses the rules' settings
    python paper/table2/run.py --shared ../shared --out runs/table2

Two data sets, three seeds, four rules; "found" are the densities, tensor by tensor, of the threshold's own mask of that
data set and seed. A run that is finished is not run again. Once everything is there it prints the table as Markdown and
writes it, and all values as JSON, beside this file: `scan.md` and `scan.json`, then `table2.md` and `table2.json`.

No label teaches a mask, as in the paper's Table 2, but with `selfmask adapt`'s own label-free objective in place of
SwAV, which needs far more steps (docs/label-free.md). Labels serve to measure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Literal

import cyclopts
import torch
from rich.console import Console

from selfmask.errors import SettingsError
from selfmask.features.measure import measure
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.loading import load
from selfmask.masking.norm import NormStats
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Method
from selfmask.objectives.distil import Distil
from selfmask.run.build import build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.provenance import machine, versions
from selfmask.run.result import read_json, write_json
from selfmask.run.settings import AdaptSettings

OBJECTIVE = "distil"
HERE = Path(__file__).resolve().parent
DONE = "run.json"
DATA: dict[str, dict[str, Any]] = {
    "cifar10": {"images": 2500, "size": 64, "steps": 156},
    "clothing": {"size": 64, "steps": 150},
}


@dataclass(frozen=True)
class Recipe:
    """A rule with its setting. `density` is the threshold's own ("free"), a share, the threshold's densities from the
    start ("found"), or falling to them over the run ("progressive"). A rate of None is `selfmask adapt`'s default.
    """

    density: float | Literal["free", "found", "progressive"]
    init: Literal["random", "magnitude"] = "random"
    method: Method = "adam"
    rate: float | None = None
    norm_stats: NormStats = "frozen"

    def rule(self, found: Mapping[str, float], steps: int) -> Rule:
        """The rule of the mask set; `found` holds the densities by tensor where the recipe asks for them."""
        if self.density == "free":
            return Threshold(spread=Distil.recipe_for(self.method).spread)
        if self.density == "found":
            return TopK(found, self.init)
        if self.density == "progressive":
            return TopK(Progressive(end=found, steps=steps), self.init)
        return TopK(self.density, self.init)

    def label(self) -> str:
        """For a row of the scan."""
        rate = "default" if self.rate is None else f"{self.rate:g}"
        scores = "" if self.density == "free" else f", {self.init} scores"
        return f"{self.method}, {rate}{scores}, batch norms {self.norm_stats}"


SCAN: dict[str, tuple[Recipe, ...]] = {
    "threshold": (Recipe("free"), Recipe("free", rate=0.03)),
    "top-k 50 %": (
        Recipe(0.5, "magnitude", rate=0.05),
        Recipe(0.5, "magnitude", norm_stats="adapt"),
        Recipe(0.5, "magnitude", rate=0.05, norm_stats="adapt"),
        Recipe(0.5, "magnitude", rate=0.1, norm_stats="adapt"),
        Recipe(0.5, "magnitude", rate=0.2, norm_stats="adapt"),
        Recipe(0.5, rate=0.05, norm_stats="adapt"),
    ),
    "top-k found": (Recipe("found"), Recipe("found", rate=0.03), Recipe("found", "magnitude")),
    "top-k progressive": (
        Recipe("progressive"),
        Recipe("progressive", rate=0.03),
        Recipe("progressive", "magnitude"),
    ),
}
"""What was tried on CIFAR-10, seed 0, measured on 2 000 training images that no mask was learnt on. For each rule the
table takes the setting with the highest sum of k-NN and probe."""
RULES = tuple(SCAN)


@dataclass(frozen=True)
class Table2:
    """Run what is missing; with everything there, write and print the table."""

    shared: Path
    """Folder with data/cifar10 and data/clothing (class folders with train/ and test/)."""
    out: Path = Path("runs/table2")
    """Folder of the runs."""
    data: tuple[str, ...] = tuple(DATA)
    """Run these data sets only."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Run these seeds only."""
    backbone: str = "package:efficientnet_lite0"
    """As for `selfmask adapt`."""
    threads: int = 1
    """CPU threads."""
    scan: bool = False
    """Try the settings of the rules instead."""
    rules: tuple[str, ...] = RULES
    """Run these rules only."""


def learn(asked: Table2, data: str, seed: int, recipe: Recipe, folder: Path, console: Console) -> None:
    """One row of one data set and seed into `folder`: the mask file, the log, and `run.json`."""
    if (folder / DONE).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan(asked, data, seed, recipe)
    objective = build_objective(plan)
    assert isinstance(objective, Distil)
    # Every rule is to be seen to its end, one that starts from half of a network too.
    objective.settings = replace(objective.settings, watch=False)
    objective.prepare(plan.backbone, plan.train)
    found = (
        densities(RunFolder(place(asked, data, seed) / "threshold").mask_file)
        if "found" in _needs(recipe)
        else {}
    )
    masks = MaskSet(
        plan.backbone.module,
        rule=recipe.rule(found, plan.fit.steps),
        norm_stats=recipe.norm_stats,
        seed=seed,
    )
    fit(
        plan.backbone, masks, objective, plan.train, plan.fit, RunFolder(folder),
        console=console, title=folder.name, channels_last=plan.channels_last,
    )  # fmt: skip
    masks.save(RunFolder(folder).mask_file, backbone=plan.backbone.describe())
    status = masks.status()
    write_json(
        folder / DONE,
        {
            **_measured(plan, test_images(asked, plan)),
            "density": status.density,
            "flipped": status.flipped / status.weights,
            "bytes": RunFolder(folder).mask().bytes(),
            "recipe": asdict(recipe),
            "rate": plan.fit.rate,
        },
    )


def pretrained(asked: Table2, data: str, seed: int, folder: Path) -> None:
    """The row of the untouched network."""
    if not (folder / DONE).is_file():
        plan = _plan(asked, data, seed, Recipe("free"))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DONE, {**_measured(plan, test_images(asked, plan)), "density": 1.0})


def test_images(asked: Table2, plan: Plan) -> ImageSet:
    """The test part; for the scan, so that nothing is chosen by it, 2 000 of the training images left out."""
    if not asked.scan:
        assert plan.splits.test is not None
        return plan.splits.test
    everything, used = plan.splits.train, set(plan.train.names)
    others = torch.tensor([i for i, name in enumerate(everything.names) if name not in used])
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
    return everything.subset(others[order[:2000]].sort().values)


def densities(mask: Path) -> dict[str, float]:
    """The share of weights on in each tensor of a mask file."""
    found = load(mask)
    return {name: found.on[name] / found.numel(name) for name in found.names}


def place(asked: Table2, data: str, seed: int) -> Path:
    """Where the runs of a data set and seed are kept."""
    return asked.out / ("scan" if asked.scan else "table") / f"{data}-{seed}"


def _slug(name: str) -> str:
    return name.replace(" %", "").replace(" ", "-")


def _needs(recipe: Recipe) -> tuple[str, ...]:
    return ("found",) if recipe.density in ("found", "progressive") else ()


def _plan(asked: Table2, data: str, seed: int, recipe: Recipe) -> Plan:
    return make_plan(
        AdaptSettings(
            str(asked.shared / "data" / data), backbone=asked.backbone, objective=OBJECTIVE, seed=seed,
            optimizer=recipe.method, lr=recipe.rate, norm_stats=recipe.norm_stats, checkpoint_every=0,
            threads=asked.threads, **DATA[data],
        )
    )  # fmt: skip


def _measured(plan: Plan, test: ImageSet) -> dict[str, float]:
    outcome = measure(
        "row", plan.backbone, plan.labelled, test,
        size=plan.size, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip
    assert outcome.knn is not None
    assert outcome.probe is not None
    return {"knn": float(outcome.knn.double().mean()), "probe": float(outcome.probe.double().mean())}


def run_table(asked: Table2, console: Console) -> dict[str, Any] | None:
    """Every row; None while some are missing."""
    recipes = best()
    for seed in asked.seeds:
        for data in asked.data:
            pretrained(asked, data, seed, place(asked, data, seed) / "pretrained")
            for name, recipe in recipes.items():
                if name in asked.rules:
                    learn(asked, data, seed, recipe, place(asked, data, seed) / _slug(name), console)
    rows: dict[str, Any] = {}
    for data in DATA:
        for name in ("pretrained", *RULES):
            files = [place(asked, data, seed) / _slug(name) / DONE for seed in (0, 1, 2)]
            if not all(file.is_file() for file in files):
                return None
            runs = [read_json(file) for file in files]
            keys = [key for key in ("knn", "probe", "density", "flipped") if key in runs[0]]
            rows.setdefault(data, {})[name] = {key: spread([run[key] for run in runs]) for key in keys}
            if name in RULES:
                rows[data][name]["recipe"] = runs[0]["recipe"] | {"rate": runs[0]["rate"]}
                rows[data][name]["bytes"] = [run["bytes"]["file"] for run in runs]
    return {"seeds": [0, 1, 2], "rows": rows}


def best() -> dict[str, Recipe]:
    """The scan's best setting of each rule."""
    path = HERE / "scan.json"
    if not path.is_file():
        raise SettingsError(
            f"{path} is not there: choose the settings first, by the same command with --scan"
        )
    chosen: dict[str, dict[str, Any]] = {}
    for row in read_json(path)["rows"]:
        if row["rule"] not in chosen or _sum(row) > _sum(chosen[row["rule"]]):
            chosen[row["rule"]] = row
    return {name: Recipe(**row["recipe"]) for name, row in chosen.items()}


def _sum(row: dict[str, Any]) -> float:
    return row["knn"] + row["probe"]


def run_scan(asked: Table2, console: Console) -> dict[str, Any] | None:
    """Every recipe that was tried; None while some are missing."""
    folder, rows = place(asked, "cifar10", 0), []
    for name, recipes in SCAN.items():
        for i, recipe in enumerate(recipes):
            # The first threshold's mask holds the densities that "found" means.
            file = folder / ("threshold" if (name, i) == ("threshold", 0) else _key(recipe))
            if name in asked.rules:
                learn(asked, "cifar10", 0, recipe, file, console)
            run = read_json(file / DONE) if (file / DONE).is_file() else None
            rows.append(run and {"rule": name, "setting": recipe.label(), **run})
    return None if None in rows else {"data": "cifar10", "seed": 0, "rows": rows}


def _key(recipe: Recipe) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation of `values`, and the values themselves."""
    return {"mean": mean(values), "deviation": stdev(values), "values": values}


def table(found: dict[str, Any]) -> str:
    """Markdown, mean ± standard deviation over the seeds."""
    lines = ["| data | rule | weights on | k-NN | linear probe |", "|---|---|---|---|---|"]
    for data, rows in found["rows"].items():
        for name, row in rows.items():
            cells = [f"{row[key]['mean']:.3f} ± {row[key]['deviation']:.3f}" for key in ("knn", "probe")]
            lines.append(f"| {data} | {name} | {100 * row['density']['mean']:.2f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def scan_table(found: dict[str, Any]) -> str:
    """Markdown of the scan."""
    lines = [
        "| rule | score optimizer, peak rate | weights on | k-NN | linear probe |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rule']} | {row['setting']} | {100 * row['density']:.2f} % | {row['knn']:.3f} | {row['probe']:.3f} |"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def main(asked: Annotated[Table2, cyclopts.Parameter(name="*")]) -> None:
    """Run what has not been run yet, and gather."""
    torch.set_num_threads(asked.threads)
    console = Console()
    found = (run_scan if asked.scan else run_table)(asked, console)
    if found is None:
        console.print("some rows are still to be run: the same command without --data, --seeds and --rules")
        return
    found |= {"backbone": asked.backbone, "machine": machine(torch.device("cpu")), "versions": versions()}
    name, text = ("scan", scan_table(found)) if asked.scan else ("table2", table(found))
    write_json(HERE / f"{name}.json", found)
    (HERE / f"{name}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    cyclopts.run(main)
