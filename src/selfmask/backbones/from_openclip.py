"""CLIP through open_clip (extra `clip`): the tower that sees as a backbone, the one that reads for its head."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, measured_width, weights_name
from selfmask.backbones.hub import OFFLINE_CHOICES, hub_endpoint, in_hub_cache, require_reachable
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.state import load_strict, read_state_dict
from selfmask.errors import BackboneError, MissingExtraError
from selfmask.masking.presets import detect_family

if TYPE_CHECKING:
    from types import ModuleType

_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TEXTS_AT_ONCE = 64


class ClipVision(nn.Module):
    """The tower of a CLIP that sees, under `visual` as in the whole CLIP, so that its parameters keep their names.

    Images may have any size that the patches divide: where it is not the tower's own, the position embedding is
    resampled as it runs (bicubic, as open_clip does when it loads weights for another size), and stays as it is.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings in the space shared with texts, not normalised: (B, 3, H, W) to (B, width)."""
        table = getattr(self.visual, "positional_embedding", None)
        stem = getattr(self.visual, "conv1", None)
        if isinstance(table, Tensor) and isinstance(stem, nn.Conv2d):
            height, width = (side // stem.stride[0] for side in images.shape[-2:])
            if height * width != table.shape[0] - 1:
                other = {"positional_embedding": resampled(table, height, width)}
                return torch.func.functional_call(self.visual, other, (images,))
        return self.visual(images)


class ClipText:
    """The tower of a CLIP that reads, frozen. `embed` gives what a backbone's features are compared with."""

    def __init__(self, clip: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        self._clip = clip.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        scale = getattr(clip, "logit_scale", None)
        self.logit_scale = float(scale.detach().exp()) if isinstance(scale, Tensor) else 100.0

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """L2-normalised embeddings of `texts`, float32 (len(texts), width)."""
        encode: Any = getattr(self._clip, "encode_text")  # noqa: B009 - pyright takes the attribute for a Tensor
        chunks = [texts[i : i + _TEXTS_AT_ONCE] for i in range(0, len(texts), _TEXTS_AT_ONCE)]
        return torch.cat([F.normalize(encode(self._tokenizer(chunk)).float(), dim=-1) for chunk in chunks])


def build_from_openclip(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Backbone:
    """`openclip:ARCHITECTURE:TAG`, e.g. `openclip:ViT-B-32-quickgelu:openai`; the tag may be left out with a file.

    `weights` is a file of the whole CLIP. The backbone's features are the image embeddings before they are
    normalised; its `text` is the other tower. Raises `MissingExtraError` without open_clip.
    """
    open_clip = _open_clip()
    architecture, _, tag = name.partition(":")
    architectures = open_clip.list_models()
    if architecture not in architectures:
        near = did_you_mean(architecture, architectures)
        raise BackboneError(
            f"open_clip has no network {architecture!r}{near}; `open_clip.list_models()` lists them"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise BackboneError(
            f"open_clip has no weights {tag!r} for {architecture}{did_you_mean(tag, tags)}; "
            f"it has {', '.join(tags) or 'none'}"
        )
    fetch = pretrained and weights is None
    if fetch and not tag:
        raise BackboneError(
            f"openclip:{architecture} needs a tag, as in openclip:{architecture}:{next(iter(tags), 'TAG')} "
            f"({', '.join(tags) or 'it has none'}), or a file: --weights FILE"
        )
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    with _quietly():
        clip = open_clip.create_model(
            architecture,
            pretrained=_source(name, tag, config) if fetch else None,
            # It applies what a tag says of its weights to no architecture that says nothing, and only warns.
            force_quick_gelu=bool(config.get("quick_gelu")),
        )
    if weights is not None:
        load_strict(
            clip, read_state_dict(weights), str(weights), f"openclip:{name}", _converter(open_clip, clip)
        )
    visual = clip.visual
    clip.visual = nn.Identity()  # the text tower needs it not, and so it is not kept twice
    module = ClipVision(visual)
    recipe = _recipe({**open_clip.get_model_preprocess_cfg(visual), **config})
    return Backbone(
        module.eval(),
        f"openclip:{name}",
        detect_family(module),
        measured_width(module, recipe.size),
        recipe.at(image_size),
        weights_name(weights),
        image_size,
        fetch or weights is not None,
        ClipText(clip, open_clip.get_tokenizer(architecture)),
    )


def resampled(table: Tensor, height: int, width: int) -> Tensor:
    """A position embedding (1 + side², C), class token first, for a grid of height × width patches."""
    side = math.isqrt(table.shape[0] - 1)
    grid = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid.permute(0, 2, 3, 1).flatten(0, 2)])


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("CLIP needs open_clip: pip install 'selfmask[clip]'") from error
    return open_clip


def _source(name: str, tag: str, config: dict[str, Any]) -> str:
    """What open_clip loads: a file fetched before, or the tag where the hub answers."""
    repository = str(config.get("hf_hub", "")).strip("/")
    cached = in_hub_cache(repository, *_WEIGHT_FILES) if repository.count("/") == 1 else None
    if cached is not None:
        return str(cached)
    address = hub_endpoint() if repository else str(config.get("url", ""))
    require_reachable(address, f"the weights of openclip:{name}")
    return tag


def _converter(open_clip: ModuleType, clip: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    from open_clip import convert

    return lambda state: convert.convert_state_dict(clip, state)


def _recipe(config: dict[str, Any]) -> Preprocessing:
    size = config.get("size", 224)
    (r, g, b), (u, v, w) = config["mean"], config["std"]
    return Preprocessing(
        (r, g, b),
        (u, v, w),
        int(size if isinstance(size, int) else size[0]),
        "bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        1.0,  # open_clip resizes the short side to the input size and cuts the centre (SigLIP's it squashes)
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """open_clip warns of random weights through the root logger, also where a file is about to be loaded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:  # a hub's client raises whatever its HTTP library does
        raise BackboneError(f"open_clip could not load: {error}; {OFFLINE_CHOICES}") from error
    finally:
        root.setLevel(level)
