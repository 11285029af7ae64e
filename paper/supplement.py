"""The supplement's questions at a small budget: prototypes, norms, a part of the weights, general compressors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import supervised
import unlabelled
from cells import Cell, Found, pick, spread, table, values

SEEDS = (0,)
DATA = "signs"
PROTOTYPES = (50, 500)
NORMS: dict[str, dict[str, Any]] = {
    "statistics move": {"norm_stats": "adapt"},
    "weights and biases masked too": {"select": "auto,*bn*.weight,*bn*.bias"},
}
PARTS: dict[str, dict[str, Any]] = {
    "half, at random": {"weights_share": "random:50"},
    "half, the largest": {"weights_share": "largest:50"},
    "a tenth, the largest": {"weights_share": "largest:10"},
    "the first four stages": {"stages": 4},
}


def cells() -> list[Cell]:
    """What Table 2 and Table 1 have already, and what differs from it in one thing."""
    made: list[Cell] = []
    for seed in SEEDS:
        made += [unlabelled.untouched(DATA, seed), unlabelled.learnt(DATA, seed)]
        for count in PROTOTYPES:
            own = {"objective_settings": {**unlabelled.WATCH, "prototypes": count}}
            made.append(_swav(seed, {"prototypes": str(count)}, own))
        made += [_swav(seed, {"norms": name}, own) for name, own in NORMS.items()]
        made += [_supervised(seed, name, own) for name, own in PARTS.items()]
    return made


def _swav(seed: int, tags: Mapping[str, str], own: Mapping[str, Any]) -> Cell:
    like = unlabelled.learnt(DATA, seed)
    return replace(like, tags={"objective": "swav", **tags}, settings={**like.settings, **own}, keep=())


def _supervised(seed: int, name: str, own: Mapping[str, Any]) -> Cell:
    like = supervised.cell(DATA, unlabelled.BACKBONE, "ours", seed)
    return replace(like, tags={"part": name}, settings={**like.settings, **own}, keep=())


def tables(document: Mapping[str, Any]) -> str:
    """Markdown, one table a question."""
    found = document["cells"]
    masked = pick(found, rule=unlabelled.THRESHOLD, objective="swav", backbone=unlabelled.BACKBONE)
    swav = {
        "untouched": pick(found, rule=unlabelled.UNTOUCHED),
        "30 prototypes, norms frozen": masked,
        **{f"{count} prototypes": pick(found, prototypes=str(count)) for count in PROTOTYPES},
        **{f"norms: {name}": pick(found, norms=name) for name in NORMS},
    }
    rows = [
        [
            name,
            *(spread(values(of, key), 4 if key == "density" else 3) for key in ("density", "knn", "probe")),
        ]
        for name, of in swav.items()
    ]
    texts = [table(["SwAV", "share on", "k-NN", "linear probe"], rows)]
    parts = {
        "all": pick(found, recipe="ours", backbone=unlabelled.BACKBONE, data=DATA),
        **{name: pick(found, part=name) for name in PARTS},
    }
    rows = [
        [name, spread([one["flipped"] * one["weights"] for one in of], 0), spread(values(of, "before")),
         spread(values(of, "head"))]
        for name, of in parts.items()
    ]  # fmt: skip
    texts.append(table(["with labels; may be masked", "weights off", "probe before", "masked"], rows))
    return "\n".join([*texts, packers_table(found)])


def packers_table(found: Sequence[Found]) -> str:
    """What general programs and our file make of the bits, in bits a weight; how many times smaller than float32."""
    rows = []
    for backbone in dict.fromkeys(one["backbone"] for one in found):
        of = [one for one in pick(found, backbone=backbone, recipe="ours") if "packers" in one]
        weights = sum(one["weights"] for one in of)
        sizes = {
            name: 8 * sum(one["packers"][name] for one in of) / weights for name in ("gzip", "bz2", "lzma")
        }
        masks = 8 * sum(one["bytes"]["masks"] for one in of) / weights
        file = sum(one["bytes"]["file"] for one in of)
        rows.append(
            [backbone, *(f"{bits:.3f}" for bits in sizes.values()), f"{masks:.3f}", f"{32 / sizes['lzma']:.0f}",
             f"{4 * weights / file:.0f}"]
        )  # fmt: skip
    return table(
        [
            "backbone",
            "gzip, bits a weight",
            "bz2",
            "lzma",
            "our masks",
            "float32 / lzma",
            "float32 / our file",
        ],
        rows,
    )
