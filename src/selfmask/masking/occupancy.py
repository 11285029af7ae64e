"""Who has rewritten a model's weights: at most one mask set or applied mask at a time.

A second one would take the first one's masked weights for the base. What is held are the tensors, by themselves and
by their memory, so that a wrapper, a part or a shallow copy of a held model is known to be held. Claims are decided
under one lock: of two threads that want a model, one takes it and the other is told. And what is copied or pickled
while it is masked carries a mark, and knows what it is.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfmask.errors import WrongBaseError
from selfmask.masking.places import Place, places

_MARK = "_selfmask_masked"  # in the `__dict__` of each module whose weights are rewritten

WeakPlace = tuple[weakref.ref[nn.Module], str]

_changed = threading.Condition()
_holds: list[Hold] = []


END = "call .remove() on that"


class Hold:
    """A claim on all parameters and buffers of a model. Made by `taking`; it ends with `release`, or with the model."""

    def __init__(self, who: str, where: Collection[Place], end: str = END) -> None:
        self.who, self.end = who, end
        self._where = [_weakly(place) for place in where]
        self._masked: dict[str, WeakPlace] = {}
        self._marked: list[weakref.ref[nn.Module]] = []
        self._off: Callable[[], Collection[str]] = tuple
        self.beside: frozenset[str] = frozenset()
        self._undecided: int | None = threading.get_ident()
        self._ending = threading.Lock()

    def keep(
        self,
        masked: Mapping[str, Sequence[Place]],
        off: Callable[[], Collection[str]],
        beside: Collection[str] = (),
    ) -> None:
        """Hold on after the block of `taking`.

        `masked` says where the masked tensors stand, and those trained `beside` them; `off()` which of them are not the
        base's now: have weights off, or moved. It is called when the model is copied, and must not keep it alive.
        """
        self.beside = frozenset(beside)
        self._off, self._masked = off, {name: _weakly(where[0]) for name, where in masked.items()}
        modules: dict[nn.Module, dict[str, str]] = {}
        for name, where in masked.items():
            for place in where:
                modules.setdefault(place.owner, {})[place.name] = name
        for module, names in modules.items():
            module.__dict__[_MARK] = _Mark(self, module, names)
            self._marked.append(weakref.ref(module))
        self._undecided = None

    def release(self, restore: Callable[[], None]) -> bool:
        """Let the model go, once `restore` has made it the base again; False, with nothing done, the second time."""
        with self._ending:
            if self not in _holds:
                return False
            restore()
            for module in filter(None, (reference() for reference in self._marked)):
                module.__dict__.pop(_MARK, None)
            _forget(self)
            return True

    def _tensors(self) -> list[Tensor]:
        return [tensor for place in self._where if (tensor := _there(place)) is not None]

    def with_zeros(self, beyond: Mapping[str, int]) -> list[str]:
        """The names of the masked tensors of which more are 0 than `beyond` says."""
        there = {name: _there(self._masked[name]) for name in beyond}
        return [name for name, t in there.items() if t is not None and int((t == 0).sum()) > beyond[name]]

    def first_off(self) -> tuple[str, Tensor] | None:
        """The first tensor that is not the base's, because it has weights off or was trained, with its name.

        One that is 0 everywhere is the base's still: a mask leaves some of its weights on.
        """
        for name in self._off():
            tensor = _there(self._masked[name]) if name in self._masked else None
            if tensor is not None and bool((tensor != 0).any()):
                return name, tensor
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        """A mask set that is copied along with its model holds the copy."""
        where = [Place(owner, name) for reference, name in self._where if (owner := reference())]
        return _hold_on, (self.who, where, self.end)


@contextmanager
def taking(model: nn.Module, who: str, end: str = END) -> Iterator[Hold]:
    """Take `model` for `who`, alone until the block ends, and after it if `Hold.keep` was called in it. In words; `end`
    is how somebody lets it go.

    Waits while another thread is in such a block over any of the same tensors. Raises `WrongBaseError` where they are
    held, or are a copy of tensors that were.
    """
    everywhere = places(model)
    hold = Hold(who, everywhere.values(), end)
    with _changed:
        while (other := _overlapping(hold)) is not None:
            if other._undecided in (None, threading.get_ident()):
                raise WrongBaseError(
                    f"the model's weights are held by {other.who}, so they are not the base; {other.end} first"
                )
            _changed.wait()
        if (first := _copied_from(model) or _loaded_from(everywhere)) is not None:
            raise WrongBaseError(
                f"the model is a copy, made while {first} held the original, so its weights are masked and not the "
                "base; copy the base before it is masked, or load its weights into the copy"
            )
        _holds.append(hold)
    try:
        yield hold
    finally:
        if hold._undecided is not None:
            _forget(hold)
        with _changed:
            _changed.notify_all()


def _forget(hold: Hold) -> None:
    with _changed:
        if hold in _holds:
            _holds.remove(hold)
        _changed.notify_all()


def _hold_on(who: str, where: list[Place], end: str) -> Hold:
    hold = Hold(who, where, end)
    hold._undecided = None
    with _changed:
        _holds.append(hold)
    return hold


def _overlapping(hold: Hold) -> Hold | None:
    """Another hold over any of the same tensors or memory. Those whose models are gone are forgotten."""
    mine = hold._tensors()
    themselves, memory = {id(t) for t in mine}, {_memory(t) for t in mine} - {0}
    for other in list(_holds):
        theirs = other._tensors()
        if not theirs:
            _holds.remove(other)
        if any(id(t) in themselves or _memory(t) in memory for t in theirs):
            return other
    return None


def _weakly(place: Place) -> WeakPlace:
    return weakref.ref(place.owner), place.name


def _there(place: WeakPlace) -> Tensor | None:
    owner = place[0]()
    return None if owner is None else Place(owner, place[1]).tensor


def _memory(tensor: Tensor) -> int:
    """Where the tensor's storage begins; 0 where it has none (an empty one, the meta device, a subclass)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, ValueError):
        return 0


