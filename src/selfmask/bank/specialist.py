"""One mask of a bank, ready to be put on: what is off, what comes along, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import recipe_of
from selfmask.bank.packing import Packed, together
from selfmask.maskfile.head import predicts
from selfmask.maskfile.mask import Mask

_OBJECT_BYTES = 400  # about what torch and Python take for a small tensor in a dict, beside its elements


@dataclass(frozen=True)
class Card:
    """What is known of a mask of a bank.

    Attributes:
        name, path: in the bank, and on the disk.
        bytes: of the file.
        weights, density: how many weights are masked, and the share of them that is on.
        size: the side of its views in pixels.
        classes: that its head tells apart, or that it was learnt on; empty where the file does not say.
        predicts: whether it brings a head.
        learnt_on: the base, as its file calls it; None where it does not.
        training: what the file says of its training (data, objective, …), as JSON.
    """

    name: str
    path: Path
    bytes: int
    weights: int
    density: float
    size: int
    classes: tuple[str, ...]
    predicts: bool
    learnt_on: str | None
    training: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "path": str(self.path), "classes": list(self.classes)}


@dataclass(frozen=True)
class Specialist:
    """A mask in memory.

    Attributes:
        card: what is known of it.
        preprocessing: its own recipe, with its own size.
        packed: its masks.
        values: running statistics, trained parameters and weights of norm layers by the tensor's name.
        head: the tensors of its head; empty where it has none.
    """

    card: Card
    preprocessing: Preprocessing
    packed: Packed
    values: dict[str, Tensor]
    head: dict[str, Tensor]

    @staticmethod
    def of(
        mask: Mask,
        name: str,
        default: Preprocessing,
        own_name: Callable[[str], str],
        in_memory_order: Callable[[str, Tensor], Tensor],
        base: Mapping[str, Tensor],
    ) -> Specialist:
        """From a mask that fits the base; decodes its bits.

        default: the recipe where the file says none. own_name: the model's first name of a tensor, by any of its names.
        in_memory_order: a mask, 1-d, in the order in which the weights of that name lie in memory. base: the base's
        tensors, by any of their names.

        Raises `MaskFileError` where the coded bits are damaged, `SettingsError` where the recipe is.
        """
        values = {own_name(n): value for n, value in mask.brings(base).items()}
        bits = {own_name(n): in_memory_order(own_name(n), one) for n, one in mask.masks().items()}
        recipe = recipe_of(mask) or default
        training = mask.metadata.get("training")
        card = Card(
            name=name,
            path=mask.path,
            bytes=mask.bytes()["file"],
            weights=mask.index.weights,
            density=mask.density(),
            size=recipe.size,
            classes=mask.classes or (),
            predicts=predicts(mask.head),
            learnt_on=mask.learnt_on,
            training=training if isinstance(training, dict) else {},
        )
        packed = Packed.of(bits)
        del bits
        positions, off, *others = together(
            [packed.positions, packed.bits, *values.values(), *mask.head.values()]
        )
        values = dict(zip(values, others, strict=False))
        head = dict(zip(mask.head, others[len(values) :], strict=True))
        return Specialist(card, recipe, Packed(packed.spans, positions, off), values, head)

    @property
    def nbytes(self) -> int:
        """What it takes in memory, in bytes: exact for what is large, about for the rest."""
        tensors = (*self.values.values(), *self.head.values())
        said = 4 * len(json.dumps(self.card.training)) + 60 * len(self.card.classes)
        return self.packed.nbytes + sum(t.nbytes + _OBJECT_BYTES for t in tensors) + said + 2000
