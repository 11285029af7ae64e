"""`selfmask export`: the adapted network as a program, ONNX or torch.export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfmask.backbones.spec import backbone_of
from selfmask.cli.destination import check_out
from selfmask.cli.image_side import check_size
from selfmask.cli.output import print_json
from selfmask.cli.recorded_weights import check_recorded_weights
from selfmask.maskfile.loading import load
from selfmask.tasks.baking import baked_module, export


@dataclass(frozen=True)
class ExportSettings:
    """Apply a mask to its backbone and write the adapted network as a program that needs neither of them."""

    mask: Path
    """The mask file."""
    out: Path
    """Where to: a file that ends in .onnx (ONNX) or .pt2 (torch.export)."""
    size: int | None = None
    """Side of the images in pixels; without it, the one that the mask was learnt at."""
    head: bool = False
    """Put the head that the mask file carries at the end: logits instead of features."""
    backbone: str | None = None
    """The backbone, where the mask file does not say which it was learnt on."""
    weights: Path | None = None
    """The backbone's own file of weights, if it had one."""
    json: bool = False
    """Print one JSON document instead of text."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_out(self.out, mask_file=self.mask, file_of_weights=self.weights)


def run(settings: ExportSettings) -> int:
    """Build, check, apply, trace, write."""
    mask = load(settings.mask)
    check_recorded_weights(settings.out, mask)
    backbone = backbone_of(mask, settings.backbone, settings.weights)
    recipe = backbone.preprocessing
    size = settings.size or recipe.size
    path = export(baked_module(mask, backbone.module, head=settings.head), settings.out, size)
    document = {
        "out": str(path),
        "bytes": path.stat().st_size,
        "input": {"shape": ["batch", 3, size, size], "mean": list(recipe.mean), "std": list(recipe.std)},
        "output": "logits" if settings.head else "features",
    }
    if settings.json:
        print_json(document)
    else:
        print(
            f"{path}: {document['bytes']:,} bytes; images of {size} × {size} pixels, float32 in [0, 1] less mean "
            f"{recipe.mean} over std {recipe.std}, to {document['output']}"
        )
    return 0
