"""`selfmask analyze`: what one or many masks have in common, from their files alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from selfmask._common.calls import call
from selfmask.backbones.spec import backbone_of
from selfmask.maskfile.mask import Mask
from selfmask.reports.study import Study, study


@dataclass(frozen=True)
class AnalyzeSettings:
    """Compare masks: how much is off and where, how alike they are, and the paper's tables over them."""

    masks: tuple[Path, ...]
    """Mask files, cascade files, run folders, or folders of mask files or of run folders."""
    out: Path | None = None
    """Write every figure (PNG, SVG, JSON, CSV) and table (CSV, JSON) into this folder."""
    base: bool = False
    """Also build the backbone, to show how large the weights are that were switched off."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    download: bool = False
    """Fetch backbones that the mask files name and that are not on this machine; without it no host is contacted."""


@dataclass(frozen=True)
class Analysis:
    """A study of masks, and the files that were written of it."""

    study: Study
    files: tuple[Path, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {**self.study.json(), "files": [str(path) for path in self.files]}


def run(settings: AnalyzeSettings) -> Analysis:
    """Measure, draw, write.

    >>> found = selfmask.analyze(("runs/photos", "runs/other"), out="study")
    >>> len(found.study.subjects), [chart.name for chart in found.study.charts]
    (2, ['densities-by-depth', 'similarity'])
    """

    def base(mask: Mask) -> nn.Module:
        return backbone_of(mask, weights=settings.weights, download=settings.download).module

    found = study(settings.masks, base_of=base if settings.base else None)
    return Analysis(found, tuple(found.save(settings.out)) if settings.out is not None else ())


analyze = call(AnalyzeSettings, run)
