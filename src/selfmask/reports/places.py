"""Where in a network a parameter sits: its kind, its stage and its depth, read from names and shapes alone.

A mask file holds names and shapes but no model, so this is all that densities "by layer, kind and depth" can
be told from. The kinds are those of the paper's figures where it has one (App. Fig. 2 for transformers, App.
Fig. 3 for ResNets) and the field's own words elsewhere. timm, torchvision, open_clip and transformers name
their layers differently; a layer that none of the patterns below knows falls into a kind by its rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

_NUMBER = re.compile(r"(\d+)")

# (stage, block, rest) of a name inside a block; the first pattern that is found anywhere in the name counts.
_BLOCKS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("resnet", re.compile(r"(?:^|\.)(layer\d+)\.(\d+)\.(.+)$"), "{0}"),
    ("staged", re.compile(r"(?:^|\.)(stages\.\d+)\.(?:blocks\.)?(\d+)\.(.+)$"), "{0}"),
    ("staged", re.compile(r"(?:^|\.)(layers\.\d+)\.blocks\.(\d+)\.(.+)$"), "{0}"),
    ("staged", re.compile(r"(?:^|\.)(stages\.\d+)\.layers\.(\d+)\.(.+)$"), "{0}"),
    ("staged", re.compile(r"(?:^|\.)(blocks\.\d+)\.(\d+)\.(.+)$"), "{0}"),
    ("staged", re.compile(r"(?:^|\.)((?:stages|layers)\.\d+)\.()(downsampl(?:e|ing_layer)\..+)$"), "{0}"),
    ("plain", re.compile(r"(?:^|\.)()(?:res)?blocks\.(\d+)\.(.+)$"), "block {1}"),
    ("plain", re.compile(r"(?:^|\.)()layers?\.(\d+)\.(.+)$"), "block {1}"),
    ("plain", re.compile(r"(?:^|\.)()(?:encoder_layer_)(\d+)\.(.+)$"), "block {1}"),
)

# (kind, pattern on what follows the block's number); the first found counts. `{fused}` is split in three.
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("{fused}", re.compile(r"(^|\.)(qkv\.|in_proj_)")),
    ("q", re.compile(r"(^|\.)(q|q_proj|query)\.")),
    ("k", re.compile(r"(^|\.)(k|k_proj|key)\.")),
    ("v", re.compile(r"(^|\.)(v|v_proj|value)\.")),
    ("out", re.compile(r"(^|\.)(out_proj|o_proj|attn\.proj|attention\.output\.dense)\.")),
    ("fc1", re.compile(r"(^|\.)(fc1|c_fc|intermediate\.dense|linear_?1|pwconv1|mlp\.0)\.")),
    ("fc2", re.compile(r"(^|\.)(fc2|c_proj|output\.dense|linear_?2|pwconv2|mlp\.3)\.")),
    ("downsample", re.compile(r"(^|\.)(downsample|downsampling_layer|shortcut)\.")),
    ("squeeze-excitation", re.compile(r"(^|\.)se\.")),
    ("depthwise", re.compile(r"(^|\.)(conv_dw|depthwise\w*|dwconv)\.")),
    ("projection 1×1", re.compile(r"(^|\.)conv_pwl\.")),
    ("expansion 1×1", re.compile(r"(^|\.)conv_pw\.")),
)
_STEM = re.compile(r"(^|\.)(stem|conv_stem|conv1|patch_embed\w*|embeddings|embedder)\b")
_HEAD = re.compile(r"(^|\.)(conv_head|head|final_conv|pooler)\b")

KIND_ORDER = (
    "stem", "convolution", "downsample convolution", "downsample norm weight", "downsample norm bias",
    "downsample",
    "expansion 1×1", "depthwise", "projection 1×1", "squeeze-excitation",
    "q", "k", "v", "out", "fc1", "fc2", "norm", "linear", "vector", "head",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One tensor, or one third of a fused query-key-value tensor, and where it sits.

    Attributes:
        name: what to call it: the parameter's name, with `[q]`, `[k]` or `[v]` after a fused one's.
        parameter: the parameter's name in the model.
        kind: "convolution", "q", "fc1" and so on: see `KIND_ORDER`.
        part: "weight" or "bias".
        stage: "stem", "layer1" (ResNet), "blocks.2" (EfficientNet), "block 3" (transformer), "head".
        depth: 0 for the first; for a ResNet the running number of its convolutions, else that of its blocks.
        rows: the range of the first dimension that belongs to this place, or None for all of it.
    """

    name: str
    parameter: str
    kind: str
    part: str
    stage: str
    depth: int
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Raw:
    name: str
    layout: str  # "resnet", "staged", "plain" or "outside"
    kind: str
    part: str
    stage: str
    block: tuple[int, ...]  # sorts by depth
    shape: tuple[int, ...]


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key that puts `blocks.2` before `blocks.10`."""
    pieces = _NUMBER.split(name)
    return tuple((1, int(piece)) if piece.isdigit() else (0, piece) for piece in pieces if piece)


def locate(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...]:
    """The place of each parameter, in the order of the network: stem, blocks by depth, head.

    `shapes` maps parameter names to their shapes. Fused query-key-value tensors whose first dimension is a
    multiple of three give three places; every other parameter gives one.
    """
    raw = [_read(name, shape) for name, shape in shapes.items()]
    raw = _name_pointwise_projections(_name_resnet_stem(raw))
    raw.sort(key=lambda item: (item.block, natural_key(item.name)))
    places: list[Place] = []
    for item, depth in zip(raw, _depths(raw), strict=True):
        place = Place(item.name, item.name, item.kind, item.part, item.stage, depth)
        if item.kind != "{fused}":
            places.append(place)
        elif item.shape and item.shape[0] % 3 == 0:
            width = item.shape[0] // 3
            places.extend(
                replace(place, name=f"{item.name}[{kind}]", kind=kind, rows=(i * width, (i + 1) * width))
                for i, kind in enumerate("qkv")
            )
        else:  # a fused tensor of unequal parts (grouped-query attention): its parts cannot be told apart
            places.append(replace(place, kind="linear"))
    return tuple(places)


def kind_rank(kind: str) -> tuple[int, str]:
    """A sort key for kinds: the order of `KIND_ORDER`, unknown ones last by name."""
    return (KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER), kind)


def _read(name: str, shape: tuple[int, ...]) -> _Raw:
    part = "bias" if name.endswith(("bias", "in_proj_bias")) else "weight"
    for layout, pattern, stage_form in _BLOCKS:
        found = pattern.search(name)
        if found is None:
            continue
        stage, block, rest = found.groups()
        # A downsampling layer between two stages stands before the blocks of its own stage.
        numbers = (*(int(n) for n in _NUMBER.findall(stage)), int(block) if block else -1)
        kind = _kind(rest, part, shape, layout)
        return _Raw(name, layout, kind, part, stage_form.format(stage, block), (1, *numbers), shape)
    if _STEM.search(name):
        return _Raw(name, "outside", "stem", part, "stem", (0,), shape)
    if _HEAD.search(name):
        return _Raw(name, "outside", "head", part, "head", (3,), shape)
    numbers = tuple(int(n) for n in _NUMBER.findall(name))
    return _Raw(
        name, "outside", _kind_by_rank(shape), part, name.rpartition(".")[0] or name, (2, *numbers), shape
    )


def _kind(rest: str, part: str, shape: tuple[int, ...], layout: str) -> str:
    for kind, pattern in _KINDS:
        if pattern.search(rest):
            if kind != "downsample":
                return kind
            if len(shape) >= 2:
                return "downsample convolution" if len(shape) == 4 else "downsample"
            return f"downsample norm {part}" if layout == "resnet" else "downsample"
    if re.search(r"(^|\.)(bn\d*|norm\d*|ln_\d+|layer_?norm\w*|normalization)\.", rest):
        return "norm"
    return _kind_by_rank(shape)


def _kind_by_rank(shape: tuple[int, ...]) -> str:
    return "convolution" if len(shape) >= 3 else "linear" if len(shape) == 2 else "vector"


def _name_resnet_stem(raw: Iterable[_Raw]) -> list[_Raw]:
    """A ResNet's stem is one more of its convolutions, as in App. Fig. 3."""
    items = list(raw)
    if not any(item.layout == "resnet" for item in items):
        return items
    return [
        replace(item, kind="convolution") if item.kind == "stem" and len(item.shape) == 4 else item
        for item in items
    ]


def _name_pointwise_projections(raw: Iterable[_Raw]) -> list[_Raw]:
    """In a block without expansion (timm's DepthwiseSeparableConv) the one 1×1 convolution projects.

    It is called `conv_pw`, and only the block's other names tell: one with an expansion has a `conv_pwl` too.
    """
    items = list(raw)
    expanded = {item.block for item in items if item.kind == "projection 1×1"}
    return [
        replace(item, kind="projection 1×1")
        if item.kind == "expansion 1×1" and item.block not in expanded
        else item
        for item in items
    ]


def _depths(raw: list[_Raw]) -> list[int]:
    """The depth of each item of `raw`, which is sorted: see `Place.depth`."""
    by_convolution = any(item.layout == "resnet" for item in raw)
    depths: list[int] = []
    seen: dict[tuple[int, ...], int] = {}  # the depth at which each block begins
    count = 0
    for item in raw:
        if not by_convolution:
            seen.setdefault(item.block, len(seen))
            depths.append(seen[item.block])
            continue
        start = seen.setdefault(item.block, count)
        main = item.kind == "convolution" and len(item.shape) >= 2
        # What runs beside a block (its downsampling, its norms) begins where the block begins.
        depths.append(count if main else start)
        count += main
    return depths
