"""Where the tensors of a model stand, and their exact values, to be put back whatever was done to the model since.

A name alone finds the wrong tensor once a layer was replaced, and a tensor alone is an orphan once the user has loaded
with `assign=True`. The module that owns it, and its name there, outlive both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """A parameter or buffer by the module that owns it and its name there."""

    owner: nn.Module
    name: str

    @property
    def tensor(self) -> Tensor | None:
        """What stands there now; None where the module has nothing of that name any more."""
        found = self.owner._parameters.get(self.name)
        return found if found is not None else self.owner._buffers.get(self.name)


def places(model: nn.Module) -> dict[str, Place]:
    """Every parameter and buffer of `model` by every name that it has: tied ones and shared modules have several."""
    return {
        f"{prefix}.{name}" if prefix else name: Place(module, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    }


class Kept:
    """Copies of tensors of a model by name, and the way back to them."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.values: dict[str, Tensor] = {}
        self._where: dict[str, list[Place]] = {}
        self.keep(model, names)

    def keep(self, model: nn.Module, names: Iterable[str]) -> None:
        """Keep these tensors of `model` too, as they are now; one that is kept already stays as it was then."""
        everywhere = places(model)
        alike: dict[int, list[Place]] = {}
        for place in everywhere.values():
            alike.setdefault(id(place.tensor), []).append(place)
        for name in names:
            tensor = everywhere[name].tensor
            if name not in self.values and tensor is not None:
                self.values[name] = tensor.detach().clone()
                self._where[name] = alike[id(tensor)]

    def where(self, name: str) -> list[Place]:
        """All places where the tensor stood that is kept under `name`."""
        return self._where[name]

    def restore(self) -> None:
        """Put every tensor back, bit for bit, on the device where it now is."""
        for name, where in self._where.items():
            for place in where:
                put_back(place, self.values[name])
        forget_casts()


def forget_casts() -> None:
    """After weights were written in place: have autocast cast them anew.

    It keeps its half-precision copies of weights until its outermost block ends, whatever is written meanwhile. So what
    is put on or taken off within a block would not be seen there.
    """
    torch.clear_autocast_cache()


@torch.no_grad()
def put_back(place: Place, value: Tensor) -> None:
    """Write `value` where it stood.

    A parameter that has another shape by now is the user's own, and is left alone; a buffer that has (a cache that has
    grown) is replaced.
    """
    now = place.tensor
    if now is not None and now.shape == value.shape:
        now.detach().copy_(value)
    elif place.name in place.owner._buffers:
        place.owner._buffers[place.name] = value.to(value.device if now is None else now.device, copy=True)
