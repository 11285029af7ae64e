"""The one model of a bank, and the way from one mask to the next.

θ is kept once, so that a switch is one pass over the masked weights: w = θ/α, then 0 where a weight is off. Where two
masks have as many weights of a tensor off, its factor is the same, and only the weights that differ are written. What
was written by whom is known, so nothing is hashed, and nothing is read back.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfmask.bank.packing import ALL_ON, NOTHING, Writer
from selfmask.bank.specialist import Specialist
from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile.fingerprint import Signed
from selfmask.masking import occupancy
from selfmask.masking.places import Place, forget_casts, places, put_back


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor of the model.

    home: the parameters or buffers of the module that owns it. tensor: as it stood when the bank was made, with its
    address (memory) and how many elements it has. theta: its values then. order: its dimensions, the widest step first.
    flat_theta, weights: both as they lie in memory, 1-d; None where there are gaps between a tensor's elements.
    """

    place: Place
    home: Mapping[str, Tensor | None]
    tensor: Tensor
    memory: int
    elements: int
    theta: Tensor
    order: tuple[int, ...]
    flat_theta: Tensor | None
    weights: Tensor | None

    @staticmethod
    def at(place: Place, tensor: Tensor) -> _Slot:
        parameters = place.owner._parameters
        home = parameters if parameters.get(place.name) is tensor else place.owner._buffers
        tensor = tensor.detach()
        theta = tensor.clone()
        order = tuple(sorted(range(tensor.ndim), key=lambda d: -tensor.stride(d)))
        flat = tensor.permute(order)
        if not flat.is_contiguous():
            return _Slot(place, home, tensor, tensor.data_ptr(), tensor.numel(), theta, order, None, None)
        flat_theta = theta.permute(order).reshape(-1)
        weights = flat.view(-1)
        return _Slot(place, home, tensor, tensor.data_ptr(), len(weights), theta, order, flat_theta, weights)

    def stands(self) -> bool:
        """Whether the model still has this tensor, and in the same memory."""
        now = self.home.get(self.place.name)
        return now is not None and now.data_ptr() == self.memory and now.numel() == self.elements


class Switch:
    """A model that wears one mask at a time, or none. Not for several threads at once.

    Takes the model for itself until `close`: raises `WrongBaseError` where a mask set or an applied mask has it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._slots: dict[str, _Slot] = {}
        self._first: dict[str, str] = {}
        with occupancy.taking(model, "a Bank", "call bank.close()") as self._hold:
            everywhere = places(model)
            known: dict[int, str] = {}
            for name, place in everywhere.items():
                assert place.tensor is not None  # `places` leaves those out
                first = known.setdefault(id(place.tensor), name)
                self._first[name] = first
                if first == name:
                    self._slots[name] = _Slot.at(place, place.tensor)
            self.signed = Signed(
                model, {name: self._slots[first].theta for name, first in self._first.items()}
            )
            self._modes = [(part, part.training) for part in model.modules()]
            self._buffers = frozenset(name for name, _ in model.named_buffers())
            self._worn: Specialist | None = None
            self._doubtful: set[str] = set()  # tensors that are not what `_worn` says, or may not be
            standing: dict[str, list[Place]] = {}
            for name, place in everywhere.items():
                standing.setdefault(self._first[name], []).append(place)
            me = weakref.ref(self)
            self._hold.keep(standing, lambda: () if (switch := me()) is None else switch._off())
        model.eval()

    @property
    def worn(self) -> Specialist | None:
        """What the model wears; None: it is the base."""
        return self._worn

    def own_name(self, name: str) -> str:
        """The first of a tensor's names. Raises `MaskFileError` for one that the model does not have."""
        if name not in self._first:
            raise MaskFileError(f"{name!r} is not a tensor of the base")
        return self._first[name]

    def in_memory_order(self, name: str, mask: Tensor) -> Tensor:
        """A mask of the tensor `name` as 1-d, in the order in which the tensor's weights lie in memory."""
        slot = self._slots[name]
        if slot.weights is None:
            raise SettingsError(
                f"the weights of {name} do not lie in memory without gaps, so a bank cannot mask them; make the model "
                "anew, or copy them (parameter.data = parameter.data.contiguous())"
            )
        return mask.permute(slot.order).reshape(-1)

    @torch.no_grad()
    def to(self, new: Specialist | None) -> None:
        """Put `new` on in place of what the model wears; None makes it the base.

        An error on the way leaves what the next call makes good. Raises `SettingsError` where somebody has moved, cast
        or replaced weights.
        """
        old, doubtful = self._worn, self._doubtful
        names = dict.fromkeys(doubtful)
        if new is not old:
            names |= dict.fromkeys((*_touched(old), *_touched(new)))
        gone = {name for name in names if not self._slots[name].stands()}
        for name in gone:
            if name not in self._buffers:
                raise SettingsError(
                    f"{name} was moved, cast or replaced while the bank held the model: close the bank, and make it "
                    "anew with the model as it is to be"
                )
        self._doubtful = set(names)
        before = NOTHING if old is None else old.packed
        after = NOTHING if new is None else new.packed
        writer = Writer(after)
        for name in names:
            slot, value = self._slots[name], None if new is None else new.values.get(name)
            if name in gone:  # a buffer that the network makes anew, a cache say
                put_back(slot.place, slot.theta if value is None else value)
            elif value is not None or slot.weights is None or slot.flat_theta is None:
                slot.tensor.copy_(slot.theta if value is None else value)
            else:
                known = name not in doubtful and (old is None or name not in old.values)
                was, span = before.spans.get(name, ALL_ON), after.spans.get(name, ALL_ON)
                if known and was.listed and span.listed and was.factor == span.factor:
                    off = before.places(was, slot.weights.device)
                    writer.write_over(name, off, slot.flat_theta, slot.weights)
                else:
                    writer.write(name, slot.flat_theta, slot.weights)
        forget_casts()
        self._worn, self._doubtful = new, set()
        self._hold.beside = self._moved()

    @contextmanager
    def lending(self) -> Iterator[nn.Module]:
        """The model for somebody else's hands: whatever they have done to it, the next `to` writes all of it anew."""
        try:
            yield self.model
        finally:
            # A pass in training mode and a write to `.data` leave no trace, so nothing is taken on trust.
            self._doubtful.update(self._slots)
            if any(part.training for part, _ in self._modes):
                self.model.eval()

    def close(self) -> None:
        """Make the model the base again, bit for bit, and let it go. A second call does nothing."""
        self._hold.release(self._restore)
        self._slots, self._worn = {}, None

    def _restore(self) -> None:
        for slot in self._slots.values():
            put_back(slot.place, slot.theta)
        forget_casts()
        for part, training in self._modes:
            part.training = training

    def _off(self) -> Collection[str]:
        """The names of the tensors that have weights off now, and of the weights that have moved."""
        spans = {} if self._worn is None else self._worn.packed.spans
        return [*(name for name, span in spans.items() if span.end > span.begin), *self._moved()]

    def _moved(self) -> frozenset[str]:
        """The names of the weights that are worn with values of their own: those of norms, and trained ones."""
        return frozenset(() if self._worn is None else self._worn.values.keys() - self._buffers)


def _touched(specialist: Specialist | None) -> tuple[str, ...]:
    """The tensors that it writes."""
    return () if specialist is None else (*specialist.packed.spans, *specialist.values)
