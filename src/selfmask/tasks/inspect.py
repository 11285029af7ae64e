"""`selfmask inspect`: what a mask file holds and what each part of it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask._common.calls import call
from selfmask.maskfile.codec import GapModel, Golomb
from selfmask.maskfile.mask import Mask
from selfmask.tasks.opening import open_mask


@dataclass(frozen=True)
class InspectSettings:
    """Show what is in a mask file: weights, density, bytes by part, the backbone, how it was learnt."""

    mask: Path
    """The mask file, or a run's folder."""
    tensors: bool = False
    """Also a line for each masked tensor."""


@dataclass(frozen=True)
class Inspection:
    """A mask file, read and checked; `tensors`: whether each is to be shown."""

    mask: Mask
    tensors: bool = False

    def document(self) -> dict[str, Any]:
        """All of it, JSON-able; densities are shares in [0, 1], bytes are whole numbers."""
        mask, flipped = self.mask, self.flipped()
        weights, on = mask.index.weights, sum(mask.on.values())
        return {
            "file": str(mask.path),
            "format": "1",
            "bytes": mask.bytes(),
            "weights": weights,
            "on": on,
            "density": mask.density(),
            "flipped": None if flipped is None else sum(flipped.values()),
            "bits_per_weight": 8 * mask.bytes()["masks"] / weights if weights else 0.0,
            "tensors": {
                name: {
                    "shape": list(mask.shape(name)),
                    "weights": mask.numel(name),
                    "on": mask.on[name],
                    "density": mask.on[name] / mask.numel(name) if mask.numel(name) else 1.0,
                    "flipped": None if flipped is None else flipped[name],
                    "coding": self._coding(name),
                }
                for name in mask.names
            },
            "statistics": list(mask.statistics),
            "trained": list(mask.trained),
            "norms": list(mask.norms),
            "head": {name: list(tensor.shape) for name, tensor in mask.head.items()},
            "head_dtype": mask.head_dtypes,
            "base": {"fingerprint": mask.index.base.fingerprint, "tensors": len(mask.index.base.tensors)},
            "learnt_on": mask.learnt_on,
            **{
                key: mask.metadata.get(key)
                for key in ("rule", "selection", "backbone", "preprocessing", "training", "budget")
            },
            "selfmask": mask.metadata.get("selfmask"),
            "metadata": mask.metadata,
        }

    def flipped(self) -> dict[str, int] | None:
        """By tensor, how many bits differ from the mask before the first step; None where the file does not say."""
        kept, names = self.mask.metadata.get("flipped"), self.mask.names
        bits = kept.get("bits") if isinstance(kept, dict) else None
        if not isinstance(bits, list) or len(bits) != len(names) or any(type(n) is not int for n in bits):
            return None
        return dict(zip(names, bits, strict=True))

    def _coding(self, name: str) -> str:
        coded = self.mask.index.masks[name]
        if coded.packed:
            return "packed"
        kinds = {GapModel: "entropy", Golomb: "Golomb"}
        used = [
            word for kind, word in kinds.items() if any(isinstance(model, kind) for model in coded.models)
        ]
        words = [" and ".join(used) or "constant"]
        if coded.rows:
            words.append(f"{len(coded.rows)} classes of rows")
        return ", ".join(words)


def run(settings: InspectSettings) -> Inspection:
    """Read and check. The bits themselves are not decoded.

    >>> found = selfmask.inspect("runs/photos").document()
    >>> found["learnt_on"], sorted(found["bytes"])
    ('package:efficientnet_lite0', ['file', 'head', 'masks', 'metadata', 'norms', 'statistics'])
    """
    return Inspection(open_mask(settings.mask, rejected=True), settings.tensors)


inspect = call(InspectSettings, run)
