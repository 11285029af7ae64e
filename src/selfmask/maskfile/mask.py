"""Reading a mask file and applying it: `load(path).apply(model)`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from selfmask._common.escape import one_line
from selfmask.errors import ArchitectureWarning, MaskFileError, WrongBaseError
from selfmask.maskfile import explain
from selfmask.maskfile.coding import decode, rows_of
from selfmask.maskfile.container import TENSORS, Array, count
from selfmask.maskfile.fingerprint import Signed, combined
from selfmask.maskfile.index import FREE, Index
from selfmask.maskfile.quantised import Quantised, plain
from selfmask.maskfile.streams import Reader
from selfmask.masking import norm, occupancy
from selfmask.masking.places import Kept, forget_casts
from selfmask.masking.weight import masked_weight, scale


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask file in memory. Made by `load`; the bits are decoded when they are asked for.

    Attributes:
        path: where it was read from.
        metadata: the JSON data that was saved with it, by key; `metadata["selfmask"]` is the writer's version.
        index: the base that it belongs to and the layout of the masks.
        statistics: running statistics by buffer name, set by `apply`.
        trained: ordinary parameters by name that were trained beside the masks, set by `apply`.
        norms: what `apply` adds to the weights of norm layers, by parameter name.
        stored_head: tensors of a head that was saved with it, as they are stored; not applied.

    Example:
        >>> mask = selfmask.load("runs/photos/mask.safetensors")
        >>> mask.learnt_on, mask.classes, mask.head["weight"].shape
        ('package:efficientnet_lite0', ('0', '1'), torch.Size([2, 1280]))
        >>> all(int(bits.sum()) == mask.on[name] for name, bits in mask.masks().items())
        True
    """

    path: Path
    metadata: dict[str, Any]
    index: Index
    statistics: dict[str, Tensor]
    trained: dict[str, Tensor]
    norms: dict[str, Quantised]
    stored_head: dict[str, Tensor | Quantised]
    sizes: dict[str, int]
    _arrays: dict[str, Array]

    @property
    def names(self) -> tuple[str, ...]:
        """The masked parameters' names."""
        return tuple(self.index.masks)

    @property
    def learnt_on(self) -> str | None:
        """What the file says of its base's origin, on one line and safe to print; or None."""
        backbone = self.metadata.get("backbone")
        name = self.metadata.get("base")
        if not isinstance(name, str):
            name = backbone.get("spec") if isinstance(backbone, dict) else None
            name = name.replace("timm:", "timm ", 1) if isinstance(name, str) else None
        return None if name is None else one_line(name)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that it was learnt on, where the file says them."""
        training = self.metadata.get("training")
        names = training.get("classes") if isinstance(training, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        return tuple(names)

    @cached_property
    def head(self) -> dict[str, Tensor]:
        """The tensors of a head that was saved with it; empty where there is none. Not applied."""
        return plain(self.stored_head)

    @property
    def head_dtypes(self) -> dict[str, str]:
        """How each tensor of the head is stored: "float32", "float16", "int8", …"""
        return {
            name: f"int{t.bits}" if isinstance(t, Quantised) else str(t.dtype).removeprefix("torch.")
            for name, t in self.stored_head.items()
        }

    @cached_property
    def on(self) -> dict[str, int]:
        """The number of weights that are on, by tensor."""
        return {name: self.numel(name) - sum(coded.off) for name, coded in self.index.masks.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one masked tensor."""
        return self.index.base.tensors[name].shape

    def numel(self, name: str) -> int:
        """The number of weights of one masked tensor."""
        return count(self.shape(name))

    def density(self) -> float:
        """The share of the masked weights that is on, in [0, 1]."""
        return sum(self.on.values()) / max(self.index.weights, 1)

    def bytes(self) -> dict[str, int]:
        """The file's bytes by part: masks, statistics, norms, head (with `trained`), metadata; all of it: file."""
        return dict(self.sizes)

    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name: bool, of the parameters' shapes, True where a weight is on.

        Raises `MaskFileError` where the file's coded bits are damaged.
        """
        reader = Reader(self._words("masks.coded", np.uint32), self._words("masks.plain", np.uint8))
        digest = xxhash.xxh3_128()
        masks: dict[str, Tensor] = {}
        for name, coded in self.index.masks.items():
            bits = decode(reader, coded, rows_of(self.shape(name)))
            digest.update(np.packbits(bits, bitorder="little").data)
            masks[name] = torch.from_numpy(bits).reshape(self.shape(name))
        reader.finish()
        if digest.hexdigest() != self.index.digest:
            raise MaskFileError(
                f"{self.path.name}: the decoded masks do not have the digest that the file states"
            )
        return masks

    def check(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's tensors by name, after checking that each is the base's; changes nothing.

        Warns (`ArchitectureWarning`) where the tensors are the base's and the modules are not built as its were.
        Raises `WrongBaseError` naming the first tensor that differs and the likely cause.
        """
        with occupancy.taking(model, f"a check of {self.path.name}"):
            return self._checked(model)

    def check_signed(self, signed: Signed) -> None:
        """The same of a model whose tensors are known by their signatures."""
        base, tensors = self.index.base, signed.tensors
        found = {name: signed.signature(name) for name in base.tensors if name in tensors}
        extra = {name: signed.signature(name) for name in signed.own if name not in base.tensors}
        why = explain.difference(base, found, extra, self.index.masks, tensors, self.learnt_on, signed.model)
        fixed = {n: found[n].digest for n, s in base.tensors.items() if n in found and s.digest != FREE}
        if why is None and combined(fixed) != base.fingerprint:
            why = "the fingerprint of the whole base differs, though that of no single tensor does"
        if why is not None:
            raise WrongBaseError(
                f"{self.path.name}: this model is not the base that the mask was learnt on: {why}."
            )
        if base.architecture not in (None, signed.architecture):
            warnings.warn(
                f"{self.path.name}: the model has the weights of the mask's base but is not built as it was: a class "
                "or a setting of one of its modules differs (an eps, a stride, an activation), or the version of the "
                "library that builds it. Measure before you trust its outputs",
                ArchitectureWarning,
                stacklevel=2,
            )

    def brings(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stands beside the masks, by name: statistics, what was trained, and the weights of norm layers.

        `tensors` are the base's, by name (see `check_parts`).
        """
        norms = {name: change.added_to(tensors[name].detach()) for name, change in self.norms.items()}
        return self.statistics | self.trained | norms

    def check_parts(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `MaskFileError` where what the file brings cannot be written to the base's `tensors`."""
        steps = {name: change.steps for name, change in self.norms.items()}
        for kind, members in (("statistics", self.statistics), ("trained", self.trained), ("norms", steps)):
            for name, value in members.items():
                if name not in tensors or tensors[name].shape != value.shape:
                    raise MaskFileError(f"{self.path.name}: {kind} {name!r} is not a tensor of the base")
        for name, on in self.on.items():
            if on == 0 and self.numel(name):
                raise MaskFileError(
                    f"{self.path.name}: every weight of {name!r} is off, so α = 0 and w is undefined"
                )

    def _checked(self, model: nn.Module) -> dict[str, Tensor]:
        signed = Signed(model)
        self.check_signed(signed)
        return dict(signed.tensors)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> Handle:
        """Make `model` the adapted network: w = θ·M/α, the running statistics and what was trained, in place.

        Everything is checked before anything is written, so the model is either adapted or untouched. The outputs
        are those of the training-time network bit for bit (on the same device kind). Keep what it gives: that alone
        makes the model the base again.

        Raises:
            WrongBaseError: `model` is not the base, or is masked already.
            MaskFileError: the file's coded bits are damaged.
        """
        end = "call .remove() on what apply gave (where that was not kept, make the model anew)"
        with occupancy.taking(model, f"the applied mask {self.path.name}", end) as hold:
            tensors = self._checked(model)
            norm.unfreeze_copies(model)
            new = self._adapted(tensors, self.masks())
            kept = Kept(model, [*new, *(n for n, _ in model.named_buffers(remove_duplicate=False))])
            changed = [*(name for name, on in self.on.items() if on < self.numel(name)), *self.norms]
            try:
                for name, value in new.items():
                    tensors[name].detach().copy_(value)
                forget_casts()
                where = {name: kept.where(name) for name in (*self.index.masks, *self.norms)}
                hold.keep(where, lambda: changed, self.norms)
            except BaseException:
                kept.restore()
                raise
        return Handle(self, model, kept, hold)

    def _adapted(self, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `apply` writes, by name."""
        self.check_parts(tensors)
        weights = {
            name: masked_weight(
                tensors[name].detach(), mask.to(tensors[name].device), scale(self.on[name], mask.numel())
            )
            for name, mask in masks.items()
        }
        return weights | self.brings(tensors)

    def _words(self, name: str, dtype: type[np.generic]) -> np.ndarray:
        array = self._arrays.get(name)
        return np.zeros(0, dtype) if array is None else array.numpy(TENSORS[name]).reshape(-1)


class Handle:
    """An applied mask. `remove()`, or leaving the `with` block, makes the model the base again, bit for bit.

    >>> mask = selfmask.load("runs/photos/mask.safetensors")
    >>> handle = mask.apply(selfmask.build("package:efficientnet_lite0").module)
    >>> handle.applied
    True
    >>> handle.remove()
    >>> handle.applied
    False
    """

    def __init__(self, mask: Mask, model: nn.Module, kept: Kept, hold: occupancy.Hold) -> None:
        self.mask = mask
        self.model = model
        self._kept: Kept | None = kept
        self._hold = hold

    @property
    def applied(self) -> bool:
        """Whether the mask is still on the model."""
        return self._kept is not None

    def remove(self) -> None:
        """Restore every tensor that `apply` has written, and every buffer, which a pass in training mode moves.

        A layer that was replaced since is restored, and what stands there now left alone. A second call does nothing.
        """
        kept = self._kept
        if kept is not None:
            self._hold.release(kept.restore)
            self._kept = None

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Handle({self.mask.path.name}, {'applied' if self.applied else 'removed'})"
