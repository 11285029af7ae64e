"""The outer layer of a mask file: one safetensors file, read strictly.

The reader is our own because a mask file comes from strangers: nothing is allocated beyond the file's own size, and
duplicate names, gaps, overlaps and trailing bytes are refused. What it writes, every safetensors reader reads (the
tests hold it against the `safetensors` package).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from selfmask.errors import MaskFileError, SettingsError

# Bytes an element takes, by safetensors' dtype names.
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
# The format's own tensors; those of companions ("statistics/F32", "head/weight") have their kind in front.
TENSORS = {
    "masks.coded": "U32",
    "masks.plain": "U8",
    "models": "U8",
    "fingerprints": "U8",
    "alpha": "F32",
    "norms.steps": "U8",
    "norms.scales": "BF16",
    "head.steps": "U8",
    "head.scales": "BF16",
}
MAX_HEADER_BYTES = 16 << 20
CHECKSUM_KEY = "selfmask.checksum"
_NO_CHECKSUM = "0" * 32


@dataclass(frozen=True)
class Array:
    """One tensor of the container: `data` is its elements as little-endian bytes in C order (1-d uint8)."""

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    @staticmethod
    def of(values: np.ndarray) -> Array:
        """An `Array` of a numpy array of one of the unsigned, signed or floating types."""
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        kind = {"u": "U", "i": "I", "f": "F"}[values.dtype.kind]
        return Array(f"{kind}{values.dtype.itemsize * 8}", values.shape, little.reshape(-1).view(np.uint8))

    def numpy(self, dtype: str) -> np.ndarray:
        """The elements as a numpy array; raises `MaskFileError` if the file's dtype is not `dtype`."""
        if self.dtype != dtype:
            raise MaskFileError(f"a tensor of the mask file has dtype {self.dtype}, expected {dtype}")
        code = {"U": "u", "I": "i", "F": "f"}[dtype[0]] + str(ITEM_BYTES[dtype])
        return self.data.view(f"<{code}").reshape(self.shape)


def count(shape: tuple[int, ...]) -> int:
    """The number of elements of `shape`, as an exact Python integer."""
    total = 1
    for side in shape:
        total *= side
    return total


def serialise(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> bytes:
    """The file's bytes; the same input gives the same bytes. The checksum is filled in under `CHECKSUM_KEY`."""
    header: dict[str, Any] = {"__metadata__": {CHECKSUM_KEY: _NO_CHECKSUM, **metadata}}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.data.nbytes
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise SettingsError(
            f"metadata: the header would take {len(text):,} bytes, and a reader takes {MAX_HEADER_BYTES:,} at most"
        )
    parts = [len(text).to_bytes(8, "little"), text, *(array.data.data for array in arrays.values())]
    blank = b"".join(parts)
    return blank.replace(_NO_CHECKSUM.encode(), xxhash.xxh3_128_hexdigest(blank).encode(), 1)


def parse(content: bytes, name: str) -> tuple[dict[str, str], dict[str, Array]]:
    """The metadata and the tensors of a file's bytes (views, no copies); `name` is for the error messages.

    Raises `MaskFileError` for whatever is not a well-formed file or does not match its checksum.
    """
    length, header, metadata = _header(content, len(content), name)
    arrays = _arrays(header, np.frombuffer(content, np.uint8, offset=8 + length), name)
    _check_sum(content, 8 + length, metadata, name)
    return metadata, arrays


def read(path: Path) -> bytes:
    """The file's bytes, to `parse`. Of one that its header shows to be no mask file, no more than that is read: a
    network's weights, whatever their size, are told at once.

    Raises `MaskFileError` as `parse` does of a header, and `OSError`.
    """
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), MAX_HEADER_BYTES))
        _header(start, os.fstat(file.fileno()).st_size, path.name)
        file.seek(0)
        return file.read()


