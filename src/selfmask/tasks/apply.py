"""`selfmask apply`: the adapted weights as an ordinary file, for tools that know nothing of masks."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialised
from torch import Tensor, nn

from selfmask._common.calls import call
from selfmask._common.files import write_atomically
from selfmask.backbones.spec import backbone_of
from selfmask.errors import SettingsError
from selfmask.maskfile.mask import Mask
from selfmask.tasks.opening import check_out, check_recorded_weights, open_mask


@dataclass(frozen=True)
class ApplySettings:
    """Apply a mask to its backbone and write the adapted weights (θ·M/α) as a safetensors file of a state dict."""

    mask: Path
    """The mask file, or a run's folder."""
    out: Path
    """The file of weights to write; `load_state_dict` of the backbone reads it."""
    backbone: str | None = None
    """The backbone, where the mask file does not say which it was learnt on."""
    weights: Path | None = None
    """The backbone's own file of weights, if it had one."""
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""
    head: bool = False
    """Write the head that the mask file carries as well, under head.*"""

    def __post_init__(self) -> None:
        check_out(self.out, mask_file=self.mask, file_of_weights=self.weights)


@dataclass(frozen=True)
class Applied:
    """The file that was written. density: the share of the masked weights that is on, in [0, 1]."""

    out: str
    bytes: int
    tensors: int
    backbone: str | None
    density: float

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return asdict(self)


def run(settings: ApplySettings) -> Applied:
    """Build the backbone, check it, apply, write.

    >>> from safetensors.torch import load_file
    >>> written = selfmask.apply("runs/photos", "adapted.safetensors")
    >>> model = selfmask.build("package:efficientnet_lite0").module
    >>> model.load_state_dict(load_file("adapted.safetensors"))
    <All keys matched successfully>
    """
    mask = open_mask(settings.mask)
    check_recorded_weights(settings.out, mask)
    backbone = backbone_of(mask, settings.backbone, settings.weights, download=settings.download)
    path = save_baked(settings.out, mask, backbone.module, head=settings.head)
    return Applied(
        str(path), path.stat().st_size, len(mask.index.base.tensors), backbone.spec, mask.density()
    )


apply = call(ApplySettings, run)


def baked_state(mask: Mask, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` with `mask` applied, on the CPU; the model itself is as before.

    Raises `WrongBaseError` where `model` is not the mask's base.
    """
    with mask.apply(model) as adapted:
        return {name: t.detach().cpu().contiguous().clone() for name, t in adapted.state_dict().items()}


def save_baked(path: str | os.PathLike[str], mask: Mask, model: nn.Module, *, head: bool = False) -> Path:
    """Write `baked_state` as one safetensors file, whole or not at all; with `head`, the file's head as `head.*`."""
    state = baked_state(mask, model)
    if head:
        if not mask.head:
            raise SettingsError(f"{mask.path.name} carries no head")
        state |= {f"head.{name}": t for name, t in mask.head.items()}
    path = Path(path)
    write_atomically(path, serialised(state, metadata={"format": "pt"}))
    return path
