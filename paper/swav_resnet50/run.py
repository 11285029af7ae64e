"""The paper's self-supervised setting on ResNet-50 at 224 and 96 px, in stretches that each end within ten minutes.

    python paper/swav_resnet50/run.py --data ../shared/data/cifar10 \\
        --weights ../shared/weights/resnet50_in1k.safetensors --out runs/swav_resnet50

Calls `selfmask adapt --objective swav --preset paper` (PAPER §6, unchanged), stops it by Ctrl-C when the time is up,
and goes on from its checkpoint when called again: exit status 0 when the run is complete, 3 when there is more to do.
At the end it writes `result.json` and the table `rows.md` beside this file, and copies the curve. SwAV's own ResNet-50
weights are not among the given ones: these are ImageNet-supervised, so the paper's figures are not to be expected.

`--tiny` tries all of that in a minute or two: a few images, a few steps, two stretches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MORE = 3
TINY = ["--images", "64", "--steps", "4", "--batch", "8", "--no-evaluate", "--checkpoint-every", "1"]


def command(asked: argparse.Namespace) -> list[str]:
    """The `selfmask adapt` of this stretch."""
    parts = [
        sys.executable,
        "-m",
        "selfmask",
        "adapt",
        str(asked.data),
        "--objective",
        "swav",
        "--preset",
        "paper",
    ]
    parts += ["--backbone", asked.backbone, "--out", str(asked.out), "--seed", str(asked.seed)]
    parts += [] if asked.weights is None else ["--weights", str(asked.weights)]
    parts += ["--precision", asked.precision]
    parts += TINY if asked.tiny else [] if asked.epochs is None else ["--epochs", str(asked.epochs)]
    return parts + (["--resume"] if (asked.out / "settings.json").is_file() else [])


def stretch(asked: argparse.Namespace, seconds: float) -> bool:
    """Run for at most `seconds`, and then as long as a checkpoint takes; True where the run is complete."""
    process = subprocess.Popen(command(asked))
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # adapt writes a checkpoint after the step it is at
        process.wait()
    if process.returncode not in (0, 130):
        raise SystemExit(process.returncode)
    return process.returncode == 0


def rows_table(result: dict[str, Any]) -> str:
    """The four rows as Markdown."""
    rows = [] if result["rows"] is None else result["rows"]["rows"]
    lines = ["| row | k-NN | linear probe |", "|---|---|---|"]
    for row in rows:
        cells = [f"{row[key]['value']:.3f}" if row.get(key) else "–" for key in ("knn", "probe")]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone", default="keras:resnet50")
    parser.add_argument("--out", type=Path, default=Path("runs/swav_resnet50"))
    parser.add_argument("--epochs", type=float, help="instead of the paper's 150")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--minutes", type=float, default=8.5, help="length of a stretch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="two short stretches of a tiny run")
    asked = parser.parse_args()

    start = time.perf_counter()
    done = stretch(asked, 60 * asked.minutes)
    while asked.tiny and not done:
        done = stretch(asked, 60 * asked.minutes)
    print(
        f"{time.perf_counter() - start:.0f} s in this stretch; {'complete' if done else 'call again to go on'}"
    )
    if not done:
        return MORE
    result = json.loads((asked.out / "result.json").read_text())
    folder = asked.out if asked.tiny else HERE
    if not asked.tiny:
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        shutil.copy(asked.out / "curves.png", folder / "curves.png")
    (folder / "rows.md").write_text(rows_table(result))
    print(rows_table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
