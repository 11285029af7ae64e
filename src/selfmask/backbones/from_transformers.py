"""Vision networks of the transformers library (extra `transformers`), from the hub or from a local folder."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from selfmask.backbones.backbone import Backbone, measured_width, weights_name
from selfmask.backbones.from_module import pool_output
from selfmask.backbones.hub import (
    OFFLINE_CHOICES,
    hub_endpoint,
    in_hub_cache,
    known_to_lack,
    require_reachable,
)
from selfmask.backbones.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from selfmask.backbones.state import load_strict, read_state_dict
from selfmask.errors import BackboneError, MissingExtraError
from selfmask.masking.presets import detect_family

if TYPE_CHECKING:
    from types import ModuleType

_RECIPE = "preprocessor_config.json"
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_AS_USUAL = {"do_rescale": True, "do_flip_channel_order": False, "rescale_offset": False}
_BILINEAR = 2  # PIL's number, which transformers writes into preprocessor_config.json


def build_from_transformers(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Backbone:
    """`hf:NAME`: a repository of the hub (`hf:facebook/dinov2-small`) or a folder with a config.json.

    The features are the library's pooled output: the class token after the last norm, or the mean over the image.
    The pooling layer of BERT's kind, which many checkpoints lack, is taken off; of a CLIP the tower that sees is
    kept. No code from the hub is run. Raises `MissingExtraError` without transformers.
    """
    transformers = _transformers()
    fetch = pretrained and weights is None
    place = _place(name, fetch)
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0  # a masked autoencoder would leave patches out at random
        if fetch:
            module, loading = transformers.AutoModel.from_pretrained(
                place, config=config, output_loading_info=True, trust_remote_code=False
            )
        else:
            module, loading = transformers.AutoModel.from_config(config), {}
    except Exception as error:  # a hub's client raises whatever its HTTP library does
        raise BackboneError(
            f"transformers could not load {name}: {_first_line(error)}; {OFFLINE_CHOICES}"
        ) from error
    module = _seeing(module).float()  # a checkpoint in half precision is loaded as it is
    _refuse_random(name, module, loading)
    if weights is not None:
        load_strict(module, read_state_dict(weights), str(weights), f"hf:{name}")
    _take_any_size(module)
    pool_output(module)
    try:
        recipe = _recipe(place, config).at(image_size)
    except (
        AttributeError,
        IndexError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:
        raise BackboneError(
            f"the preprocessor_config.json of {name} does not describe a preprocessing: {_first_line(error)}"
        ) from error
    return Backbone(
        module.eval(),
        f"hf:{name}",
        detect_family(module),
        measured_width(module, recipe.size),
        recipe,
        weights_name(weights),
        image_size,
        fetch or weights is not None,
    )


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("hf: needs transformers: pip install 'selfmask[transformers]'") from error
    return transformers


def _place(name: str, fetch: bool) -> str:
    """A folder to load from without a network, or the name itself where the hub answers."""
    if os.path.isfile(Path(name) / "config.json"):  # False for a name that is too long, too
        return name
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise BackboneError(f"{name} is neither OWNER/NAME on the hub nor a folder with a config.json")
    config = in_hub_cache(name, "config.json")
    weights = not fetch or in_hub_cache(name, *_WEIGHT_FILES) is not None
    if config is not None and weights and (in_hub_cache(name, _RECIPE) or known_to_lack(name, _RECIPE)):
        return str(config.parent)
    require_reachable(hub_endpoint(), f"the files of hf:{name}")
    return name


def _seeing(module: nn.Module) -> nn.Module:
    tower = getattr(module, "vision_model", None)
    module = tower if isinstance(tower, nn.Module) and hasattr(module, "text_model") else module
    pooler = getattr(module, "pooler", None)
    if isinstance(pooler, nn.Module) and hasattr(pooler, "dense"):
        module.pooler = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return module


def _refuse_random(name: str, module: nn.Module, loading: dict[str, Any]) -> None:
    """Tensors that the checkpoint lacks were drawn at random: no mask could be rebuilt on them."""
    ours = set(module.state_dict())
    missing = sorted(
        key
        for key in loading.get("missing_keys", ())
        if key in ours or key.removeprefix("vision_model.") in ours
    )
    if missing:
        raise BackboneError(
            f"the weights of hf:{name} lack {missing[0]} and {len(missing) - 1} more of the network's tensors, so that "
            "these would be random; choose another checkpoint"
        )


def _take_any_size(module: nn.Module) -> None:
    """Have the position embedding resampled for views of another size, where the network can."""
    known = inspect.signature(module.forward).parameters
    if "interpolate_pos_encoding" in known:
        module.register_forward_pre_hook(_with_resampling, with_kwargs=True)
    if "noise" in known:
        module.register_forward_pre_hook(_in_order, with_kwargs=True)


def _in_order(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A masked autoencoder sorts its patches by noise, at random unless it is given: in their own order instead."""
    config: Any = module.config
    images, patch = args[0], config.patch_size
    count = (images.shape[2] // patch) * (images.shape[3] // patch)
    return args, {"noise": torch.arange(count, device=images.device).expand(len(images), -1), **kwargs}


def _with_resampling(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args, {"interpolate_pos_encoding": True, **kwargs}


def _recipe(place: str, config: Any) -> Preprocessing:
    """From preprocessor_config.json where there is one, else ImageNet's recipe at the network's own size."""
    vision = getattr(config, "vision_config", config)
    own = getattr(vision, "image_size", None)
    said = _preprocessor_config(place)
    for key, usual in _AS_USUAL.items():
        if said.get(key) not in (None, usual):
            raise BackboneError(
                f"{_RECIPE} says {key}: {said[key]!r}, which no preprocessing here does: build the network yourself, "
                "with a layer before it that does, and give that (selfmask.backbones.from_module.from_module)"
            )
    cut = said.get("crop_size") if said.get("do_center_crop") is not False else None
    size = cut or said.get("size") or own or 224
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or own or 224
    size = size[0] if isinstance(size, list | tuple) else size
    resized = said.get("size")
    short = (resized.get("shortest_edge") or resized.get("height")) if isinstance(resized, dict) else resized
    short = short if cut and isinstance(short, int) else None
    crop = said.get("crop_pct") or (size / short if short and short >= size else 1.0)
    mean, std = said.get("image_mean") or IMAGENET_MEAN, said.get("image_std") or IMAGENET_STD
    (r, g, b), (u, v, w) = (mean, std) if said.get("do_normalize") is not False else ((0, 0, 0), (1, 1, 1))
    interpolation = "bilinear" if said.get("resample") == _BILINEAR else "bicubic"
    return Preprocessing((r, g, b), (u, v, w), int(size), interpolation, float(crop))


def _preprocessor_config(place: str) -> dict[str, Any]:
    file: Path | None = Path(place) / _RECIPE
    if not Path(place).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(place, _RECIPE))
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            # Out of reach is not absent: another recipe than its own would be wrong without a word.
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                raise BackboneError(
                    f"hf:{place}: its {_RECIPE} could not be fetched: {_first_line(error)}; {OFFLINE_CHOICES}"
                ) from error
            file = None
    return json.loads(file.read_text()) if file is not None and file.is_file() else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
