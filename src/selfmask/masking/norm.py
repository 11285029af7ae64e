"""Batch norms, and instance norms that keep statistics: what happens to these while a mask is learnt (PAPER §5).

"adapt": they move in training mode, as in the paper, and the mask file carries them. "frozen": each such norm
stays in evaluation mode whatever `model.train()` says, so there is nothing to carry.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NormStats = Literal["adapt", "frozen"]


@cache
def _frozen_class(cls: type[_NormBase]) -> type[_NormBase]:
    """A subclass of `cls` that cannot be put into training mode.

    A class, and not a hook or a patched method: the module keeps its tensors, its `repr` stays readable, and
    copies and pickles of the model are frozen too. Its statistics are not reset either (torch's `update_bn` does that
    before it has them move), since they would stay so.
    """

    def train(self: _NormBase, mode: bool = True) -> _NormBase:
        return cls.train(self, False)

    def reset_running_stats(self: _NormBase) -> None:
        pass

    def reduce(self: _NormBase, protocol: int) -> tuple[Any, ...]:
        return (_frozen, (cls,), self.__getstate__())

    name = f"Frozen{cls.__name__}"
    own = {"train": train, "reset_running_stats": reset_running_stats, "__reduce_ex__": reduce}
    return type(name, (cls,), {**own, "__module__": __name__})


def _frozen(cls: type[_NormBase]) -> _NormBase:
    """An empty frozen batch norm, for `copy` and `pickle`, which cannot find a class that was made at run time."""
    frozen = _frozen_class(cls)
    return frozen.__new__(frozen)


def unfreeze_copies(model: nn.Module) -> None:
    """Give norms of a copy of a frozen model, which nobody will thaw, their own class and their network's mode."""
    for module in model.modules():
        if (own := own_class(module)) is not type(module):
            module.__class__ = own
            module.training = model.training


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class of `module`; of a frozen norm that which it has when it is thawed."""
    cls = type(module)
    return cls.__bases__[0] if isinstance(module, _NormBase) and cls.__module__ == __name__ else cls


def freeze(model: nn.Module) -> list[tuple[_NormBase, type[_NormBase], bool]]:
    """Freeze every norm that keeps running statistics; returns what `thaw` needs."""
    frozen: list[tuple[_NormBase, type[_NormBase], bool]] = []
    for module in model.modules():
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        cls = type(module)
        frozen.append((module, cls, module.training))
        module.__class__ = _frozen_class(cls)
        module.eval()
    return frozen


def thaw(frozen: list[tuple[_NormBase, type[_NormBase], bool]], mode: bool | None = None) -> None:
    """Undo `freeze`: the classes and the modes are what they were; or the modes as `mode`, told to the model since."""
    for module, cls, training in frozen:
        module.__class__ = cls
        module.training = training if mode is None else mode


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances of `model` by name, as they are in the model (not copies)."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, _NormBase):
            for name in ("running_mean", "running_var"):
                tensor = getattr(module, name)
                if tensor is not None:
                    found[f"{prefix}.{name}" if prefix else name] = tensor
    return found
