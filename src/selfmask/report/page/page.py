"""`selfmask report`: everything about one run on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask.report.before_after import BeforeAfter
from selfmask.report.chart import Chart
from selfmask.report.clusters import clusters_chart
from selfmask.report.density import layers
from selfmask.report.density_chart import depth_chart, stage_chart
from selfmask.report.embedding import Method, embedding_of
from selfmask.report.filters import filter_chart, filter_shares
from selfmask.report.magnitude import magnitude_chart, magnitude_profile
from selfmask.report.neighbours import Strip
from selfmask.report.page import sections
from selfmask.report.page.headline import Headline, headline, network_bytes
from selfmask.report.page.html import chart_card, text
from selfmask.report.page.stylesheet import stylesheet
from selfmask.report.page.waffle import waffle
from selfmask.report.results import result_chart, size_chart
from selfmask.report.run_folder import RunFolder
from selfmask.report.similarity import Similarity, similarity_chart
from selfmask.report.training import training_chart
from selfmask.version import VERSION


@dataclass(frozen=True)
class Report:
    """The page and the figures on it.

    Attributes:
        html: the whole page.
        charts: its charts, whose numbers `save` writes beside it.
        headline: what stands at its head.
        notes: what the reader was warned of.
    """

    html: str
    charts: tuple[Chart, ...]
    headline: Headline
    notes: tuple[str, ...]

    def save(self, path: Path, data: Path | None = None) -> list[Path]:
        """Write the page, and every figure's files (PNG, SVG, JSON, CSV) into `data` if given."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html, encoding="utf-8")
        return [path, *(file for chart in self.charts for file in (chart.save(data) if data else []))]


@dataclass(frozen=True)
class Material:
    """What the page is made of beside the run's folder; each part may be missing.

    Attributes:
        masks: the masks, where their bits could be read.
        theta: the base's tensors by name, for |θ| of what is off.
        seen: images and features before and after.
        strips: nearest neighbours in `seen`.
        members: how alike the masks of a cascade are.
        method: how `seen` is embedded.
        command: the command that made the run, if the folder does not record it.
        notes: what could not be had, one sentence each.
    """

    masks: dict[str, Tensor] | None = None
    theta: dict[str, Tensor] | None = None
    seen: BeforeAfter | None = None
    strips: Sequence[Strip] = ()
    members: Similarity | None = None
    method: Method = "tsne"
    command: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def build_report(run: RunFolder, material: Material) -> Report:
    """The page of `run`."""
    head = headline(run)
    share = None
    if run.mask is not None:
        total = run.mask.index.weights
        share = 1 - sum(run.mask.on.values()) / total if total else 0.0
    notes = tuple(dict.fromkeys((*run.problems, *warnings_of(run, share), *material.notes)))
    charts: list[Chart] = []
    parts: list[str] = []

    def add(chart: Chart, *more: str) -> None:
        charts.append(chart)
        parts.append(chart_card(chart, *more))

    if run.rows is not None:
        charts.append(result_chart(run.rows))
        parts.append(sections.results(run.rows))
    if run.log is not None and run.log.steps:
        add(training_chart(run.log))
    if material.masks is not None and share:
        found = layers(material.masks)
        add(depth_chart({"": [found]}))
        add(stage_chart(found))
        if material.theta is not None:
            profile = magnitude_profile(material.masks, material.theta)
            chart = magnitude_chart(profile)
            add(chart, chart.alt)
        filters = filter_chart(filter_shares(material.masks))
        add(filters, filters.alt)
    clusters = (run.result.get("cascade") or {}).get("clusters")
    if isinstance(clusters, list) and clusters:
        add(clusters_chart(clusters))
    if material.members is not None:
        chart = similarity_chart(material.members)
        add(chart, chart.alt)
    if material.seen is not None:
        if len(material.seen.images) >= 5:
            add(embedding_of(material.seen, material.method))
        if material.strips:
            parts.append(sections.neighbours(material.seen, material.strips))
    if run.mask is not None:
        add(size_chart(run.bytes(), network_bytes(run)))
    parts.append(sections.making(run, material.command))
    return Report(_page(head, share, notes, parts, _links(charts, material)), tuple(charts), head, notes)


