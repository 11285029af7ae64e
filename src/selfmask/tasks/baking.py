"""Baking: the adapted network as ordinary weights, or as a program, for tools that know nothing of masks."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as serialised
from torch import Tensor, nn

from selfmask._common.files import write_atomically
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.maskfile.mask import Mask


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


def export(module: nn.Module, path: str | os.PathLike[str], size: int) -> Path:
    """Write `module` as a program for batches of `size` × `size` images: ONNX (.onnx) or torch.export (.pt2).

    The batch size stays free. Its input is float32 (B, 3, size, size), normalised as the mask's metadata says.

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
            torch.export.save(program, temporary)
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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
