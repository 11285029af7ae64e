"""The page's sections that are not charts: the table of results, the neighbour strips, how it was made."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from selfmask.features.rows import Estimate, Rows
from selfmask.report.before_after import BeforeAfter
from selfmask.report.neighbours import Strip, same_class_share, strip_table
from selfmask.report.page.html import card, chart_figure, numbers, text, thumbnail
from selfmask.report.results import MEASURES, measures_of, result_chart
from selfmask.report.run_folder import RunFolder
from selfmask.report.wording import percent, points
from selfmask.version import VERSION

_MEANINGS = {
    "pretrained": "as downloaded",
    "statistics only": "batch-norm statistics moved to these images, no weight touched",
    "masked": "weights switched off, none changed",
    "full fine-tuning": "every weight trained, for comparison",
    "self-masked": "the dispatcher alone",
    "conditional": "the dispatcher and the expert that it chooses",
    "unconditional": "the dispatcher and all experts",
}


def results(rows: Rows) -> str:
    """The four rows: a table with intervals and paired differences, and the chart."""
    chart = result_chart(rows)
    keys = measures_of(rows)
    head = "".join(f'<th scope="col">{text(MEASURES[key])}</th>' for key in keys)
    body = ""
    for row in rows.rows:
        cells = "".join(
            f"<td>{_accuracy(getattr(row, key), getattr(row, f'{key}_gain'))}</td>" for key in keys
        )
        meaning = _MEANINGS.get(row.name, "")
        body += (
            f'<tr class="{text(row.name.replace(" ", "-"))}"><th scope="row">{text(row.name)}'
            f'<small class="wide">{text(meaning)}</small></th>{cells}</tr>'
        )
    legend = (
        f"Share of {rows.images} test images that are right; small: 95 % interval; below: difference from the "
        "pretrained network on the same images, in points."
    )
    columns = f'<col><col class="measure" span="{len(keys)}">'
    table = (
        f'<p class="note">{text(legend)}</p><table class="result"><colgroup>{columns}</colgroup>'
        f'<thead><tr><th scope="col">network</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    words = [
        chart.caption,
        "k-NN and linear probe judge the features themselves; a trained head is the classifier that was learnt along."
        if "head" in keys
        else "k-NN and linear probe judge the features themselves, with labels that the masks need not have seen.",
        "A gain is clear where its interval leaves out zero; such gains are coloured.",
    ]
    return card(chart.name, chart.title, words, f'<div class="picture">{table}{chart_figure(chart)}</div>')


def neighbours(seen: BeforeAfter, found: Sequence[Strip]) -> str:
    """For each query image the nearest before and after, framed by whether they are of its class."""
    labels, classes = seen.images.labels.tolist(), seen.images.classes
    cache: dict[int, str] = {}

    def shown(index: int, role: str) -> str:
        label = classes[labels[index]] if labels[index] >= 0 else "no label"
        key = f"{role}: {label}"
        if index not in cache:
            cache[index] = thumbnail(seen.images.image(index), "@alt@")
        return cache[index].replace("@alt@", text(key))

    def line(strip: Strip, side: tuple[int, ...], when: str) -> str:
        thumbs = ""
        for rank, index in enumerate(side, 1):
            known = labels[index] >= 0 and labels[strip.query] >= 0
            style = ("same" if labels[index] == labels[strip.query] else "other") if known else ""
            thumbs += f'<span class="thumb {style}">{shown(index, f"{when}, neighbour {rank}")}</span>'
        return f'<div class="line"><span>{when}</span>{thumbs}</div>'

    picture = ""
    for strip in found:
        label = classes[labels[strip.query]] if labels[strip.query] >= 0 else ""
        picture += (
            f'<div class="strip"><div class="query">{shown(strip.query, "query")}{text(label)}</div>'
            f"{line(strip, strip.before, 'before')}{line(strip, strip.after, 'after')}</div>"
        )
    share = same_class_share(seen)
    words = [
        f"For some {seen.part} images drawn at random, the {len(found[0].before) if found else 0} images that the "
        "network finds most alike (cosine of the features), among those of this page.",
        "Solid green frame: same class as the query; dashed orange: another class." if share else "",
        f"Over all {len(seen.images)} images here, {percent(share[0])} of these neighbours were of the query’s class "
        f"before, and {percent(share[1])} after ({points(share[1] - share[0])})."
        if share
        else "",
    ]
    table = numbers(strip_table(seen, found), "neighbours")
    return card(
        "neighbours", "What the network finds alike", words, f'<div class="picture">{picture}{table}</div>'
    )


def making(run: RunFolder, command: str | None) -> str:
    """The exact command, the settings, versions and machine, as far as the folder records them."""
    recorded = run.setting("command")
    given = (
        shlex.join(recorded)
        if isinstance(recorded, list)
        else recorded
        if isinstance(recorded, str)
        else command
    )
    shown = f"<pre><code>{text(given)}</code></pre>" if given else ""
    settings = {k: v for k, v in run.settings.items() if v is not None and not isinstance(v, dict | list)}
    mask_version = run.mask.metadata.get("selfmask") if run.mask is not None else None
    facts: dict[str, Any] = {
        **settings,
        "seconds": _pairs(run.result.get("seconds")),
        "mask written by": f"selfmask {mask_version}" if mask_version else None,
        "this page by": f"selfmask {VERSION}, Python {platform.python_version()}",
    }
    for key in ("versions", "machine", "device"):
        facts[key] = _pairs(run.result.get(key)) or run.result.get(key)
    rows = "".join(
        f"<dt>{text(name.replace('_', ' '))}</dt><dd>{text(value)}</dd>"
        for name, value in facts.items()
        if value not in (None, "", False)
    )
    words = ["The same command gives the same masks on the same machine: everything that is drawn is seeded."]
    return card(
        "making", "How it was made", words, f'<div class="picture">{shown}<dl class="facts">{rows}</dl></div>'
    )


def _pairs(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return ", ".join(f"{key} {item}" for key, item in value.items())


def _accuracy(value: Estimate | None, gain: Estimate | None) -> str:
    if value is None:
        return '<span class="note">–</span>'
    interval = f"{100 * value.low:.1f}–{100 * value.high:.1f}"
    cell = f"{100 * value.value:.1f} %<small>{interval}</small>"
    if gain is None:
        return cell
    style = "better" if gain.low > 0 else "worse" if gain.high < 0 else "note"
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in (gain.low, gain.high))
    sign = f"{100 * gain.value:+.1f}".replace("-", "−")
    return f'{cell}<span class="gain {style}">{sign} <small>{low} … {high}</small></span>'
