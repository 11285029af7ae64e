"""`selfmask apply`: the adapted weights as an ordinary file, for any other tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfmask.backbones.spec import backbone_of
from selfmask.cli.destination import check_out
from selfmask.cli.output import print_json
from selfmask.cli.recorded_weights import check_recorded_weights
from selfmask.maskfile.loading import load
from selfmask.tasks.baking import save_baked


@dataclass(frozen=True)
class ApplySettings:
    """Apply a mask to its backbone and write the adapted weights (θ·M/α) as a safetensors file of a state dict."""

    mask: Path
    """The mask file."""
    out: Path
    """The file of weights to write; `load_state_dict` of the backbone reads it."""
    backbone: str | None = None
    """The backbone, where the mask file does not say which it was learnt on."""
    weights: Path | None = None
    """The backbone's own file of weights, if it had one."""
    head: bool = False
    """Write the head that the mask file carries as well, under head.*"""
    json: bool = False
    """Print one JSON document instead of text."""

    def __post_init__(self) -> None:
        check_out(self.out, mask_file=self.mask, file_of_weights=self.weights)


def run(settings: ApplySettings) -> int:
    """Build the backbone, check it, apply, write."""
    mask = load(settings.mask)
    check_recorded_weights(settings.out, mask)
    backbone = backbone_of(mask, settings.backbone, settings.weights)
    path = save_baked(settings.out, mask, backbone.module, head=settings.head)
    size = path.stat().st_size
    if settings.json:
        print_json(
            {
                "out": str(path),
                "bytes": size,
                "tensors": len(mask.index.base.tensors),
                "backbone": backbone.spec,
            }
        )
    else:
        print(
            f"{path}: {size:,} bytes, {backbone.spec} with {100 * mask.density():.2f} % of its masked weights on"
        )
    return 0