def warnings_of(run: RunFolder, share_off: float | None = None) -> list[str]:
    """Warnings that the run wrote into its log or result, and what the figures themselves warn of."""
    found: list[str] = []
    recorded: Any = run.result.get("warnings") or run.settings.get("warnings") or []
    found += [str(one) for one in recorded] if isinstance(recorded, list) else [str(recorded)]
    if share_off == 0:
        found.append(
            "Nothing was switched off: no score has crossed the threshold. More steps or a higher --lr would "
            "let some cross."
        )
    if run.log is not None:
        found += [str(e["warning"]) for e in (*run.log.steps, *run.log.events) if e.get("warning")]
        found += [
            str(e.get("message")) for e in run.log.events if e.get("event") == "warning" and e.get("message")
        ]
    if run.rows is not None:
        named = {row.name: row for row in run.rows.rows}
        masked, moved = named.get("masked"), named.get("statistics only")
        reached = masked.knn if masked is not None else None
        alone = moved.knn if moved is not None else None
        if reached is not None and alone is not None and alone.value >= reached.value:
            found.append(
                "Moving the running statistics alone does as well by k-NN or better: the masks may not be what helps."
            )
        if run.rows.images < 200:
            found.append(f"Only {run.rows.images} test images: the intervals are wide.")
    return found


def _links(charts: Sequence[Chart], material: Material) -> list[tuple[str, str]]:
    short = {
        "results": "results",
        "training": "training",
        "densities-by-depth": "where weights are off",
        "magnitudes": "which weights",
        "clusters": "experts",
        "embedding": "before and after",
        "size": "file size",
    }
    links = [(chart.name, short[chart.name]) for chart in charts if chart.name in short]
    if material.strips:
        links.insert(-1 if links and links[-1][0] == "size" else len(links), ("neighbours", "neighbours"))
    return [*links, ("making", "how it was made")]


def _page(
    head: Headline,
    share: float | None,
    notes: Sequence[str],
    parts: Sequence[str],
    links: Sequence[tuple[str, str]],
) -> str:
    tiles = "".join(
        f'<div class="tile"><dt>{text(label)}</dt><dd>{text(value)}</dd></div>' for value, label in head.tiles
    )
    glance = f'<dl class="tiles">{tiles}</dl>' if tiles else ""
    if share is not None:
        glance += waffle(share)
    warned = "".join(f"<li>{text(note)}</li>" for note in notes)
    nav = "".join(f'<li><a href="#{text(anchor)}">{text(name)}</a></li>' for anchor, name in links)
    verdict = f'<span class="verdict">{text(head.verdict)}</span> ' if head.verdict else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The page can load nothing, whatever finds its way into it.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="selfmask {text(VERSION)}">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(head.title)} · selfmask</title>\n'
        f"<style>{stylesheet()}</style>\n</head>\n<body>\n"
        f'<header><p class="eyebrow">{text(head.status)}</p><h1>{text(head.title)}</h1>'
        f'<p class="lead">{verdict}{text(head.sentence)}</p>'
        '<p class="note">A mask switches single weights of a pretrained network off and leaves all others as they '
        "were; the mask is all that has to be stored.</p>"
        f'<nav aria-label="on this page"><ul>{nav}</ul></nav></header>\n<main>\n'
        + (f'<aside class="notes" aria-label="notes"><ul>{warned}</ul></aside>\n' if warned else "")
        + (f'<div class="glance">{glance}</div>\n' if glance else "")
        + "\n".join(parts)
        + "\n</main>\n<footer><p>This page stands alone: it loads nothing and sends nothing. A mask is derived from "
        "the images that it was learnt on, and the page may show some of them: mind this before you publish either.</p>"
        "</footer>\n</body>\n</html>\n"
    )
