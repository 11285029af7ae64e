"""`selfmask export`: the adapted network as a program, ONNX or torch.export."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selfmask._common.calls import call
from selfmask.backbones.spec import backbone_of
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.maskfile.mask import Mask
from selfmask.tasks.opening import (
    check_out,
    check_own_size,
    check_recorded_weights,
    check_size,
    open_mask,
)


@dataclass(frozen=True)
class ExportSettings:
    """Apply a mask to its backbone and write the adapted network as a program that needs neither of them."""

    mask: Path
    """The mask file, or a run's folder."""
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
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_out(self.out, mask_file=self.mask, file_of_weights=self.weights)


@dataclass(frozen=True)
class Input:
    """What the program takes: shape, and the mean and deviation of the channels in [0, 1] to normalise with."""

    shape: tuple[str | int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Exported:
    """The program that was written. classes: of the logits, where they are known."""

    out: str
    bytes: int
    input: Input
    output: Literal["features", "logits"]
    classes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return asdict(self)


def run(settings: ExportSettings) -> Exported:
    """Build, check, apply, trace, write.

    >>> written = selfmask.export("runs/photos", "photos.pt2", head=True)
    >>> written.output, written.classes, written.input.shape
    ('logits', ('0', '1'), ('batch', 3, 32, 32))
    """
    mask = open_mask(settings.mask)
    check_recorded_weights(settings.out, mask)
    backbone = backbone_of(mask, settings.backbone, settings.weights, download=settings.download)
    recipe = backbone.preprocessing
    size = settings.size or recipe.size
    check_own_size(backbone, size)
    classes = (mask.classes or ()) if settings.head else ()
    module = baked_module(mask, backbone.module, head=settings.head)
    about = {"preprocessing": recipe.describe() | {"size": size}, "classes": list(classes)}
    path = export_module(module, settings.out, size, about)
    shape = Input(("batch", 3, size, size), tuple(recipe.mean), tuple(recipe.std))
    return Exported(str(path), path.stat().st_size, shape, "logits" if settings.head else "features", classes)


export = call(ExportSettings, run)


class Classifier(nn.Module):
    """A backbone and a linear head: normalised images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, backbone: nn.Module, head: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        weight = head["weight"].float()
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(head["bias"].float() if "bias" in head else torch.zeros(len(weight)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def baked_module(mask: Mask, model: nn.Module, *, head: bool = False) -> nn.Module:
    """A copy of `model` with `mask` applied for good, in evaluation mode; with `head`, a `Classifier` around it.

    Raises `SettingsError` where the mask file carries no linear head.
    """
    adapted = copy.deepcopy(model).eval()
    mask.apply(adapted)
    if not head:
        return adapted
    if mask.head.get("weight") is None or mask.head["weight"].dim() != 2:
        raise SettingsError(f"{mask.path.name} carries no linear head (tensors 'weight' and 'bias')")
    return Classifier(adapted, mask.head).eval()


def export_module(
    module: nn.Module, path: str | os.PathLike[str], size: int, about: Mapping[str, Any] | None = None
) -> Path:
    """Write `module` as a program for batches of `size` × `size` images: ONNX (.onnx) or torch.export (.pt2).

    The batch size stays free. Its input is float32 (B, 3, size, size), normalised as the mask's metadata says.
    `about` (JSON-able) goes along: as ONNX metadata, or as extra files of the torch.export archive.

    Raises:
        SettingsError: another suffix.
        MissingExtraError: ONNX without the extra "onnx".
    """
    path = Path(path)
    images = torch.zeros(2, 3, size, size)
    if path.suffix not in (".onnx", ".pt2"):
        raise SettingsError(
            f"{path}: export writes ONNX (.onnx) or torch.export (.pt2), told apart by the suffix"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        if path.suffix == ".pt2":
            program = torch.export.export(module, (images,), dynamic_shapes=({0: batch},))
            torch.export.save(
                program, temporary, extra_files={k: json.dumps(v) for k, v in (about or {}).items()}
            )
        else:
            try:
                import onnxscript  # noqa: F401
            except ImportError as error:
                raise MissingExtraError(
                    "ONNX needs the extra 'onnx': pip install 'selfmask[onnx]'"
                ) from error
            torch.onnx.export(
                module,
                (images,),
                temporary,
                dynamo=True,
                dynamic_shapes=({0: batch},),
                external_data=False,
                verbose=False,
                input_names=["images"],
                output_names=["output"],
            )
            _annotate(temporary, about or {})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _annotate(path: Path, about: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.save(model, path)
