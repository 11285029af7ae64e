"""The cascade file: one dispatcher, its experts, the router and the fusions over one base, in one safetensors
file.

Its tensors: `dispatcher` (U8), a whole mask file; `experts/1` … (U8), see `member`; `router/…` and
`fusion/MODE/…`, plain tensors. Metadata as in a mask file, with `selfmask.cascade` for the format's version.
Checksum, strict reading and atomic writing are the mask file's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.cascades.fusion import MODES, Fusion, Mode
from selfmask.cascades.member import RELATIVE, pack_member, unpack_member
from selfmask.cascades.network import Cascade
from selfmask.cascades.router import Router
from selfmask.errors import MaskFileError, RunError, SettingsError
from selfmask.maskfile.container import Array, parse, parse_json, read, serialise
from selfmask.maskfile.loading import parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.version import VERSION

FORMAT = "1"
FORMAT_KEY = "selfmask.cascade"
_MAX_EXPERTS = 4096


def write_cascade(
    path: str | os.PathLike[str],
    *,
    dispatcher: bytes,
    experts: Sequence[Mask],
    router: Router,
    fusions: Mapping[Mode, Fusion],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a cascade file, whole or not at all. Returns its path.

    Args:
        dispatcher: the bytes of its mask file.
        experts: their masks, in the router's numbering, learnt on the same base.
        router, fusions: as fitted; a mode that is left out cannot be used with the file.
        metadata: JSON-able data by key.

    Raises `SettingsError` where the parts do not belong together, `RunError` where the file cannot be
    written.
    """
    path = Path(path)
    first = parse_mask(dispatcher, path)
    if len(experts) != router.experts:
        raise SettingsError(f"the router chooses among {router.experts} experts, got {len(experts)} masks")
    for number, expert in enumerate(experts, start=1):
        if expert.index.base.fingerprint != first.index.base.fingerprint or set(expert.names) != set(
            first.names
        ):
            raise SettingsError(f"expert {number} was learnt on another base or masks other tensors")
    inputs = (1 + router.experts) * router.width
    for mode, fusion in fusions.items():
        if fusion.mode != mode or len(fusion.mean) != inputs:
            raise SettingsError(
                f"the {mode} fusion takes {len(fusion.mean)} features, the cascade has {inputs}"
            )
    masks = first.masks()
    arrays = {"dispatcher": Array.of(np.frombuffer(dispatcher, np.uint8))}
    for number, expert in enumerate(experts, start=1):
        content = pack_member(first.index.base, masks, expert.masks(), expert.statistics, expert.norms)
        arrays[f"experts/{number}"] = Array.of(np.frombuffer(content, np.uint8))
    for name, tensor in router.tensors().items():
        arrays[f"router/{name}"] = Array.of(tensor.numpy())
    for mode, fusion in fusions.items():
        for name, tensor in fusion.tensors().items():
            arrays[f"fusion/{mode}/{name}"] = Array.of(tensor.numpy())
    texts = {FORMAT_KEY: FORMAT}
    for key, value in ({"selfmask": VERSION, "router": router.kind} | dict(metadata or {})).items():
        texts[key] = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        write_atomically(path, serialise(texts, arrays))
    except OSError as error:
        raise RunError(f"the cascade {path} cannot be written: {error.strerror}; make room") from error
    return path


def load_cascade(path: str | os.PathLike[str]) -> Cascade:
    """Read a cascade file and check its parts against each other; masks are decoded when they are asked for.

    Raises `MaskFileError` for a file that is damaged, hostile, or no cascade.
    """
    path = Path(path)
    if path.is_dir():
        raise MaskFileError(f"{path}: a folder, expected a cascade file (*.safetensors)")
    try:
        content = read(path)
    except FileNotFoundError:
        raise MaskFileError(f"{path}: there is no such file") from None
    texts, arrays = parse(content, path.name)
    version = texts.pop(FORMAT_KEY, None)
    if version != FORMAT:
        what = (
            "a mask file, not a cascade: read it with selfmask.load"
            if version is None
            else "of a later format"
        )
        raise MaskFileError(f"{path.name}: cascade format {version!r}, expected {FORMAT!r}: {what}")
    metadata = {
        key: parse_json(text.encode(), f"{path.name}: metadata {key!r}") for key, text in texts.items()
    }
    groups: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        group, _, rest = name.rpartition("/")
        groups.setdefault(group, {})[rest] = array
    blobs = groups.pop("experts", {})
    single = groups.pop("", {})
    if set(single) != {"dispatcher"} or not 1 <= len(blobs) <= _MAX_EXPERTS:
        raise MaskFileError(f"{path.name}: not one dispatcher and 1 to {_MAX_EXPERTS} experts; it is damaged")
    dispatcher = parse_mask(_content(single["dispatcher"], path), path)
    if RELATIVE in dispatcher.metadata:
        raise MaskFileError(f"{path.name}: an expert stands in the dispatcher's place; it is damaged")
    router = Router.from_tensors(str(metadata.get("router")), _tensors(groups.pop("router", {}), path))
    if set(blobs) != {str(number) for number in range(1, router.experts + 1)}:
        raise MaskFileError(
            f"{path.name}: the router knows {router.experts} experts, the file has {len(blobs)}"
        )
    fusions: dict[Mode, Fusion] = {}
    for mode in MODES:
        if f"fusion/{mode}" in groups:
            fusions[mode] = Fusion.from_tensors(mode, _tensors(groups.pop(f"fusion/{mode}"), path))
            if len(fusions[mode].mean) != (1 + router.experts) * router.width:
                raise MaskFileError(f"{path.name}: the {mode} fusion does not fit the experts; it is damaged")
    if groups:
        raise MaskFileError(f"{path.name}: tensors {sorted(groups)[0]!r} that format {FORMAT} does not have")
    experts = [_content(blobs[str(number)], path) for number in range(1, router.experts + 1)]
    sizes = _sizes(len(content), dispatcher, experts, arrays)
    decoded: dict[str, Tensor] = {}

    def member(number: int) -> Mask:
        if not decoded:
            decoded.update(dispatcher.masks())
        return unpack_member(experts[number - 1], path, dispatcher, decoded)

    return Cascade(path, metadata, dispatcher, router, fusions, sizes, member)


def _content(array: Array, path: Path) -> bytes:
    if array.dtype != "U8":
        raise MaskFileError(f"{path.name}: a mask is stored as {array.dtype}, expected U8; it is damaged")
    return array.data.tobytes()


def _tensors(arrays: Mapping[str, Array], path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if array.dtype not in ("F32", "F64", "I64"):
            raise MaskFileError(f"{path.name}: {name!r} has dtype {array.dtype}; it is damaged")
        tensors[name] = torch.from_numpy(array.numpy(array.dtype).copy())
    return tensors


def _sizes(
    file: int, dispatcher: Mask, experts: Sequence[bytes], arrays: Mapping[str, Array]
) -> dict[str, int]:
    def total(prefix: str) -> int:
        return sum(array.data.nbytes for name, array in arrays.items() if name.startswith(prefix))

    first = dispatcher.bytes()
    parts = {
        "dispatcher": first["file"],
        "experts": sum(len(content) for content in experts),
        "router": total("router/"),
        **{f"fusion, {mode}": total(f"fusion/{mode}/") for mode in MODES},
    }
    return {**parts, "metadata": file - sum(parts.values()), "file": file}
