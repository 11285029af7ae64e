"""What the clusters of a cascade are made of (PAPER App. Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfmask.analysis.charts.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height
from selfmask.analysis.charts.style import MARKERS, SERIES
from selfmask.analysis.wording import count, percent


def clusters_chart(clusters: Sequence[dict[str, Any]], name: str = "clusters") -> Chart:
    """Share of each cluster's labelled images that its x most common classes make up.

    `clusters` as result.json of a cascade has them: "expert", "images", "classes" and "covered" for each.
    """
    shown = [cluster for cluster in clusters if cluster.get("covered")]
    names = [f"expert {int(c['expert']) + 1} ({count(int(c['images']))} images)" for c in shown]

    def draw(figure: Figure) -> None:
        columns = columns_of_legend(figure, names)
        set_height(figure, (220 if is_narrow(figure) else 270) + 20 * -(-len(names) // columns))
        axis = figure.subplots()
        for i, (cluster, label) in enumerate(zip(shown, names, strict=True)):
            covered = [100 * float(share) for share in cluster["covered"]]
            axis.plot(
                range(1, len(covered) + 1),
                covered,
                marker=MARKERS[i % len(MARKERS)],
                color=SERIES[i % len(SERIES)].light,
                label=label,
                clip_on=False,
            )
        axis.set_ylim(0, 100)
        axis.set_xlabel("most common classes counted")
        axis.set_ylabel("share of the cluster (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if names:
            figure.legend(loc="outside upper left", ncols=columns)

    sentences = [
        f"{label}: mostly {c['classes'][0]}, {percent(float(c['covered'][0]))}"
        for label, c in zip(names, shown, strict=True)
    ]
    return Chart(
        name,
        "What each expert is for",
        "The router gave each expert a cluster of the images. A line that rises at once is a cluster of few classes.",
        "; ".join(sentences) + "." if sentences else "No cluster has labelled images.",
        DataTable(
            ("expert", "images", "classes_counted", "class", "share"),
            tuple(
                (int(c["expert"]) + 1, int(c["images"]), x, str(c["classes"][x - 1]), float(share))
                for c in shown
                for x, share in enumerate(c["covered"], 1)
            ),
        ),
        draw,
    )
