"""Which weights were turned off, large ones or small ones? It needs the base weights θ beside the mask.

With SGD on the scores a weight's push is proportional to θ, so that small weights almost never cross the
threshold; with Adam it is not. This shows which of the two a mask is like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from selfmask._common.style import BLUE, ORANGE
from selfmask.errors import WrongBaseError
from selfmask.reports.chart import Chart, DataTable, set_height
from selfmask.reports.wording import percents


@dataclass(frozen=True)
class MagnitudeProfile:
    """The share of weights off by the rank of |θ| within their own tensor, over all tensors together.

    Attributes:
        weights: int64 (bins,): weights whose |θ| rank falls in each bin; bin 0 holds each tensor's smallest.
        off: int64 (bins,): how many of them are off.
        energy_off: Σθ² of the weights off ÷ Σθ² of all masked weights, in [0, 1].
        share_off: the share of weights off, in [0, 1]: what `energy_off` would be if |θ| played no part.
    """

    weights: Tensor
    off: Tensor
    energy_off: float
    share_off: float

    @property
    def shares(self) -> list[float]:
        """The share off of each bin, in [0, 1]; 0 for an empty bin."""
        return [o / w if w else 0.0 for o, w in zip(self.off.tolist(), self.weights.tolist(), strict=True)]


def magnitude_profile(
    masks: Mapping[str, Tensor], theta: Mapping[str, Tensor], bins: int = 20
) -> MagnitudeProfile:
    """Profile of `masks` (bool) over `bins` equal ranks of |θ| (float, same shapes), tensor by tensor.

    Ranks, not values, are binned, so that tensors of different scale can be added up. Ties of |θ| are ranked
    in the order of the tensor. Raises `WrongBaseError` where θ lacks a tensor or has it in another shape.
    """
    weights = torch.zeros(bins, dtype=torch.int64)
    off = torch.zeros(bins, dtype=torch.int64)
    energy = energy_off = 0.0
    for name, mask in masks.items():
        if name not in theta or theta[name].shape != mask.shape:
            given = tuple(theta[name].shape) if name in theta else "no tensor of this name"
            raise WrongBaseError(
                f"the base has {given} where the mask has {name} of shape {tuple(mask.shape)}; "
                "give the backbone that the mask was learnt on"
            )
        if not mask.numel():
            continue
        values = theta[name].detach().to("cpu", torch.float32).abs().flatten()
        is_off = ~mask.flatten().cpu()
        order = torch.argsort(values, stable=True)
        # The r-th smallest of n belongs to bin ⌊r · bins / n⌋, so that the bins of every tensor are equal.
        bin_of_rank = torch.arange(values.numel()) * bins // values.numel()
        weights += torch.bincount(bin_of_rank, minlength=bins)
        off += torch.bincount(bin_of_rank[is_off[order]], minlength=bins)
        squares = values.double().square()
        energy += float(squares.sum())
        energy_off += float(squares[is_off].sum())
    total = int(weights.sum())
    return MagnitudeProfile(
        weights, off, energy_off / energy if energy else 0.0, int(off.sum()) / total if total else 0.0
    )


def magnitude_chart(profile: MagnitudeProfile, name: str = "magnitudes", of: str = "") -> Chart:
    """Share of weights off by the rank of |θ| within their tensor, beside the share over all weights."""
    shares = [100 * share for share in profile.shares]
    bins = len(shares)
    first, last = shares[0], shares[-1]
    least, most, all_of_them, energy = percents(
        [first / 100, last / 100, profile.share_off, profile.energy_off]
    )
    trend = (
        "Small weights were switched off more often than large ones."
        if first > 1.25 * last
        else "Large weights were switched off more often than small ones."
        if last > 1.25 * first
        else "Small and large weights were switched off about equally often."
    )

    def draw(figure: Figure) -> None:
        set_height(figure, 240)
        axis = figure.subplots()
        edges = [100 * i / bins for i in range(bins)]
        axis.bar(edges, shares, width=100 / bins * 0.86, align="edge", color=BLUE.light)
        axis.axhline(
            100 * profile.share_off, color=ORANGE.light, linewidth=1.4, linestyle="--", label="all weights"
        )
        axis.set_xlim(0, 100)
        axis.set_xlabel("percentile of |θ| within its tensor →")
        axis.set_ylabel("weights off (%)")
        figure.legend(loc="outside upper left")

    return Chart(
        name,
        "Were large or small weights switched off?" + (f" ({of})" if of else ""),
        "Each weight is ranked by its size within its own tensor; the dashed line is the share over all weights.",
        f"{trend} Of the smallest {100 / bins:g} %, {least} are off, of the largest {100 / bins:g} %, {most}; over all "
        f"weights {all_of_them}. The weights off carry {energy} of the sum of squares.",
        DataTable(
            ("bin", "from_percentile", "to_percentile", "weights", "off", "share_off"),
            tuple(
                (
                    i,
                    100 * i / bins,
                    100 * (i + 1) / bins,
                    int(profile.weights[i]),
                    int(profile.off[i]),
                    share / 100,
                )
                for i, share in enumerate(shares)
            ),
        ),
        draw,
        {"energy_off": profile.energy_off, "share_off": profile.share_off},
    )
