"""Who has rewritten a model's weights: at most one mask set or applied mask at a time.

A second one would take the first one's masked weights for the base. The note is kept beside the model, not on
it, and goes away with either of them.
"""

from __future__ import annotations

import weakref

from torch import nn

from selfmask.errors import WrongBaseError

_occupants: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def occupant(model: nn.Module) -> str | None:
    """What holds `model` now, in words, or None."""
    return _occupants.get(model)


def held(holder: str) -> str:
    """The sentence for a model that `holder` has already rewritten."""
    return f"the model's weights are held by {holder}, so they are not the base; call .remove() on that first"


def occupy(model: nn.Module, who: str) -> None:
    """Note that `who` (in words) rewrites `model`'s weights. Raises `WrongBaseError` if something does already."""
    holder = _occupants.get(model)
    if holder is not None:
        raise WrongBaseError(held(holder))
    _occupants[model] = who


def vacate(model: nn.Module) -> None:
    """Forget who held `model`."""
    _occupants.pop(model, None)
