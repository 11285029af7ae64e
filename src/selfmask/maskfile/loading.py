"""Reading a mask file: what a stranger wrote is checked here, part against part, before a `Mask` is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfmask.errors import MaskFileError
from selfmask.maskfile import index as record
from selfmask.maskfile.container import ITEM_BYTES, TENSORS, Array, count, parse, parse_json, read
from selfmask.maskfile.fingerprint import DTYPES
from selfmask.maskfile.index import Companion, Index, Stepped
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import Quantised, packed_bytes, row_count
from selfmask.maskfile.saving import FORMAT
from selfmask.masking.weight import alpha

MAX_WEIGHTS = 1 << 31
_KINDS = ("statistics", "trained")


def load(path: str | os.PathLike[str], *, max_weights: int = MAX_WEIGHTS) -> Mask:
    """Read a mask file and check it, without decoding its bits.

    Args:
        path: the file.
        max_weights: a file that claims more masked weights than this is refused: each takes a byte when decoded,
            and a file of a few hundred bytes can claim any number.

    Raises:
        MaskFileError: the file is damaged, of a later format, or not a mask file.
        FileNotFoundError: there is none.

    Example:
        >>> import tempfile
        >>> from selfmask.maskset import MaskSet
        >>> model = torch.nn.Linear(8, 4)
        >>> masks = MaskSet(model, select="weight")
        >>> file = masks.save(Path(tempfile.mkdtemp()) / "site.mask.safetensors", site="north")
        >>> masks.remove()
        >>> mask = load(file)
        >>> mask.names, mask.density(), mask.metadata["site"]
        (('weight',), 1.0, 'north')
        >>> with mask.apply(model) as adapted:
        ...     adapted(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """
    path = Path(path)
    if path.is_dir():
        raise MaskFileError(f"{path}: a folder, expected a mask file (*.safetensors)")
    return parse_mask(read(path), path, max_weights)


def parse_mask(content: bytes, path: Path, max_weights: int = MAX_WEIGHTS) -> Mask:
    """The same from the file's bytes; `path` is for the messages."""
    texts, arrays = parse(content, path.name)
    version = texts.pop("selfmask.format", None)
    if version is None and "selfmask.cascade" in texts:
        raise MaskFileError(
            f"{path.name} is a cascade and no mask: embed, predict, analyze and report take it"
        )
    if version != FORMAT:
        raise MaskFileError(
            f"{path.name}: mask file format {version!r}; this version of selfmask reads {FORMAT!r}. Update selfmask"
        )
    metadata = {
        key: parse_json(text.encode(), f"{path.name}: metadata {key!r}") for key, text in texts.items()
    }
    for name, dtype in TENSORS.items():
        if name in arrays and arrays[name].dtype != dtype:
            raise MaskFileError(
                f"{path.name}: tensor {name!r} has dtype {arrays[name].dtype}, expected {dtype}"
            )
    if "index" not in arrays or arrays["index"].dtype != "U8":
        raise MaskFileError(f"{path.name}: the tensor 'index' is missing; the file is damaged")

    def get(name: str, empty: tuple[int, ...]) -> np.ndarray:
        return arrays[name].numpy(TENSORS[name]) if name in arrays else np.zeros(empty, np.uint8)

    index = record.from_tensors(
        arrays["index"].data,
        get("fingerprints", (0, record.SHORT_BYTES)),
        get("models", (0,)).reshape(-1),
    )
    if index.weights > max_weights:
        raise MaskFileError(
            f"{path.name}: claims {index.weights} masked weights, more than the {max_weights} that are read without "
            "being asked to; if that is right, pass max_weights"
        )
    companions = {kind: _companions(index.companions.get(kind, ()), kind, arrays, path) for kind in _KINDS}
    norms = _stepped(index.stepped.get("norms", ()), "norms", arrays, path)
    head: dict[str, Tensor | Quantised] = {
        name.removeprefix("head/"): _tensor(array.data, array.dtype, array.shape)
        for name, array in arrays.items()
        if name.startswith("head/")
    }
    in_steps = _stepped(index.stepped.get("head", ()), "head", arrays, path)
    if twice := sorted(head.keys() & in_steps.keys()):
        raise MaskFileError(f"{path.name}: the head's {twice[0]!r} is stored twice; the file is damaged")
    known = {*TENSORS, "index", *(f"{k}/{c.dtype}" for k in _KINDS for c in index.companions.get(k, ()))}
    for name in arrays:
        if name not in known and not name.startswith("head/"):
            raise MaskFileError(f"{path.name}: a tensor {name!r} that format {FORMAT} does not have")
    _check_alpha(index, get("alpha", (0,)).reshape(-1), path)
    return Mask(
        path,
        metadata,
        index,
        **companions,
        norms=norms,
        stored_head=head | in_steps,
        sizes=_sizes(content, arrays),
        _arrays=arrays,
    )


def _companions(
    members: tuple[Companion, ...], kind: str, arrays: dict[str, Array], path: Path
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    used: dict[str, int] = {}
    for member in members:
        array = arrays.get(f"{kind}/{member.dtype}")
        begin = used.get(member.dtype, 0)
        end = begin + member.nbytes
        if end > (0 if array is None else array.data.nbytes):
            raise MaskFileError(f"{path.name}: {kind} {member.name!r} is missing; the file is damaged")
        data = np.zeros(0, np.uint8) if array is None else array.data[begin:end]
        tensors[member.name] = _tensor(data, member.dtype, member.shape)
        used[member.dtype] = end
    for dtype, end in used.items():
        array = arrays.get(f"{kind}/{dtype}")
        if array is not None and end != array.data.nbytes:
            raise MaskFileError(f"{path.name}: more {kind} than its index names; the file is damaged")
    return tensors


def _stepped(
    members: tuple[Stepped, ...], kind: str, arrays: dict[str, Array], path: Path
) -> dict[str, Quantised]:
    """The tensors of `kind` that are stored as steps, by name."""
    packed, scales = (
        array.data if (array := arrays.get(f"{kind}.{what}")) is not None else np.zeros(0, np.uint8)
        for what in ("steps", "scales")
    )
    sizes = _tensor(scales, "BF16", (scales.nbytes // ITEM_BYTES["BF16"],))
    found: dict[str, Quantised] = {}
    at = row = 0
    for part in members:
        end, last = at + packed_bytes(count(part.shape), part.bits), row + row_count(part.shape)
        if end > len(packed) or last > len(sizes):
            raise MaskFileError(f"{path.name}: {kind} {part.name!r} is missing; the file is damaged")
        try:
            found[part.name] = Quantised.unpacked(packed[at:end], sizes[row:last], part.shape, part.bits)
        except MaskFileError as error:
            raise MaskFileError(f"{path.name}: {kind} {part.name!r}: {error}") from None
        at, row = end, last
    if at != len(packed) or row != len(sizes):
        raise MaskFileError(f"{path.name}: more {kind} than its index names; the file is damaged")
    return found


def _tensor(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    if dtype not in DTYPES:
        raise MaskFileError(f"a tensor of the mask file has dtype {dtype}, which is not read here")
    if data.size == 0:
        return torch.empty(shape, dtype=DTYPES[dtype])
    if dtype == "BOOL" and data.max() > 1:
        raise MaskFileError(
            "a tensor of booleans of the mask file holds other values than 0 and 1: it is damaged"
        )
    return torch.from_numpy(data.copy()).view(DTYPES[dtype]).reshape(shape)


def _check_alpha(index: Index, stated: np.ndarray, path: Path) -> None:
    if len(stated) != len(index.masks):
        raise MaskFileError(
            f"{path.name}: {len(stated)} values of α for {len(index.masks)} masks; the file is damaged"
        )
    for (name, coded), value in zip(index.masks.items(), stated, strict=True):
        total = count(index.base.tensors[name].shape)
        on = total - sum(coded.off)
        if np.float32(alpha(on, total) if on else float(total == 0)) != value:
            raise MaskFileError(
                f"{path.name}: α of {name!r} is not that of {on} of {total} weights on; it is damaged"
            )


def _sizes(content: bytes, arrays: dict[str, Array]) -> dict[str, int]:
    def total(*prefixes: str) -> int:
        return sum(a.data.nbytes for name, a in arrays.items() if name.startswith(prefixes))

    parts = {
        "masks": total("masks.", "models"),
        "statistics": total("statistics/"),
        "norms": total("norms."),
        "head": total("head/", "head.", "trained/"),
    }
    return {**parts, "metadata": len(content) - sum(parts.values()), "file": len(content)}
