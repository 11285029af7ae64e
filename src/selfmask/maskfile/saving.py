"""Writing a mask file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import xxhash
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile import index as record
from selfmask.maskfile.coding import Coded, plain_code, rows_of, shortest_code
from selfmask.maskfile.container import Array, parse_json, serialise
from selfmask.maskfile.fingerprint import dtype_name, raw_bytes, signature
from selfmask.maskfile.head import Head
from selfmask.maskfile.index import Base, Companion, Index, Stepped
from selfmask.maskfile.quantised import Quantised, plain, quantised
from selfmask.maskfile.streams import Writer
from selfmask.masking.weight import alpha
from selfmask.version import VERSION

FORMAT = "1"
HeadDtype = Literal["float32", "float16", "int8", "int4"]
"""The precision of the head that a mask file carries. int8 and int4 are steps of each row's own size."""
_STEP_BITS = {"int8": 8, "int4": 4}


def save_mask(
    path: str | os.PathLike[str],
    *,
    theta: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    rest: Mapping[str, Tensor] | None = None,
    architecture: str | None = None,
    statistics: Mapping[str, Tensor] | None = None,
    trained: Mapping[str, Tensor] | None = None,
    norms: Mapping[str, Quantised] | None = None,
    head: Mapping[str, Tensor] | None = None,
    head_dtype: HeadDtype | None = None,
    metadata: Mapping[str, Any] | None = None,
    packed: bool = False,
) -> Path:
    """Write a mask file, whole or not at all (docs/format.md). Returns its path.

    Args:
        theta: the exact base weights of the masked tensors, any floating dtype and shape.
        masks: bool, the same names and shapes; True where a weight is on.
        rest: every other tensor of the base, for the fingerprint.
        architecture: the digest of the base's module tree (`maskfile.architecture`), for a warning where it differs.
        statistics: buffers (running statistics) that are to be set beside the weights, by name.
        trained: ordinary parameters that were trained beside the masks, by name.
        norms: what is added to weights of norm layers, by name. Their base values are among `rest`.
        head: tensors of a head, by any names; kept for the reader, not applied.
        head_dtype: what the head's floating-point tensors are rounded to; None keeps them as they are. What `trained`
            holds is part of the network, which must come back bit for bit, and is never rounded.
        metadata: JSON-able data by key; every key becomes an entry of the file's metadata.
        packed: store the masks as plain bits, one a weight. Otherwise each tensor gets the shortest coding, plain bits
            where they are.

    Raises:
        SettingsError: names or shapes do not fit together, or `metadata` is not JSON-able.
        OSError: the disk is full or the folder cannot be written; a file that was there before is untouched.
    """
    _check(theta, masks)
    trained, stored = dict(trained or {}), stored_head(head, head_dtype)
    base = base_of(theta, rest or {}, trained, architecture)
    content = mask_bytes(
        base, masks, statistics or {}, trained, stored, metadata or {}, norms=norms or {}, packed=packed
    )
    path = Path(path)
    write_atomically(path, content)
    return path


def base_of(
    theta: Mapping[str, Tensor],
    rest: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    architecture: str | None,
) -> Base:
    """What a file says of its base; arguments as for `save_mask`."""
    signatures = {name: signature(t) for name, t in theta.items()}
    for name, tensor in rest.items():
        if name.rpartition(".")[2] != "num_batches_tracked":
            signatures.setdefault(name, signature(tensor))
    for name, tensor in trained.items():
        signatures.setdefault(name, signature(tensor))
    return Base.of(signatures, free=frozenset(trained), architecture=architecture)


def mask_bytes(
    base: Base,
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    head: Head,
    metadata: Mapping[str, Any],
    *,
    norms: Mapping[str, Quantised] | None = None,
    packed: bool = False,
) -> bytes:
    """The bytes of a mask file; arguments as for `save_mask`, whose checks were made."""
    writer = Writer()
    coded: dict[str, Coded] = {}
    alphas: list[float] = []
    digest = xxhash.xxh3_128()
    code = plain_code if packed else shortest_code
    for name, mask in masks.items():
        bits = mask.detach().cpu().contiguous().numpy().reshape(rows_of(mask.shape))
        coded[name] = code(bits).write(writer)
        on = bits.size - sum(coded[name].off)
        alphas.append(alpha(on, bits.size) if on else float(bits.size == 0))
        digest.update(np.packbits(bits, bitorder="little").data)
    companions: dict[str, tuple[Companion, ...]] = {}
    stored: dict[str, Array] = {}
    for kind, tensors in (("statistics", statistics), ("trained", trained)):
        if tensors:
            companions[kind] = tuple(
                Companion(name, _storable(t, name), tuple(t.shape)) for name, t in tensors.items()
            )
            stored.update(_grouped(kind, tensors))
    in_steps = {"norms": norms or {}, "head": {n: t for n, t in head.items() if isinstance(t, Quantised)}}
    stepped: dict[str, tuple[Stepped, ...]] = {}
    for kind, tensors in in_steps.items():
        if tensors:
            stepped[kind] = tuple(Stepped(n, tuple(q.steps.shape), q.bits) for n, q in tensors.items())
            stored.update(_steps(kind, tensors))
    for name, tensor in head.items():
        if isinstance(tensor, Tensor):
            stored[f"head/{name}"] = Array(_storable(tensor, name), tuple(tensor.shape), _elements(tensor))
    words, plain = writer.finish()
    parts = record.to_tensors(Index(base, coded, companions, digest.hexdigest(), stepped))
    arrays = {
        "masks.coded": Array.of(words),
        "alpha": Array.of(np.array(alphas, np.float32)),
        "masks.plain": Array.of(plain),
        "models": Array.of(parts["models"]),
        "fingerprints": Array.of(parts["fingerprints"]),
        "index": Array.of(parts["index"]),
        **stored,
    }
    return serialise(
        _texts(metadata), {name: a for name, a in arrays.items() if a.data.size or name == "index"}
    )


