"""Every table and figure of the paper, by its own number.

    python paper/make.py --dry-run                  # the folders, their commands and their time
    python paper/make.py                            # everything: what two cores can do
    python paper/make.py appendix/table1            # one folder
    python paper/make.py appendix/table1 --draw     # from its data.json alone
    python paper/make.py --full --dry-run           # its masks, rules and cascade at its own scale

A command ends within `--minutes` with exit status 3 where there is more to do, and goes on when it is called again.
What is finished is in the folder `--out`, one JSON file a training, and is not run again. When all is there,
`data.json` and what is made from it are written. Needs the folder `shared` beside the repository.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import densities
import experts
import full
import low_shot
import supervised
import supplement
import theorems
import unlabelled
from cells import Cell, Stretch, fill, gathered
from matplotlib.figure import Figure

from selfmask._common.files import write_atomically
from selfmask.reports.chart import Chart
from selfmask.run.result import read_json

ROOT = Path(__file__).resolve().parent
MORE = 3
Document = dict[str, Any]
Made = Mapping[str, str | Figure | Chart]


def nothing_more(out: Path) -> Document:
    """What most folders have beside their cells."""
    return {}


@dataclass(frozen=True)
class Folder:
    """One table or figure.

    made: its files by name, from the document alone. cells: its own trainings; `data.json` has them. sources: folders
    whose data it is drawn from beside its own. more: what else its document has, from the folder of runs. keep: of
    what cells keep for some folders alone ("layers", "packers"), what this one's document has.
    """

    made: Callable[[Document], Made]
    cells: Callable[[], list[Cell]] = list
    sources: tuple[str, ...] = ()
    more: Callable[[Path], Document] = nothing_more
    keep: tuple[str, ...] = ()


OURS = {"our recipe": {"recipe": "ours"}}
BY_OBJECTIVE = {"supervised": {"recipe": "ours"}, "self-supervised": {"objective": "swav"}}
RESNETS = ("ResNet-18", "ResNet-50")

FOLDERS: dict[str, Folder] = {
    "appendix/table1": Folder(
        lambda d: {
            "table1.md": supervised.densities_table(d) + "\n" + supervised.accuracies_table(d),
            "scan.md": supervised.scan_table(d),
        },
        supervised.masks,
        more=lambda out: {"scan": without(gathered(supervised.scan(), out), ("layers", "packers"))},
        keep=("layers", "packers"),
    ),
    "appendix/figure1": Folder(
        theorems.made,
        theorems.cells,
        more=theorems.compared,
    ),
    "appendix/figure2": Folder(
        lambda d: {
            "figure2.png": densities.figure(d, "ViT-S/14", OURS),
            "figure2.md": densities.by_kind(d, "ViT-S/14", OURS),
        },
        sources=("appendix/table1",),
    ),
    "appendix/figure3": Folder(
        lambda d: {
            **{f"{b.lower()}.png": densities.figure(d, b, BY_OBJECTIVE) for b in RESNETS},
            "figure3.md": "\n".join(densities.by_kind(d, b, BY_OBJECTIVE) for b in RESNETS),
        },
        unlabelled.layerwise,
        sources=("appendix/table1",),
        keep=("layers",),
    ),
    "appendix/table2": Folder(lambda d: {"table2.md": unlabelled.rules_table(d)}, unlabelled.rules),
    "appendix/table3": Folder(lambda d: {"table3.md": unlabelled.repeats_table(d)}, unlabelled.repeats),
    "appendix/figure4": Folder(
        lambda d: {"figure4.png": experts.figure4(d), "figure4.md": experts.covered_table(d)},
        sources=("main/table3",),
    ),
    "main/table1": Folder(lambda d: {"table1.md": supervised.main_table(d)}),
    "main/table2": Folder(
        lambda d: {"table2.md": unlabelled.rules_table(d, unlabelled.MAIN)}, sources=("appendix/table2",)
    ),
    "main/table3": Folder(lambda d: {"table3.md": experts.rows_table(d)}, experts.cells),
    "main/figure3": Folder(
        lambda d: {"figure3.png": low_shot.figure3(d), "figure3.md": low_shot.low_shot_table(d)},
        low_shot.cells,
    ),
    "supplement": Folder(
        lambda d: {"supplement.md": supplement.tables(d)}, supplement.cells, sources=("appendix/table1",)
    ),
}


def without(found: Sequence[Document], names: Sequence[str]) -> list[Document]:
    """The cells without what a folder does not show."""
    return [{key: value for key, value in one.items() if key not in names} for one in found]


def document_of(name: str) -> Document:
    """All that a folder is drawn from, as it is committed."""
    own = ROOT / name / "data.json"
    document: Document = read_json(own) if own.is_file() else {}
    for source in FOLDERS[name].sources:
        for key, value in document_of(source).items():
            document[key] = [*document.get(key, []), *value] if isinstance(value, list) else value
    return document


def png(drawn: Figure | Chart) -> bytes:
    """The picture."""
    if isinstance(drawn, Chart):
        return drawn.png()
    data = io.BytesIO()
    drawn.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def draw(name: str) -> None:
    """Write what is made of the committed data."""
    for file, content in FOLDERS[name].made(document_of(name)).items():
        path = ROOT / name / file
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(png(content))
        print(path.relative_to(ROOT))


def gather(name: str, out: Path) -> None:
    """Write the document of a folder. What it has from before these cells, under "earlier", stays."""
    folder, path = FOLDERS[name], ROOT / name / "data.json"
    before = read_json(path) if path.is_file() else {}
    kept = {"earlier": before["earlier"]} if "earlier" in before else {}
    drop = [key for key in ("layers", "packers") if key not in folder.keep]
    found = without(gathered(folder.cells(), out), drop)
    if found:
        write_atomically(path, text_of({**kept, "cells": found, **folder.more(out)}).encode())


def text_of(document: Document) -> str:
    """As JSON, a line a training."""
    parts = []
    for key, value in document.items():
        items = value if isinstance(value, list) else [value]
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        parts.append(f'"{key}": ' + (f"[\n{lines}\n]" if isinstance(value, list) else lines))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def seconds(name: str) -> dict[str, float]:
    """What each training behind the folder's committed data took."""
    path = ROOT / name / "data.json"
    document = read_json(path) if path.is_file() else {}
    found = [*document.get("cells", []), *document.get("scan", [])]
    names = [cell.name for cell in wanted(name)]
    return dict(zip(names, [one["seconds"]["total"] for one in found], strict=False))


