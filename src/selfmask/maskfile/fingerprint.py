"""Fingerprints of base tensors: the way a mask file knows the network that it belongs to.

The hash is XXH3 with 128 bits: it runs at the speed of the memory, so checking every tensor before every `apply`
costs about as much as reading the weights once (SHA-256 and BLAKE2 are 10 to 20 times slower), and it is stable and
specified. It guards against mistakes, not against an attacker: whoever can hand over weights has no use for a
collision with others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import xxhash
from torch import Tensor, nn

from selfmask.errors import WrongBaseError
from selfmask.maskfile.architecture import architecture

SHORT_BYTES = (
    8  # of each tensor's 16-byte digest, what the file keeps; the fingerprint of the whole is kept in full
)

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Signature:
    """What is known of one base tensor: safetensors' dtype name, shape, and its 16-byte digest."""

    dtype: str
    shape: tuple[int, ...]
    digest: bytes


def dtype_name(dtype: torch.dtype) -> str:
    """safetensors' name of a dtype ("F32"), or torch's own for those that it has none for."""
    return DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def raw_bytes(tensor: Tensor) -> memoryview:
    """The elements in C order as bytes, whatever the device or memory layout (a view if that needs no copy)."""
    plain = tensor.detach().cpu().contiguous()
    if plain.numel() == 0:
        return memoryview(b"")
    return plain.reshape(-1).view(torch.uint8).numpy().data


def signature(tensor: Tensor) -> Signature:
    """The `Signature` of a tensor: it covers dtype, shape and every bit of the values."""
    name, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
    digest = xxhash.xxh3_128(json.dumps([name, list(shape)], separators=(",", ":")).encode() + b"\0")
    digest.update(raw_bytes(tensor))
    return Signature(name, shape, digest.digest())


def combined(digests: Mapping[str, bytes]) -> str:
    """The fingerprint of a whole base, 32 hexadecimal digits, from its tensors' digests; their order is no matter."""
    whole = xxhash.xxh3_128()
    for name in sorted(digests):
        whole.update(name.encode() + b"\0" + digests[name])
    return whole.hexdigest()


class Signed:
    """A model's tensors by name and their signatures, each hashed when it is first asked for and then known.

    However many mask files are checked against it, the model is hashed once. `tensors` are all of the model's, by every
    name; where the model is not the base any more, they are copies of the base's.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.model = model
        self.tensors = all_tensors(model) if tensors is None else tensors
        self.own = tuple(base_tensors(model))
        self._known: dict[str, Signature] = {}

    @cached_property
    def architecture(self) -> str:
        """The digest of the model's module tree."""
        return architecture(self.model)

    def signature(self, name: str) -> Signature:
        """The `Signature` of the tensor of that name. Raises `WrongBaseError` where it has no values yet."""
        if name not in self._known:
            tensor = self.tensors[name]
            if tensor.is_meta:
                raise WrongBaseError(f"{name} has no values yet: load the base's weights first")
            self._known[name] = signature(tensor)
        return self._known[name]


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that makes `model` the base that it is, by name: its parameters, then its persistent buffers.

    Left out: the counters `num_batches_tracked` (no output in evaluation mode depends on them) and buffers that are
    not part of the model's state (they are computed from its settings).
    """
    tensors: dict[str, Tensor] = {name: p.detach() for name, p in model.named_parameters()}
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is None or name in module._non_persistent_buffers_set or name == "num_batches_tracked":
                continue
            tensors.setdefault(f"{prefix}.{name}" if prefix else name, buffer.detach())
    return tensors


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `model` by every name that it has: what a file's names are looked up in."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found
