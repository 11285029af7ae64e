"""Which parameters are masked in each family of networks, and why (PAPER §5).

A preset is a yes or no for each parameter, decided by its name and by the module that owns it. It works on
any library's layout of a family (timm, torchvision, transformers, open_clip, the authors' own), because it
asks for the kind of the owner (a convolution, a linear layer, a norm) first and for names only where the
kind does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from selfmask._common.near import did_you_mean
from selfmask.errors import SelectionError

Choice = Callable[[str, nn.Parameter, nn.Module], bool]

MIN_WEIGHTS = 256
"""The smallest tensor that `generic` masks: in a smaller one a single bit is more than 0.4 % of it."""

_STEM_CHANNELS = 4
"""A convolution with at most so many input channels reads the image (grey, RGB, RGBA)."""

_HEADS = frozenset(
    (
        "head",
        "heads",
        "head_dist",
        "fc",
        "classifier",
        "logits",
        "last_linear",
        "projection_head",
        "prototypes",
    )
)
_GATES = frozenset(("se", "se_layer", "se_module", "squeeze_excite", "squeeze_excitation"))
_TEXT_TOWERS = frozenset(("text", "text_model", "text_encoder", "text_decoder"))
_SHORTCUTS = frozenset(("downsample", "shortcut"))
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_NUMBERED_BLOCK = re.compile(r"(?:^|[._])\d+\.")


@dataclass(frozen=True)
class Preset:
    """The masked parameters of one family.

    `chosen(name, parameter, owner)` says whether the parameter `name` (as in `model.named_parameters()`),
    held by the module `owner`, is masked. `why` is one sentence for the user: what was chosen and why.
    """

    name: str
    chosen: Choice
    why: str


def preset(family: str, model: nn.Module | None = None) -> Preset:
    """The preset of `family`: one of `FAMILIES`.

    With `model`, two things are known that names alone cannot tell: the tower that sees, in a CLIP with its
    text tower, and the last linear layer of a `generic` network, which may be its classifier; both are kept
    out of the mask. Raises `SelectionError` for an unknown family, with near misses.
    """
    if family not in _PRESETS:
        raise SelectionError(
            f"unknown preset {family!r}{did_you_mean(family, FAMILIES)}; "
            f"the presets are {', '.join(FAMILIES)}"
        )
    choice, why = _PRESETS[family]
    if model is not None and family == "clip":
        choice = _seeing_tower(choice, model)
    if model is not None and family == "generic":
        choice = _before_the_last_linear(choice, model)
    return Preset(family, choice, why)


def detect_family(model: nn.Module) -> str:
    """The family of a model, from the class names of it and, where those say nothing, of its parts.

    A network wrapped in a user's own module is found; one of no known family is "generic".
    """
    if any(type(part).__name__ == "ModifiedResNet" for part in model.modules()):
        return "resnet"  # a CLIP whose seeing tower is a ResNet
    for part in model.modules():
        family = _family_of_class(type(part))
        if family is not None:
            return family
    return "generic"


def _resnet(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    if isinstance(owner, _NORMS):
        return not _SHORTCUTS.isdisjoint(name.split("."))
    return _is_convolution_weight(name, owner) and not _is_gate(name, owner) and not _is_head(name)


def _mobile(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    return (
        _is_convolution_weight(name, owner)
        and all(size == 1 for size in parameter.shape[2:])
        and not _is_depthwise(owner)
        and not _is_stem(name, owner)
        and not _is_gate(name, owner)
        and not _is_head(name)
    )


def _transformer(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    if not _NUMBERED_BLOCK.search(name) or _is_head(name) or "cpb_mlp" in name:
        return False  # `cpb_mlp` computes Swin's position bias: no projection
    if name.rpartition(".")[2] in ("q_bias", "k_bias", "v_bias"):
        return True  # BEiT, EVA and Swin v2 keep these outside of their linear layer
    return isinstance(owner, nn.Linear | nn.MultiheadAttention)


def _clip(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    parts = name.split(".")
    return (
        _TEXT_TOWERS.isdisjoint(parts) and parts[0] != "transformer" and _transformer(name, parameter, owner)
    )


def _convnext(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    if isinstance(owner, nn.Linear):
        return name.endswith(".weight") and bool(_NUMBERED_BLOCK.search(name)) and not _is_head(name)
    return (
        _is_convolution_weight(name, owner)
        and not _is_depthwise(owner)
        and not _is_stem(name, owner)
        and not _is_head(name)
    )


def _generic(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    is_weight = name.rpartition(".")[2] in ("weight", "in_proj_weight")
    return (
        is_weight
        and isinstance(owner, _ConvNd | nn.Linear | nn.MultiheadAttention)
        and parameter.numel() >= MIN_WEIGHTS
        and not _is_depthwise(owner)
        and not _is_stem(name, owner)
        and not _is_gate(name, owner)
        and not _is_head(name)
    )


def _seeing_tower(choice: Choice, model: nn.Module) -> Choice:
    """`clip`, given the model: only what is under `visual` or `vision_model`, where there is such a part."""
    towers = {"visual", "vision_model"}
    if any(not towers.isdisjoint(name.split(".")) for name, _ in model.named_parameters()):
        return lambda name, parameter, owner: (
            not towers.isdisjoint(name.split(".")) and _transformer(name, parameter, owner)
        )
    return (
        _transformer  # the seeing tower alone, whose names are those that the text tower has in a whole CLIP
    )


def _before_the_last_linear(choice: Choice, model: nn.Module) -> Choice:
    leaves = [part for part in model.modules() if next(part.parameters(recurse=False), None) is not None]
    last = leaves[-1] if leaves and isinstance(leaves[-1], nn.Linear) and len(leaves) > 1 else None
    return lambda name, parameter, owner: owner is not last and choice(name, parameter, owner)


def _is_convolution_weight(name: str, owner: nn.Module) -> bool:
    return isinstance(owner, _ConvNd) and name.rpartition(".")[2] == "weight"


def _is_depthwise(owner: nn.Module) -> bool:
    return isinstance(owner, _ConvNd) and owner.groups > 1 and owner.groups == owner.in_channels


_STEM = re.compile(r"(^|_)stem(_|\d|$)|^patch_embed$")


def _is_stem(name: str, owner: nn.Module) -> bool:
    reads_image = isinstance(owner, _ConvNd) and owner.in_channels <= _STEM_CHANNELS
    return reads_image or any(_STEM.search(part) is not None for part in name.split("."))


def _is_gate(name: str, owner: nn.Module) -> bool:
    """Squeeze-and-excitation; torchvision's is known only by its 1 × 1 convolutions `fc1` and `fc2`."""
    parts = name.split(".")
    if not _GATES.isdisjoint(parts):
        return True
    return (
        isinstance(owner, _ConvNd) and len(parts) > 1 and parts[-2] in ("fc1", "fc2") and "mlp" not in parts
    )