class _Mark:
    """What copies and pickles of a masked module carry: as the plain pair (who, {name: a digest of it})."""

    def __init__(self, hold: Hold, module: nn.Module, names: Mapping[str, str]) -> None:
        self._hold, self._module, self._names = weakref.ref(hold), weakref.ref(module), dict(names)

    def __reduce__(self) -> tuple[Any, ...]:
        hold, module = self._hold(), self._module()
        if hold not in _holds or hold is None or module is None:
            return tuple, (("", {}),)
        off = hold._off()
        seen = {
            own: _print(module, own, name in hold.beside) for own, name in self._names.items() if name in off
        }
        return tuple, ((hold.who, seen),)


def _copied_from(model: nn.Module) -> str | None:
    """Who held the model that `model` is a copy of, where its weights are still 0 where that one's were."""
    for module in model.modules():
        mark = module.__dict__.get(_MARK)
        if isinstance(mark, tuple) and any(
            seen is not None and _print(module, own, seen.startswith(_VALUES)) == seen
            for own, seen in mark[1].items()
        ):
            return str(mark[0])
    return None


def _loaded_from(everywhere: Mapping[str, Place]) -> str | None:
    """Who holds a model whose masked weights were loaded into this one, as they are now."""
    for hold in _holds:
        if (first := hold.first_off()) is not None and first[0] in everywhere:
            mine, theirs = everywhere[first[0]].tensor, first[1]
            if mine is None or mine.is_meta or (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
                continue
            if torch.equal(mine.detach().cpu(), theirs.detach().cpu()):
                return hold.who
    return None


_VALUES = "="


def _print(module: nn.Module, own: str, by_values: bool) -> str | None:
    """A digest of where a parameter is 0: it outlives moves and casts of the copy, and not other weights in it.

    Of one that is trained beside the masks, of which nothing need be 0, that of its values: it outlives no cast to a
    narrower type. None of one that is 0 everywhere: a mask leaves some weights on, so it is the base's.
    """
    tensor = module._parameters.get(own)
    if tensor is None or not bool((tensor != 0).any()):
        return None
    if by_values:
        values = tensor.detach().cpu().double().contiguous().numpy().tobytes()
        return _VALUES + hashlib.blake2b(values, digest_size=16).hexdigest()
    where = (tensor.detach() == 0).cpu().contiguous().numpy()
    return hashlib.blake2b(np.packbits(where).tobytes(), digest_size=16).hexdigest()
