"""The index of a mask file: which base it belongs to, and how its masks and companions are laid out.

In the file it is one tensor, `index`: JSON, deflated. Columns rather than rows, because they deflate to half the size:
for a small network the names and fingerprints would otherwise outweigh the masks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfmask.errors import MaskFileError
from selfmask.maskfile.codec import MAX_PARTS, MAX_SHIFT, RATES, WEIGHT_ONE, GapModel, Golomb, Model
from selfmask.maskfile.coding import Coded
from selfmask.maskfile.container import ITEM_BYTES, count, is_counts, is_shape, parse_json
from selfmask.maskfile.fingerprint import SHORT_BYTES, Signature, combined
from selfmask.maskfile.quantised import BITS

MAX_INDEX_BYTES = 1 << 20
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
FREE = bytes(
    SHORT_BYTES
)  # in place of the fingerprint of a tensor whose base value is no matter: it is replaced


@dataclass(frozen=True)
class Base:
    """The base that a mask belongs to: every tensor's dtype, shape and short digest, and one fingerprint of all.

    architecture: the digest of the module tree (maskfile/architecture.py); None where the writer did not say.
    """

    tensors: dict[str, Signature]
    fingerprint: str
    architecture: str | None = None

    @staticmethod
    def of(
        signatures: Mapping[str, Signature],
        free: frozenset[str] = frozenset(),
        architecture: str | None = None,
    ) -> Base:
        """From full signatures; tensors named in `free` may have any values (they are trained beside the masks)."""
        fixed = {name: s.digest for name, s in signatures.items() if name not in free}
        short = {
            name: Signature(s.dtype, s.shape, FREE if name in free else s.digest[:SHORT_BYTES])
            for name, s in signatures.items()
        }
        return Base(short, combined(fixed), architecture)


@dataclass(frozen=True)
class Companion:
    """A tensor that is stored as it is beside the masks: a running statistic, or a trained parameter."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return count(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Stepped:
    """A tensor that is stored as steps of a few bits (maskfile/quantised.py): a norm's weights, or one of the head."""

    name: str
    shape: tuple[int, ...]
    bits: int


@dataclass(frozen=True)
class Index:
    """Attributes:
    base: the base.
    masks: for each masked tensor, by name and in coding order, how it is coded.
    companions: for each kind ("statistics", "trained") the tensors, in storing order.
    stepped: for each kind ("norms", "head") the tensors stored as steps, in storing order.
    digest: XXH3-128, hexadecimal, of all masks' packed bits, one after the other (each padded to whole bytes).
    """

    base: Base
    masks: dict[str, Coded]
    companions: dict[str, tuple[Companion, ...]] = field(default_factory=dict)
    digest: str = ""
    stepped: dict[str, tuple[Stepped, ...]] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """The number of masked weights."""
        return sum(count(self.base.tensors[name].shape) for name in self.masks)


def to_tensors(index: Index) -> dict[str, np.ndarray]:
    """The index as the file's tensors `index`, `fingerprints` and `models`."""
    names = list(index.base.tensors)
    place = {name: i for i, name in enumerate(names)}
    signatures = list(index.base.tensors.values())
    masks = index.masks.values()
    document = {
        "base": {
            "fingerprint": index.base.fingerprint,
            **({} if index.base.architecture is None else {"architecture": index.base.architecture}),
            "name": names,
            "dtype": [s.dtype for s in signatures],
            "shape": [list(s.shape) for s in signatures],
        },
        "masks": {
            "digest": index.digest,
            "tensor": [place[name] for name in index.masks],
            "packed": [int(m.packed) for m in masks],
            "off": [list(m.off) for m in masks],
            "rows": [list(m.rows) for m in masks],
            "models": [len(m.models) for m in masks],
        },
    }
    for kind, members in index.companions.items():
        document[kind] = {
            "name": [c.name for c in members],
            "dtype": [c.dtype for c in members],
            "shape": [list(c.shape) for c in members],
        }
    for kind, parts in index.stepped.items():
        bits = [part.bits for part in parts]
        document[kind] = (
            {"tensor": [place[part.name] for part in parts], "bits": bits}
            if kind == "norms"
            else {"name": [p.name for p in parts], "shape": [list(p.shape) for p in parts], "bits": bits}
        )
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MAX_INDEX_BYTES:
        raise MaskFileError(
            f"the index of this base takes {len(text)} bytes; the format allows {MAX_INDEX_BYTES}"
        )
    prints = b"".join(s.digest for s in signatures)
    models = [v for m in masks for model in m.models for v in model_bytes(model)]
    return {
        "index": np.frombuffer(zlib.compress(text, 9), np.uint8),
        "fingerprints": np.frombuffer(prints, np.uint8).reshape(-1, SHORT_BYTES),
        "models": np.array(models, np.uint8),
    }