def head_as(head: Mapping[str, Tensor], dtype: HeadDtype) -> dict[str, Tensor]:
    """`head` with its floating-point tensors rounded to `dtype`; whole numbers stay as they are.

    What is rounded to int8 or int4 is float32 again: what a reader of the file finds. Rounding twice changes nothing.

    Raises `SettingsError` for another dtype, and where a value is beyond the range of `dtype` (65 504 for float16).
    """
    return {name: t.to(head[name].device) for name, t in plain(stored_head(head, dtype)).items()}


def stored_head(
    head: Mapping[str, Tensor | Quantised] | None, dtype: HeadDtype | None
) -> dict[str, Tensor | Quantised]:
    """`head` as a file stores it in `dtype`; None: as it is. What is stored in no more bits already stays as it is.

    Raises as `head_as` does, and where there is none.
    """
    if head is not None and not _is_head(head):
        raise SettingsError(
            f"head is a dict of tensors by name, as a layer's state_dict() is, got {_in_words(head)}; one that "
            "predicts has weight and bias"
        )
    if dtype is None:
        return dict(head or {})
    if not head:
        raise SettingsError(
            f"head_dtype={dtype!r}: there is no head to round; pass it as head=, apart from the network "
            "(parameters that were trained inside it are stored exactly)"
        )
    if dtype not in get_args(HeadDtype):
        raise SettingsError(f"the dtype of a head is one of {', '.join(get_args(HeadDtype))}, got {dtype!r}")
    return {name: _stored(name, t, dtype) for name, t in head.items()}


def _stored(name: str, tensor: Tensor | Quantised, dtype: HeadDtype) -> Tensor | Quantised:
    bits = _STEP_BITS.get(dtype)
    if isinstance(tensor, Quantised):
        if bits is None or tensor.bits <= bits:
            return tensor
        tensor = tensor.values()
    if not tensor.is_floating_point():
        return tensor
    if bits is not None:
        return quantised(tensor, bits, f"the head's {name!r}")
    rounded = tensor.to(torch.float16 if dtype == "float16" else torch.float32)
    if bool(tensor.isfinite().all()) and not bool(rounded.isfinite().all()):
        raise SettingsError(
            f"the head's {name!r} reaches {float(tensor.abs().max()):.4g}, beyond {dtype}: store it as float32"
        )
    return rounded


def _is_head(head: Any) -> bool:
    return isinstance(head, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor | Quantised) for name, tensor in head.items()
    )


def _in_words(head: Any) -> str:
    if not isinstance(head, Mapping):
        return type(head).__name__
    return ", ".join(f"{name!r}: {type(value).__name__}" for name, value in head.items())


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    texts = {"selfmask.format": FORMAT}
    for key, value in ({**metadata, "selfmask": VERSION}).items():
        if not isinstance(key, str):
            raise SettingsError(f"metadata: keys are strings, got {key!r}")
        if key.startswith("selfmask."):
            raise SettingsError(
                f"metadata: keys that start with 'selfmask.' belong to the format, got {key!r}"
            )
        try:
            texts[key] = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            parse_json(texts[key].encode(), "it")  # what a reader would refuse, as a key that occurs twice
        except (TypeError, ValueError, MaskFileError) as error:
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


def _steps(kind: str, tensors: Mapping[str, Quantised]) -> dict[str, Array]:
    steps = np.concatenate([q.packed() for q in tensors.values()])
    scales = torch.cat([q.scales for q in tensors.values()])
    return {
        f"{kind}.steps": Array.of(steps),
        f"{kind}.scales": Array("BF16", tuple(scales.shape), _elements(scales)),
    }


def _elements(tensor: Tensor) -> np.ndarray:
    return np.frombuffer(raw_bytes(tensor), np.uint8)


def _storable(tensor: Tensor, name: str) -> str:
    dtype = dtype_name(tensor.dtype)
    if dtype not in record.ITEM_BYTES:
        raise SettingsError(f"{name}: dtype {tensor.dtype} cannot be stored in a mask file")
    return dtype


def _check(theta: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
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
