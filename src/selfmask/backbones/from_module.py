"""A user's own network as a backbone, and features out of networks that return more than one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone, measured_width
from selfmask.backbones.from_timm import preprocessing_of
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SettingsError
from selfmask.masking.presets import detect_family, preset


def from_module(
    module: nn.Module, *, preprocessing: Preprocessing | None = None, family: str = "auto"
) -> Backbone:
    """A backbone out of any network that maps images (B, 3, H, W) to features.

    The network's parameters keep their names. Output of shape (B, C, H, W) is averaged over H and W; a
    transformers output is reduced to its pooled vector, its class token, or the mean of its tokens.
    `preprocessing` defaults to timm's record where the network has one, else to ImageNet's recipe at 224
    pixels. Take a classifier off before (timm: `model.reset_classifier(0)`), or the features are its logits.
    Raises `BackboneError` where a trial run fails and `SelectionError` for an unknown `family`.

    >>> backbone = from_module(nn.Conv2d(3, 16, 3), preprocessing=Preprocessing(size=32))
    >>> backbone.width, backbone.module(torch.zeros(2, 3, 32, 32)).shape
    (16, torch.Size([2, 16]))
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise SettingsError(
            f"preprocessing is a selfmask.Preprocessing(mean=…, std=…, size=…), got {type(preprocessing).__name__}"
        )
    if preprocessing is None:
        known = getattr(module, "pretrained_cfg", None)
        preprocessing = preprocessing_of(module) if known else Preprocessing()
    family = detect_family(module) if family == "auto" else preset(family).name
    pooled = is_pooled(module)
    pool_output(module)
    try:
        width = measured_width(module, preprocessing.size)
    except BaseException:
        if not pooled:
            unpool_output(module)
        raise
    return Backbone(module, None, family, width, preprocessing)


def pool_output(module: nn.Module) -> nn.Module:
    """Make `module` return features (B, width), by a hook on its output, so that no name changes.

    A module that returns them already is not slowed: the hook passes a two-dimensional tensor on.
    """
    if not is_pooled(module):
        module.register_forward_hook(_pooled)
    return module


def is_pooled(module: nn.Module) -> bool:
    """Whether `pool_output` was there."""
    return _pooled in module._forward_hooks.values()


def unpool_output(module: nn.Module) -> None:
    """Have `module` return what it returned before `pool_output`."""
    for number, hook in [*module._forward_hooks.items()]:
        if hook is _pooled:
            del module._forward_hooks[number]


def _pooled(module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output
    for name in ("image_embeds", "pooler_output"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return torch.flatten(value, 1)
    hidden = getattr(output, "last_hidden_state", None)
    if isinstance(hidden, Tensor):
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        named = (name.rpartition(".")[2] for name, _ in module.named_parameters())
        return hidden[:, 0] if _CLASS_TOKENS.intersection(named) else hidden.mean(dim=1)
    return output


_CLASS_TOKENS = {"cls_token", "class_embedding", "class_token"}
"""What the libraries call a transformer's; one without is an average of its patches."""
