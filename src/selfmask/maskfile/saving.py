"""Writing a mask file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import xxhash
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import SettingsError
from selfmask.maskfile import index as record
from selfmask.maskfile.classes import magnitudes
from selfmask.maskfile.coding import Coded, Coding, Plan, plain, plan, rows_of
from selfmask.maskfile.container import Array, serialise
from selfmask.maskfile.fingerprint import dtype_name, raw_bytes, signature
from selfmask.maskfile.heads import HeadDtype, head_as
from selfmask.maskfile.index import Base, Companion, Index
from selfmask.maskfile.streams import Writer
from selfmask.masking.weight import alpha
from selfmask.version import VERSION

FORMAT = "1"
WORTH_A_BASE = 0.5
"""A file that is read by itself, several times as fast, is given up for a saving of so much of the masks' bytes."""
CODINGS = get_args(Coding)


def save_mask(
    path: str | os.PathLike[str],
    *,
    theta: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    rest: Mapping[str, Tensor] | None = None,
    statistics: Mapping[str, Tensor] | None = None,
    trained: Mapping[str, Tensor] | None = None,
    head: Mapping[str, Tensor] | None = None,
    head_dtype: HeadDtype | None = None,
    metadata: Mapping[str, Any] | None = None,
    coding: Coding = "auto",
) -> Path:
    """Write a mask file, whole or not at all (docs/format.md). Returns its path.

    Args:
        theta: the exact base weights of the masked tensors, any floating dtype and shape.
        masks: bool, the same names and shapes; True where a weight is on.
        rest: every other tensor of the base, for the fingerprint.
        statistics: buffers (running statistics) that are to be set beside the weights, by name.
        trained: ordinary parameters that were trained beside the masks, by name.
        head: tensors of a head, by any names; kept for the reader, not applied.
        head_dtype: what the head's floating-point tensors are rounded to; None keeps them as they are. What `trained`
            holds is part of the network, which must come back bit for bit, and is never rounded.
        metadata: JSON-able data by key; every key becomes an entry of the file's metadata.
        coding: "alone" (the gaps between the rarer bits: read without the base, faster than lzma), "base" (also
            classes of |θ| as side information: smaller where |θ| tells something, as after SGD on the scores, but
            reading needs the base and takes several times as long), "packed" (plain bits), or "auto": "base" where
            it halves the masks at least and anyone can rebuild the metadata's backbone, else "alone". Each tensor
            falls back to plain bits where they are smaller.

    Raises:
        SettingsError: names or shapes do not fit together, or `metadata` is not JSON-able.
        OSError: the disk is full or the folder cannot be written; a file that was there before is untouched.
    """
    _check(theta, masks, coding)
    trained = dict(trained or {})
    if head_dtype is not None:
        if not head:
            raise SettingsError(
                f"head_dtype={head_dtype!r}: there is no head to round; pass it as head=, apart from the network "
                "(parameters that were trained inside it are stored exactly)"
            )
        head = head_as(head, head_dtype)
    signatures = {name: signature(t) for name, t in theta.items()}
    for name, tensor in (rest or {}).items():
        if name.rpartition(".")[2] != "num_batches_tracked":
            signatures.setdefault(name, signature(tensor))
    for name, tensor in trained.items():
        signatures.setdefault(name, signature(tensor))
    base = Base.of(signatures, free=frozenset(trained))
    content = pack(base, masks, theta, statistics or {}, trained, head or {}, metadata or {}, coding)
    path = Path(path)
    write_atomically(path, content)
    return path


def pack(
    base: Base,
    masks: Mapping[str, Tensor],
    theta: Mapping[str, Tensor] | None,
    statistics: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    coding: Coding = "auto",
) -> bytes:
    """The bytes of a mask file. Without `theta` the coding is one that needs no base to read."""
    writer = Writer()
    coded: dict[str, Coded] = {}
    alphas: list[float] = []
    digest = xxhash.xxh3_128()
    for name, chosen in _plans(masks, theta, metadata, coding).items():
        coded[name] = chosen.write(writer)
        total = chosen.mask.size
        on = total - sum(coded[name].off)
        alphas.append(alpha(on, total) if on else float(total == 0))
        digest.update(np.packbits(chosen.mask, bitorder="little").data)
    companions: dict[str, tuple[Companion, ...]] = {}
    stored: dict[str, Array] = {}
    for kind, tensors in (("statistics", statistics), ("trained", trained)):
        if tensors:
            companions[kind] = tuple(
                Companion(name, _storable(t, name), tuple(t.shape)) for name, t in tensors.items()
            )
            stored.update(_grouped(kind, tensors))
    for name, tensor in head.items():
        stored[f"head/{name}"] = Array(_storable(tensor, name), tuple(tensor.shape), _elements(tensor))
    words, plain = writer.finish()
    parts = record.pack(Index(base, coded, companions, digest.hexdigest()))
    arrays = {
        "masks.coded": Array.of(words),
        "alpha": Array.of(np.array(alphas, np.float32)),
        "thresholds": Array.of(parts["thresholds"]),
        "masks.plain": Array.of(plain),
        "models": Array.of(parts["models"]),
        "fingerprints": Array.of(parts["fingerprints"]),
        "index": Array.of(parts["index"]),
        **stored,
    }
    return serialise(
        _texts(metadata), {name: a for name, a in arrays.items() if a.data.size or name == "index"}
    )