def _header(content: bytes, size: int, name: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """How long the header is, what it says of tensors, and the metadata; of a file of `size` bytes that begins so."""
    if len(content) < 8:
        raise MaskFileError(f"{name}: not a mask file: {size} bytes, too short for a safetensors header")
    length = int.from_bytes(content[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise MaskFileError(
            f"{name}: damaged, cut short, or not a safetensors file: its header claims {length} bytes, the file has "
            f"{size}; download or copy it again"
        )
    header = parse_json(content[8 : 8 + length], f"{name}: the header")
    if not isinstance(header, dict):
        raise MaskFileError(f"{name}: the header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise MaskFileError(f"{name}: a safetensors file without selfmask's metadata, so not a mask file")
    if len(metadata.get(CHECKSUM_KEY, "")) != len(_NO_CHECKSUM):
        raise MaskFileError(f"{name}: a safetensors file without selfmask's checksum, so not a mask file")
    return length, header, metadata


_DEEPEST = 64


def parse_json(text: bytes, what: str) -> Any:
    """JSON in UTF-8 without duplicate keys or NaN; raises `MaskFileError`, whatever the text."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    def no_constant(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        found = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=no_constant)
        if b"\\u" in text:  # "\\ud800" is JSON, and half a character
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MaskFileError(f"{what} is not valid JSON ({error}): the file is damaged") from None
    level, depth = [found], 0
    while level:  # what is nested deeper, no code that goes through it survives
        depth += 1
        if depth > _DEEPEST:
            raise MaskFileError(f"{what} is nested deeper than {_DEEPEST} levels: the file is damaged")
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [value for values in inner for value in values]
    return found


def is_counts(value: Any) -> bool:
    """Whether `value` is a list of at most 1024 whole numbers >= 0 (a bool is none)."""
    return isinstance(value, list) and len(value) <= 1024 and all(type(v) is int and v >= 0 for v in value)


def is_shape(value: Any) -> bool:
    """The same of at most 64, as a tensor's shape has; no part of it, 0 aside, has more elements than 63 bits count."""
    return is_counts(value) and len(value) <= 64 and count(tuple(v for v in value if v)) < 2**63


def _arrays(header: dict[str, Any], data: np.ndarray, name: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    spans: list[tuple[int, int]] = []
    for key, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise MaskFileError(f"{name}: the header's entry {key!r} is malformed")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES or not is_shape(shape):
            raise MaskFileError(
                f"{name}: tensor {key!r} has dtype {dtype!r} and shape {shape!r}, not understood"
            )
        if not is_counts(offsets) or len(offsets) != 2:
            raise MaskFileError(f"{name}: tensor {key!r} has malformed data_offsets")
        begin, end = offsets
        if not begin <= end <= data.nbytes or end - begin != count(tuple(shape)) * ITEM_BYTES[dtype]:
            raise MaskFileError(f"{name}: tensor {key!r} does not fit its shape, or the file is cut short")
        spans.append((begin, end))
        arrays[key] = Array(dtype, tuple(shape), data[begin:end])
    spans.sort()
    reached = 0
    for begin, end in spans:
        if begin != reached:
            raise MaskFileError(f"{name}: the tensors overlap or leave a gap at byte {reached}")
        reached = end
    if reached != data.nbytes:
        raise MaskFileError(
            f"{name}: {data.nbytes - reached} bytes after the last tensor; the file is damaged"
        )
    return arrays


def _check_sum(content: bytes, header_end: int, metadata: dict[str, str], name: str) -> None:
    stated = metadata.pop(CHECKSUM_KEY)
    at = content.find(f'"{CHECKSUM_KEY}":"{stated}"'.encode(), 8, header_end)
    if at < 0:
        raise MaskFileError(f"{name}: the checksum is not where a mask file has it: the file is damaged")
    at += len(CHECKSUM_KEY) + 4
    found = xxhash.xxh3_128(content[:at])
    found.update(_NO_CHECKSUM.encode())
    found.update(memoryview(content)[at + len(_NO_CHECKSUM) :])
    if found.hexdigest() != stated:
        raise MaskFileError(
            f"{name}: the checksum does not match ({found.hexdigest()} instead of {stated}): the file is damaged; "
            "download or copy it again"
        )
