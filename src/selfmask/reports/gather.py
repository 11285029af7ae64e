"""From a run's folder to everything that its report shows: masks, base, images, features."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import backbone_of
from selfmask.errors import SelfmaskError
from selfmask.reports.before_after import images_of, look
from selfmask.reports.embedding import Method
from selfmask.reports.neighbours import strips
from selfmask.reports.page import Material
from selfmask.reports.reading import ReadRun
from selfmask.reports.similarity import OffBits, Similarity, similarity


def gather(
    run: ReadRun,
    *,
    data: str | None = None,
    weights: Path | None = None,
    download: bool = False,
    base: Backbone | None = None,
    images: int = 500,
    method: Method = "tsne",
) -> Material:
    """What can be had of `run`; what cannot becomes a note, never an error.

    Args:
        data: where the images lie now, if not where the run recorded.
        weights: the backbone's file of weights, if it had one.
        download: fetch the backbone where it is not on this machine; without it no host is contacted.
        base: the backbone itself, where it cannot be rebuilt (a user's own module).
        images: how many images to embed; 0 leaves pictures out, and then no data is opened.
        method: see `embedding.embed`.
    """
    notes: list[str] = []
    if run.mask is None:
        return Material()
    weights = weights or _recorded_weights(run)
    try:
        base = base or backbone_of(run.mask, weights=weights, download=download)
    except SelfmaskError as error:
        notes.append(f"The base could not be built, so the figures that need it are left out: {error}.")
    module: nn.Module | None = base.module if base is not None else None
    masks = None
    try:
        masks = run.mask.masks()
    except SelfmaskError as error:
        notes.append(f"The masks could not be read: {error}.")
    theta = None
    if module is not None and masks is not None:
        theta = {name: p.detach().clone() for name, p in module.named_parameters() if name in masks}
    members = _members(run, masks, module, notes)
    seen, found = None, ()
    if images and base is not None and masks is not None:
        try:
            pictures, part = images_of(run, images, data)
            seen = look(run.mask, base, pictures, part)
            found = strips(seen)
            if run.is_cascade:
                notes.append("Neighbours and the map of features are those of the dispatcher alone.")
        except SelfmaskError as error:
            notes.append(f"The images could not be shown: {error}.")
    return Material(masks, theta, seen, found, members, method, notes)


def _members(
    run: ReadRun, masks: dict[str, Tensor] | None, module: nn.Module | None, notes: list[str]
) -> Similarity | None:
    """How alike the dispatcher and the experts of a cascade are."""
    if run.cascade is None or masks is None:
        return None
    packed, labels = [OffBits.of(masks)], ["dispatcher"]
    try:
        for number in range(1, run.cascade.experts + 1):
            packed.append(OffBits.of(run.cascade.member(number).masks()))
            labels.append(f"expert {number}")
    except SelfmaskError as error:
        notes.append(f"The experts' masks could not be read: {error}.")
        return None
    return similarity(packed, labels)


def _recorded_weights(run: ReadRun) -> Path | None:
    weights = run.settings.weights if run.settings is not None else None
    return weights if weights is not None and weights.is_file() else None
