"""What the clusters of a cascade are made of (PAPER App. Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfmask._common.style import MARKERS, MUTED, SERIES
from selfmask.reports.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height
from selfmask.reports.wording import count, percent
from selfmask.run.result import Cluster


def clusters_chart(clusters: Sequence[Cluster], name: str = "clusters") -> Chart:
    """Share of each cluster's labelled images that its x most common classes make up.

    A dashed line is all of them together: what clusters drawn at random would look like.
    """
    shown = [cluster for cluster in clusters if cluster.covered]
    largest = sorted(range(len(shown)), key=lambda i: -shown[i].images)[: len(SERIES)]
    names = [f"expert {c.expert + 1} ({count(c.images)} images)" for c in shown]
    together = _together(shown) if len(shown) > 1 else []
    legend = [*(names[i] for i in sorted(largest)), *(["all images"] if together else [])]

    def draw(figure: Figure) -> None:
        columns = columns_of_legend(figure, legend)
        set_height(figure, (220 if is_narrow(figure) else 270) + 20 * -(-len(legend) // columns))
        axis = figure.subplots()
        for i, ink, marker in zip(sorted(largest), SERIES, MARKERS, strict=False):
            covered = [100 * share for share in shown[i].covered]
            steps = range(1, len(covered) + 1)
            axis.plot(steps, covered, marker=marker, color=ink.light, label=names[i], clip_on=False)
        if together:
            shares = [100 * share for share in together]
            axis.plot(range(1, len(shares) + 1), shares, "--", color=MUTED.light, label="all images")
        axis.set_ylim(0, 100)
        axis.set_xlabel("most common classes counted")
        axis.set_ylabel("share of the cluster (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if legend:
            figure.legend(loc="outside upper left", ncols=columns)

    sentences = [
        f"{label}: mostly {c.classes[0]}, {percent(c.covered[0])}"
        for label, c in zip(names, shown, strict=True)
    ]
    return Chart(
        name,
        "What each expert is for",
        "The router gave each expert a cluster of the images. A line that rises at once is a cluster of few classes."
        + (f" The {len(largest)} largest of {len(shown)} are drawn." if len(shown) > len(largest) else ""),
        "; ".join(sentences) + "." if sentences else "No cluster has labelled images.",
        DataTable(
            ("expert", "images", "classes_counted", "class", "share"),
            tuple(
                (c.expert + 1, c.images, x, c.classes[x - 1], share)
                for c in shown
                for x, share in enumerate(c.covered, 1)
            ),
        ),
        draw,
        extra={"all images": together},
    )


def _together(clusters: Sequence[Cluster]) -> list[float]:
    """The share of all labelled images that the x most common classes make up, for x from 1."""
    counts: dict[str, float] = {}
    for cluster in clusters:
        before = 0.0
        for name, covered in zip(cluster.classes, cluster.covered, strict=True):
            counts[name] = counts.get(name, 0.0) + cluster.labelled * (covered - before)
            before = covered
    shares, total, so_far = [], sum(counts.values()), 0.0
    for share in sorted(counts.values(), reverse=True):
        so_far += share
        shares.append(so_far / total)
    return shares
