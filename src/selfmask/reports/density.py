"""How much of a network a mask leaves on: by layer, kind, stage and filter (App. Fig. 2, Fig. 3, Table 1).

Pure functions of a dictionary from parameter names to boolean tensors (True = on), as `Mask.masks()` and
`MaskSet.masks()` give it. "Density" is the share of weights on, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.reports.places import Place, locate


@dataclass(frozen=True)
class Layer:
    """One place of the network with the count of its weights that are on.

    Attributes:
        place: which tensor, its kind, stage and depth.
        weights: how many weights it has, ≥ 0.
        on: how many of them are on.
    """

    place: Place
    weights: int
    on: int

    @property
    def off(self) -> int:
        """How many weights are off."""
        return self.weights - self.on

    @property
    def density(self) -> float:
        """The share of weights on, in [0, 1]; 1 for an empty tensor."""
        return self.on / self.weights if self.weights else 1.0


def layers(masks: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Every tensor of `masks` (fused query-key-value ones as three), in the order of the network.

    Raises `SettingsError` where a mask is not boolean: a count of other values would mean nothing.
    """
    check_bool(masks)
    found = []
    for place in locate({name: tuple(mask.shape) for name, mask in masks.items()}):
        part = part_of(masks, place)
        found.append(Layer(place, part.numel(), int(part.count_nonzero())))
    return tuple(found)


def total_density(found: Iterable[Layer]) -> float:
    """The share of all weights that are on: what App. Table 1 lists (as a percentage)."""
    found = tuple(found)
    weights = sum(layer.weights for layer in found)
    return sum(layer.on for layer in found) / weights if weights else 1.0


def grouped(found: Iterable[Layer], key: Callable[[Place], str]) -> dict[str, tuple[int, int]]:
    """(weights, on) of every group that `key` forms, in the order in which the groups first appear.

    `grouped(found, lambda place: place.stage)` tells which stages changed most.
    """
    groups: dict[str, tuple[int, int]] = {}
    for layer in found:
        name = key(layer.place)
        weights, on = groups.get(name, (0, 0))
        groups[name] = (weights + layer.weights, on + layer.on)
    return groups


@dataclass(frozen=True)
class SeriesPoint:
    """Mean and deviation, over several masks, of the density at one depth of one kind.

    Attributes:
        kind: the kind of layer.
        part: "weight" or "bias".
        depth: see `Place.depth`.
        mean: mean density over the masks.
        deviation: the sample's standard deviation (n − 1); 0 for one mask.
        masks: how many masks it is taken over.
    """

    kind: str
    part: str
    depth: int
    mean: float
    deviation: float
    masks: int


def series(several: Sequence[Sequence[Layer]]) -> tuple[SeriesPoint, ...]:
    """Density over depth for each kind, mean and deviation over masks: the lines of App. Fig. 2 and Fig. 3.

    Layers of one mask that share kind, part and depth are pooled first (weighted by their size). Masks of one
    backbone are expected; where a mask has no such layer, it does not count at that point.
    """
    values: dict[tuple[str, str, int], list[float]] = {}
    for found in several:
        pooled: dict[tuple[str, str, int], tuple[int, int]] = {}
        for layer in found:
            key = (layer.place.kind, layer.place.part, layer.place.depth)
            weights, on = pooled.get(key, (0, 0))
            pooled[key] = (weights + layer.weights, on + layer.on)
        for key, (weights, on) in pooled.items():
            values.setdefault(key, []).append(on / weights if weights else 1.0)
    points = []
    for (kind, part, depth), densities in values.items():
        mean, deviation = mean_and_deviation(densities)
        points.append(SeriesPoint(kind, part, depth, mean, deviation, len(densities)))
    return tuple(points)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); the deviation of a single value is 0."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def part_of(masks: Mapping[str, Tensor], place: Place) -> Tensor:
    mask = masks[place.parameter]
    return mask if place.rows is None else mask[place.rows[0] : place.rows[1]]


def check_bool(masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise SettingsError(
                f"the mask of {name} has dtype {mask.dtype}; analysis needs torch.bool (True = on), as "
                "Mask.masks() and MaskSet.masks() return it"
            )