def from_tensors(deflated: np.ndarray, prints: np.ndarray, models: np.ndarray) -> Index:
    """The index from its tensors. Raises `MaskFileError` where they are malformed or contradict each other."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(deflated.tobytes(), MAX_INDEX_BYTES)
    except zlib.error as error:
        raise MaskFileError(f"the index cannot be inflated ({error}): the file is damaged") from None
    if not inflater.eof or inflater.unused_data:
        raise MaskFileError(f"the index is cut short or larger than the {MAX_INDEX_BYTES} bytes allowed")
    document = parse_json(text, "the index")
    _need(isinstance(document, dict), "it is not a JSON object")
    base = _base(document.get("base"), prints)
    masks = _masks(document.get("masks"), base, models.tolist())
    companions = {
        kind: _companions(document[kind], kind) for kind in ("statistics", "trained") if kind in document
    }
    stepped = {
        kind: read(document[kind], base)
        for kind, read in (("norms", _norms), ("head", _head))
        if kind in document
    }
    replaced = {c.name for members in companions.values() for c in members} | set(masks)
    for part in stepped.get("norms", ()):
        _need(part.name not in replaced, f"{part.name!r} is a norm's and something else too")
    return Index(base, masks, companions, document["masks"]["digest"], stepped)


def model_bytes(model: Model) -> list[int]:
    """A model as the file's `models` has it."""
    if isinstance(model, Golomb):
        return [0, 2 * model.shift + model.threefold]
    parts = zip(model.weights, model.rates, strict=True)
    return [len(model.weights), *(v for weight, rate in parts for v in (weight - 1, rate))]


