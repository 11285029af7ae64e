"""Any network of timm: with weights from the hub, from a file, or none."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_data_config
from timm.layers.patch_embed import PatchEmbed
from torch import nn

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, measured_width, weights_name
from selfmask.backbones.hub import (
    OFFLINE_CHOICES,
    hub_endpoint,
    in_hub_cache,
    require_reachable,
    torch_checkpoint,
)
from selfmask.backbones.preprocessing import MOST_PIXELS, Preprocessing
from selfmask.backbones.state import StateDict, load_strict, read_state_dict
from selfmask.errors import BackboneError
from selfmask.masking.presets import detect_family

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def build_from_timm(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool, spec: str | None = None
) -> Backbone:
    """`timm:NAME`, e.g. `timm:resnet18` or `timm:resnet50.a1_in1k`; features are pooled, without a classifier.

    With `weights` (a file), every tensor of the file and of the network must fit, the classifier excepted. The
    position embedding of a transformer is kept as it is in the file and resampled for each input size as it
    runs, so that one mask serves views of every size.
    """
    require_known(name)
    state = None if weights is None else read_state_dict(weights)
    module, tag = _create(name, state, image_size, pretrained and state is None)
    if state is not None:
        load_strict(module, state, str(weights), f"timm:{name}", _timm_layout(module))
    recipe = preprocessing_of(module).at(_native_size(state)).at(image_size)
    return Backbone(
        module.eval(),
        spec or f"timm:{name}{tag}",
        detect_family(module),
        _width(module, recipe.size),
        recipe,
        weights_name(weights),
        image_size,
        pretrained or state is not None,
    )


def require_known(name: str) -> None:
    """Raise `BackboneError` with near misses where timm has no network or no tag of that name."""
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        near = did_you_mean(bare, timm.list_models())
        raise BackboneError(f"timm has no network {bare!r}{near}; `timm.list_models()` lists them")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{bare}.*")] if tag else []
    if tag and tag not in tags:
        raise BackboneError(
            f"timm's {bare} has no weights {tag!r}{did_you_mean(tag, tags)}; it has {', '.join(tags) or 'none'}"
        )


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """The evaluation recipe that timm records for a network (`pretrained_cfg`)."""
    config: dict[str, Any] = resolve_data_config(getattr(module, "pretrained_cfg", {}), model=module)
    return Preprocessing(
        tuple(config["mean"]),
        tuple(config["std"]),
        config["input_size"][-1],
        "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        config["crop_pct"],
    )


def _create(
    name: str, state: StateDict | None, image_size: int | None, pretrained: bool
) -> tuple[nn.Module, str]:
    """The network, and the tag of its weights where the name left it to timm (".a1_in1k")."""
    source = _source(name) if pretrained else {}
    module = None
    for settings in _sizes(state, image_size):
        try:
            module = timm.create_model(name, pretrained=pretrained, num_classes=0, **source, **settings)
            break
        except Exception as error:  # a hub's client raises whatever its HTTP library does
            if isinstance(error, TypeError) and "unexpected keyword" in str(error):
                continue  # this network has no such setting: try the next
            if not pretrained:
                raise BackboneError(f"timm cannot build {name}: {error}") from error
            raise BackboneError(
                f"the weights of timm:{name} could not be fetched: {error}; {OFFLINE_CHOICES}"
            ) from error
    assert module is not None  # the last setting is the empty one
    embed = getattr(module, "patch_embed", None)
    if isinstance(embed, PatchEmbed):
        embed.dynamic_img_pad = True  # views whose size is no multiple of the patch get a border
    tag = (getattr(module, "pretrained_cfg", None) or {}).get("tag")
    return module, f".{tag}" if pretrained and tag and "." not in name else ""


def _sizes(state: StateDict | None, image_size: int | None) -> list[dict[str, Any]]:
    """Settings to try in turn: a transformer whose size is free as it runs, one of fixed size, a network of any."""
    size = _native_size(state)
    if size is not None:
        return [{"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}]
    fixed = [] if image_size is None else [{"img_size": image_size}]
    return [{"dynamic_img_size": True}, *fixed, {}]


def _source(name: str) -> dict[str, Any]:
    """Where timm shall find the weights: what was fetched before, or its own source where that answers."""
    config = timm.get_pretrained_cfg(name)
    what = f"the weights of timm:{name}"
    if config is None or not (config.hf_hub_id or config.url):
        raise BackboneError(
            f"timm has no weights for {name}; give a file: --weights FILE, or choose another tag"
        )
    if config.hf_hub_id:
        wanted = (config.hf_hub_filename,) if config.hf_hub_filename else _WEIGHT_FILES
        cached = in_hub_cache(str(config.hf_hub_id), *wanted)
        if cached is not None:
            return {"pretrained_cfg_overlay": {"file": str(cached)}}
        require_reachable(hub_endpoint(), what)
        return {}
    url = str(config.url)
    if torch_checkpoint(url).is_file():
        return {"pretrained_cfg_overlay": {"file": str(torch_checkpoint(url))}}
    require_reachable(url, what)
    return {}


def _native_size(state: StateDict | None) -> int | None:
    """The image size that a file's position embedding is for, in pixels; None where it has none."""
    table, patch = (state or {}).get("pos_embed"), (state or {}).get("patch_embed.proj.weight")
    if state is None or table is None or patch is None or table.ndim != 3 or patch.ndim != 4:
        return None
    tokens = table.shape[1]
    others = (state[one] for one in ("cls_token", "reg_token", "dist_token") if one in state)
    extra = sum(one.shape[1] for one in others if one.ndim == 3)
    grid = next(
        (math.isqrt(n) for n in (tokens, tokens - extra, tokens - 1) if n > 0 and math.isqrt(n) ** 2 == n), 0
    )
    size = grid * patch.shape[-1]
    return size if 1 <= size <= MOST_PIXELS else None


def _width(module: nn.Module, size: int) -> int:
    try:
        return measured_width(module, min(64, size))
    except BackboneError:  # a network of fixed size
        return measured_width(module, size)


def _timm_layout(module: nn.Module) -> Any:
    """timm's own conversion of the authors' layouts for this network, where it has one."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return None if convert is None else lambda state: convert(state, module)