def _plans(
    masks: Mapping[str, Tensor],
    theta: Mapping[str, Tensor] | None,
    metadata: Mapping[str, Any],
    coding: Coding,
) -> dict[str, Plan]:
    bits = {
        name: m.detach().cpu().contiguous().numpy().reshape(rows_of(m.shape)) for name, m in masks.items()
    }
    if coding == "packed":
        return {name: plain(m) for name, m in bits.items()}
    if coding == "base" and theta is not None:
        return {name: plan(m, magnitudes(theta[name])) for name, m in bits.items()}
    alone = {name: plan(m) for name, m in bits.items()}
    if coding == "alone" or theta is None or not _rebuildable(metadata):
        return alone
    beside = {name: plan(m, magnitudes(theta[name])) for name, m in bits.items()}
    saved = 1 - sum(p.bits for p in beside.values()) / max(sum(p.bits for p in alone.values()), 1)
    return beside if saved > WORTH_A_BASE else alone


def _rebuildable(metadata: Mapping[str, Any]) -> bool:
    """Whether anyone can rebuild the base from the metadata alone, without a file of weights of the user's own."""
    backbone = metadata.get("backbone")
    if not isinstance(backbone, Mapping) or not backbone.get("spec"):
        return False
    if str(backbone["spec"]).startswith("torchhub:"):  # no reader runs a repository's code on a file's word
        return False
    return backbone.get("weights") is None and bool(backbone.get("pretrained", True))


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    texts = {"selfmask.format": FORMAT}
    for key, value in ({"selfmask": VERSION} | dict(metadata)).items():
        if key.startswith("selfmask."):
            raise SettingsError(
                f"metadata: keys that start with 'selfmask.' belong to the format, got {key!r}"
            )
        try:
            texts[key] = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            texts[key].encode()
        except (TypeError, ValueError) as error:
            raise SettingsError(f"metadata[{key!r}] cannot be written as JSON: {error}") from None
    return texts


def _grouped(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """One 1-d tensor for each dtype, the tensors end to end: a header entry for each would outweigh small ones."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_storable(tensor, name), []).append(_elements(tensor))
    arrays = {}
    for dtype, parts in groups.items():
        data = np.concatenate(parts)
        size = sum(t.numel() for n, t in tensors.items() if dtype_name(t.dtype) == dtype)
        arrays[f"{kind}/{dtype}"] = Array(dtype, (size,), data)
    return arrays


def _elements(tensor: Tensor) -> np.ndarray:
    return np.frombuffer(raw_bytes(tensor), np.uint8)


def _storable(tensor: Tensor, name: str) -> str:
    dtype = dtype_name(tensor.dtype)
    if dtype not in record.ITEM_BYTES:
        raise SettingsError(f"{name}: dtype {tensor.dtype} cannot be stored in a mask file")
    return dtype


def _check(theta: Mapping[str, Tensor], masks: Mapping[str, Tensor], coding: str) -> None:
    if coding not in CODINGS:
        raise SettingsError(f"coding is one of {', '.join(CODINGS)}, got {coding!r}")
    if set(theta) != set(masks):
        odd = sorted(set(theta) ^ set(masks))[0]
        raise SettingsError(f"theta and masks must name the same tensors; {odd!r} is in one of them only")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != theta[name].shape:
            raise SettingsError(
                f"{name}: the mask must be bool of shape {tuple(theta[name].shape)}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if not theta[name].is_floating_point():
            raise SettingsError(f"{name}: only floating-point weights can be masked, got {theta[name].dtype}")