def _read_models(stored: list[int], at: int, amount: int) -> tuple[tuple[Model, ...], int]:
    """`amount` models from `at` on, and where they end."""
    models: list[Model] = []
    for _ in range(amount):
        _need(at + 1 < len(stored) and stored[at] <= MAX_PARTS, "a model of gaps is missing or malformed")
        if stored[at] == 0:
            _need(stored[at + 1] // 2 <= MAX_SHIFT, "a Golomb code is out of range")
            models.append(Golomb(stored[at + 1] // 2, stored[at + 1] % 2 == 1))
            at += 2
            continue
        end = at + 1 + 2 * stored[at]
        _need(end <= len(stored), "a model of gaps is cut short")
        weights, rates = tuple(w + 1 for w in stored[at + 1 : end : 2]), tuple(stored[at + 2 : end : 2])
        _need(sum(weights) == WEIGHT_ONE and max(rates) < RATES, "a model of gaps is out of range")
        models.append(GapModel(weights, rates))
        at = end
    return tuple(models), at


def _base(columns: Any, prints: np.ndarray) -> Base:
    rows = _columns(columns, "base", "name", "dtype", "shape")
    _need(prints.shape == (len(rows), SHORT_BYTES), "the fingerprints are not one for each base tensor")
    _need(_is_digest(columns.get("fingerprint")), "the base's fingerprint is malformed")
    architecture = columns.get("architecture")
    _need(architecture is None or _is_digest(architecture), "the digest of the architecture is malformed")
    tensors = {
        name: Signature(dtype, tuple(shape), prints[i].tobytes())
        for i, (name, dtype, shape) in enumerate(rows)
    }
    _need(len(tensors) == len(rows), "a base tensor's name occurs twice")
    return Base(tensors, columns["fingerprint"], architecture)


def _masks(columns: Any, base: Base, models: list[int]) -> dict[str, Coded]:
    rows = _columns(columns, "masks", "tensor", "packed", "off", "rows", "models")
    _need(_is_digest(columns.get("digest")), "the masks' digest is malformed")
    names = list(base.tensors)
    masks: dict[str, Coded] = {}
    at = 0
    for tensor, packed, off, sizes, amount in rows:
        _need(type(tensor) is int and 0 <= tensor < len(names), "a mask's tensor is not one of the base's")
        _need(type(packed) is int and packed in (0, 1), "a mask's coding is neither 0 nor 1")
        _need(is_counts(off) and is_counts(sizes), "a mask's counts are malformed")
        _need(type(amount) is int and 0 <= amount <= len(off), "a mask has more models than cells")
        name = names[tensor]
        _need(name not in masks, f"{name!r} is masked twice")
        shape = base.tensors[name].shape
        _need(sum(off) <= count(shape), f"more weights of {name!r} are off than it has")
        _need(not packed or (len(off), sizes, amount) == (1, [], 0), "packed bits have no cells")
        _need(
            not sizes or (len(shape) > 1 and count(shape) > 0 and sum(sizes) == shape[0]),
            "its rows are not those",
        )
        _need(len(off) == max(len(sizes), 1), "the cells do not fit the classes of rows")
        own, at = _read_models(models, at, amount)
        masks[name] = Coded(bool(packed), tuple(off), tuple(sizes), own)
    _need(at == len(models), "there are more models of gaps than cells")
    return masks


def _companions(columns: Any, kind: str) -> tuple[Companion, ...]:
    found = tuple(
        Companion(name, dtype, tuple(shape))
        for name, dtype, shape in _columns(columns, kind, "name", "dtype", "shape")
    )
    _need(len({c.name for c in found}) == len(found), f"a name occurs twice in {kind}")
    _need(all(c.dtype in ITEM_BYTES for c in found), f"an unknown dtype in {kind}")
    return found


def _norms(columns: Any, base: Base) -> tuple[Stepped, ...]:
    names, found = list(base.tensors), []
    for tensor, bits in _columns(columns, "norms", "tensor", "bits"):
        _need(type(tensor) is int and 0 <= tensor < len(names), "a norm's tensor is not one of the base's")
        signature = base.tensors[names[tensor]]
        _need(signature.dtype in FLOATS, f"{names[tensor]!r} is no norm's: it does not hold floats")
        found.append(Stepped(names[tensor], signature.shape, _bits(bits, "norms")))
    _need(len({part.name for part in found}) == len(found), "a tensor occurs twice in norms")
    return tuple(found)


def _head(columns: Any, base: Base) -> tuple[Stepped, ...]:
    found = tuple(
        Stepped(name, tuple(shape), _bits(bits, "the head"))
        for name, shape, bits in _columns(columns, "head", "name", "shape", "bits")
    )
    _need(len({part.name for part in found}) == len(found), "a name occurs twice in the head")
    return found


def _bits(value: Any, what: str) -> int:
    _need(type(value) is int and value in BITS, f"the bits of {what} are not {BITS[0]} to {BITS[-1]}")
    return value


def _columns(columns: Any, what: str, *names: str) -> list[tuple[Any, ...]]:
    _need(
        isinstance(columns, dict) and all(isinstance(columns.get(n), list) for n in names),
        f"{what} is malformed",
    )
    parts = [columns[n] for n in names]
    _need(len({len(p) for p in parts}) == 1, f"the columns of {what} differ in length")
    for name, part in zip(names, parts, strict=True):
        if name in ("name", "dtype"):
            _need(all(isinstance(v, str) for v in part), f"a {name} of {what} is not a string")
        if name == "shape":
            _need(all(is_shape(v) for v in part), f"a shape of {what} is malformed")
    return list(zip(*parts, strict=True))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise MaskFileError(f"the mask file's index is damaged: {what}")
