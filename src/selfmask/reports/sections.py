"""The sections of the page: what each shows, as values that the template (page.html) only sets in type."""

from __future__ import annotations

import platform
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfmask._common.units import signed
from selfmask.features.rows import Estimate, Rows
from selfmask.reports.before_after import BeforeAfter
from selfmask.reports.chart import NARROW, WIDE, Chart, DataTable
from selfmask.reports.frame import thumbnail
from selfmask.reports.neighbours import Strip, same_class_share, strip_table
from selfmask.reports.reading import ReadRun
from selfmask.reports.results import MEASURES, OURS, measures_of, result_chart, scale_of
from selfmask.reports.wording import accuracy, count, percent, points
from selfmask.version import VERSION

SQUARES, COLUMNS = 1000, 50

_MEANINGS = {
    "pretrained": "as downloaded",
    "statistics only": "batch-norm statistics moved to these images, no weight touched",
    "masked": "weights switched off",
    "full fine-tuning": "every weight trained, for comparison",
    "norm weights alone": "no mask: the norm layers' weights trained, for comparison",
    "self-masked": "the dispatcher alone",
    "conditional": "the dispatcher and the expert that it chooses",
    "unconditional": "the dispatcher and all experts",
}


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: its name on the page, and the stem of its file of numbers.
        kind: which part of the template sets it: "chart", "results", "neighbours", "waffle" or "making".
        title, words: its heading and its paragraphs.
        picture: what that part of the template draws.
        link: what the navigation calls it; "" for sections that it leaves out.
        alt: what the picture says, in words.
        data: the numbers behind it.
    """

    anchor: str
    kind: str
    title: str
    words: tuple[str, ...]
    picture: Any
    link: str = ""
    alt: str = ""
    data: DataTable | None = None


def of_chart(chart: Chart, link: str = "", *, says: bool = False) -> Section:
    """A chart with its caption; `says`: and with its text alternative as a paragraph."""
    drawings = {
        name: Markup(chart.svg(width, f"{chart.name}-{name}-"))
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    }
    words = (chart.caption, chart.alt) if says else (chart.caption,)
    return Section(chart.name, "chart", chart.title, words, drawings, link, chart.alt, chart.data)


def of_results(rows: Rows) -> Section:
    """The rows as one table: accuracies with their intervals, drawn and written, and the paired differences."""
    chart, keys = result_chart(rows), measures_of(rows)
    least, most = scale_of(rows)

    def place(share: float) -> int:
        return round(1000 * (100 * share - least) / (most - least))

    def cell(key: str, value: Estimate | None, gain: Estimate | None) -> dict[str, Any]:
        found: dict[str, Any] = {"measure": MEASURES[key], "value": "", "gain": ""}
        if value is not None:
            found |= {
                "value": accuracy(value.value),
                "interval": f"{100 * value.low:.1f}–{100 * value.high:.1f}",
                "low": place(value.low),
                "at": place(value.value),
                "high": place(value.high),
            }
        if gain is not None:
            style = "better" if gain.low > 0 else "worse" if gain.high < 0 else "note"
            arrow = {"better": "▲ ", "worse": "▼ ", "note": ""}[style]
            span = f"{signed(gain.low)} … {signed(gain.high)}"
            found |= {"style": style, "gain": f"{arrow}{signed(gain.value)}", "span": span}
        return found

    table = [
        {
            "name": row.name,
            "meaning": _MEANINGS.get(row.name, ""),
            "ours": row.name in OURS,
            "cells": [cell(key, getattr(row, key), getattr(row, f"{key}_gain")) for key in keys],
        }
        for row in rows.rows
    ]
    words = (
        "k-NN and linear probe judge the features themselves; a trained head is the classifier that was learnt along."
        if "head" in keys
        else "k-NN and linear probe judge the features themselves, with labels that the masks need not have seen.",
        "With each accuracy stands its difference from the pretrained network on the same images, in points. ▲ and ▼ "
        "mark gains and losses whose interval leaves out zero.",
    )
    legend = (
        f"Share of {count(rows.images)} test images that are right, with its 95 % interval, drawn from {least:.0f} to "
        f"{most:.0f} %."
    )
    picture = {"legend": legend, "measures": [MEASURES[key] for key in keys], "rows": table}
    return Section(chart.name, "results", chart.title, words, picture, "results", chart.alt, chart.data)


def of_neighbours(seen: BeforeAfter, found: Sequence[Strip]) -> Section:
    """For each query image the nearest before and after, framed by whether they are of its class."""
    labels, classes = seen.images.labels.tolist(), seen.images.classes
    made: dict[int, tuple[str, int]] = {}

    def thumb(index: int, role: str, query: int | None = None) -> dict[str, Any]:
        if index not in made:
            made[index] = thumbnail(seen.images.image(index))
        frame = ""
        if query is not None and labels[index] >= 0 and labels[query] >= 0:
            frame = "same" if labels[index] == labels[query] else "other"
        return {
            "source": made[index][0],
            "side": made[index][1],
            "alt": f"{role}: {classes[labels[index]] if labels[index] >= 0 else 'no label'}",
            "style": frame,
        }

    strips = [
        {
            "query": thumb(strip.query, "query"),
            "label": classes[labels[strip.query]] if labels[strip.query] >= 0 else "",
            "lines": [
                {
                    "when": when,
                    "images": [
                        thumb(index, f"{when}, neighbour {rank}", strip.query)
                        for rank, index in enumerate(side, 1)
                    ],
                }
                for when, side in (("before", strip.before), ("after", strip.after))
            ],
        }
        for strip in found
    ]
    share = same_class_share(seen)
    shares = (
        f"Over all {len(seen.images)} images here, {accuracy(share[0])} of these neighbours were of the query’s class "
        f"before, and {accuracy(share[1])} after ({points(share[1] - share[0])})."
        if share
        else ""
    )
    words = (
        f"For some {seen.part} images drawn at random, the {len(found[0].before) if found else 0} images that the "
        "network finds most alike (cosine of the features), among those of this page.",
        "Solid green frame: same class as the query; dashed orange: another class." if share else "",
        shares,
    )
    title = "What the network finds alike"
    return Section(
        "neighbours", "neighbours", title, words, strips, "neighbours", shares, strip_table(seen, found)
    )


def of_waffle(share_off: float) -> Section:
    """A thousand squares, one for each thousandth of the weights: a share that everyone can see."""
    marked = squares(share_off)
    # Scattered, because that is what the share is: single weights here and there. Which squares means nothing.
    off = set(random.Random(0).sample(range(SQUARES), marked))
    paths = {"kept": "", "off": ""}
    for square in range(SQUARES):
        x, y = 10 * (square % COLUMNS), 10 * (square // COLUMNS)
        paths["off" if square in off else "kept"] += f"M{x} {y}h8v8h-8z"
    if 0 < share_off < 0.5 / SQUARES:
        words = (
            f"Each square is a thousandth of the weights; less than one square is off ({percent(share_off)})."
        )
    else:
        words = f"Each square is a thousandth of the weights: {marked} of 1000 are off, all others kept as they were."
    return Section("share-off", "waffle", "How much is off", (words,), paths, alt=words)


def squares(share_off: float) -> int:
    """How many of 1000 squares stand for `share_off` in [0, 1]; at least one where the share is not zero."""
    return max(int(SQUARES * share_off + 0.5), 1 if share_off > 0 else 0)


def of_making(run: ReadRun) -> Section:
    """The exact command, the settings, versions and machine, as far as the folder records them."""
    given = {k: v for k, v in run.recorded.items() if not isinstance(v, dict | list)}
    mask_version = run.mask.metadata.get("selfmask") if run.mask is not None else None
    facts: dict[str, Any] = {
        **given,
        "mask written by": f"selfmask {mask_version}" if mask_version else None,
        "this page by": f"selfmask {VERSION}, Python {platform.python_version()}",
    }
    if run.result is not None:
        seconds = {field: getattr(run.result.seconds, field) for field in ("training", "total")}
        for name, pairs in (
            ("seconds", seconds),
            ("versions", run.result.versions),
            ("machine", run.result.machine),
        ):
            facts[name] = ", ".join(f"{key} {value}" for key, value in pairs.items())
    shown = [(k.replace("_", " "), value) for k, value in facts.items() if value is not None and value != ""]
    words = (
        "The same command gives the same masks on the same machine: everything that is drawn is seeded.",
    )
    picture = {"command": run.command, "facts": shown}
    return Section("making", "making", "How it was made", words, picture, "how it was made")