def wanted(name: str) -> list[Cell]:
    """The trainings of a folder; Table 1's rates are chosen by some more."""
    return [*FOLDERS[name].cells(), *(supervised.scan() if name == "appendix/table1" else [])]


def listed() -> str:
    """The folders, their commands and what they took; a training that several need is run once."""
    lines, known = list[str](), dict[str, float]()
    for name, folder in FOLDERS.items():
        new = {cell: took for cell, took in seconds(name).items() if cell not in known}
        known |= new
        said = f"{len(new)} trainings, {sum(new.values()) / 60:.0f} min"
        if not folder.cells():
            said = f"drawn from {', '.join(folder.sources)}" if folder.sources else "measured elsewhere"
        lines.append(f"python paper/make.py {name:18}  # {said}")
    return "\n".join(
        [*lines, f"# {sum(known.values()) / 60:.0f} min in all, on one thread of a busy machine"]
    )


def main() -> int:
    """Run what is missing, gather, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help=f"of {', '.join(FOLDERS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--minutes", type=float, help="length of a stretch; default: no limit")
    parser.add_argument("--draw", action="store_true", help="run nothing: draw from data.json")
    parser.add_argument("--dry-run", action="store_true", help="list the commands and their time")
    parser.add_argument(
        "--full", action="store_true", help="the paper's own scale: says what it takes, then runs"
    )
    asked = parser.parse_args()
    names = asked.folders or list(FOLDERS)
    if unknown := [name for name in names if name not in FOLDERS]:
        parser.error(f"no folder {unknown[0]}; there are {', '.join(FOLDERS)}")
    if asked.dry_run or asked.full:
        print(full.announcement() if asked.full else listed())
        if asked.dry_run:
            return 0
    stretch = Stretch(None if asked.minutes is None else 60 * asked.minutes)
    if asked.full:
        return 0 if fill(full.cells(), asked.out / "full", stretch) else MORE
    for name in names:
        if not asked.draw:
            if not fill(wanted(name), asked.out, stretch):
                print("there is more to do: the same command goes on")
                return MORE
            gather(name, asked.out)
        draw(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