def _is_head(name: str) -> bool:
    return not _HEADS.isdisjoint(name.split("."))


def _family_of_class(kind: type[nn.Module]) -> str | None:
    if kind.__module__.startswith("open_clip") and kind.__name__ == "VisionTransformer":
        return "clip"
    for ancestor in kind.__mro__:
        for pattern, family in _CLASS_NAMES:
            if re.search(pattern, ancestor.__name__):
                return family
    return None


# The first pattern that matches wins.
_CLASS_NAMES = (
    (r"^(Custom\w*)?CLIP|^Clip(?!p)|^Siglip", "clip"),
    (r"^DinoVisionTransformer|^Dinov2", "dinov2"),
    (r"Swin", "swin"),
    (r"ConvNe[Xx]t", "convnext"),
    (r"EfficientNet", "efficientnet"),
    (r"Mobile[Nn]et", "mobilenet"),
    (r"ResNe[Xt]", "resnet"),
    (r"VisionTransformer|^ViT|^Dei[Tt]|^Bei[Tt]|^Eva$|^DINOv3ViT|^IJepa", "vit"),
)

_WHY_TRANSFORMER = (
    "weights and biases of the q, k, v and output projections and of both MLP layers of every block, as in "
    "the paper (Appendix Fig. 2); norms, embeddings, layer scales and heads stay as they are"
)
_WHY_MOBILE = (
    "the 1 × 1 convolutions, which hold nearly all weights; the depthwise and the stem convolutions have few "
    "weights per output, so that turning off 0.1 % of them already destroys the network, and a gate "
    "(squeeze-and-excitation) scales whole channels; norms and heads stay as they are"
)

_PRESETS: dict[str, tuple[Choice, str]] = {
    "resnet": (
        _resnet,
        "every convolution, the stem's included, and the weights and biases of the norms of the downsampling "
        "layers, as the paper counts them (23 462 592 in a ResNet-50); masking the other norms destroys "
        "accuracy (Supp. Table 1b); heads stay as they are",
    ),
    "efficientnet": (_mobile, _WHY_MOBILE),
    "mobilenet": (_mobile, _WHY_MOBILE),
    "vit": (_transformer, _WHY_TRANSFORMER),
    "dinov2": (_transformer, _WHY_TRANSFORMER),
    "clip": (_clip, f"in the tower that sees, {_WHY_TRANSFORMER}; the text tower is not touched"),
    "swin": (
        _transformer,
        f"{_WHY_TRANSFORMER}, and so does the position bias; the merging layers between stages are masked "
        "too, as a ResNet's downsampling layers are",
    ),
    "convnext": (
        _convnext,
        "the weights of the two pointwise layers of every block and of the downsampling convolutions, which "
        "hold nearly all weights; depthwise convolutions and the stem are fragile (few weights per output); "
        "biases, norms, layer scales and heads stay as they are",
    ),
    "generic": (
        _generic,
        f"the weights of convolutions and linear layers of at least {MIN_WEIGHTS} weights, as the network "
        "is of no family known here; not the convolution that reads the image, depthwise ones and gates "
        "(fragile: few weights per output), not the last linear layer (it may be a classifier), no biases, "
        "norms or heads",
    ),
}

FAMILIES: tuple[str, ...] = tuple(_PRESETS)
