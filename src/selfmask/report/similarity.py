"""How alike the masks of different tasks are, against what chance alone would give.

Two masks over one backbone are compared by the weights that they turn off: Jaccard |A ∩ B| / |A ∪ B| of the
off-sets, and Hamming, the share of bits that differ. Two masks that turn off 5 % each agree on 90 % of the
bits by chance, so every figure stands beside its expected value for independent masks of the same densities,
tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from selfmask.errors import SettingsError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class PackedMask:
    """A mask as its off-bits, eight to a byte, so that fifty masks of a ResNet-50 fit in 150 MB.

    Attributes:
        names: parameter names, sorted.
        shapes: their shapes.
        bits: uint8 (bytes,): 1 where a weight is off; every tensor begins on a byte.
        off: int64 (tensors,): weights off in each tensor.
        sizes: int64 (tensors,): weights of each tensor.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: NDArray[np.uint8]
    off: NDArray[np.int64]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Similarity:
    """Pairwise figures of n masks; rows and columns in the order of `labels`.

    Attributes:
        labels: a name for each mask.
        jaccard: float64 (n, n) in [0, 1]; 1 on the diagonal, and for two masks that turn nothing off.
        expected_jaccard: the same for independent masks of equal densities (ratio of expected counts).
        hamming: float64 (n, n): the share of bits that differ, in [0, 1]; 0 on the diagonal.
        expected_hamming: the same for independent masks of equal densities (exact).
        order: a permutation of range(n) that puts alike masks side by side.
    """

    labels: tuple[str, ...]
    jaccard: Matrix
    expected_jaccard: Matrix
    hamming: Matrix
    expected_hamming: Matrix
    order: tuple[int, ...]


def pack(masks: Mapping[str, Tensor]) -> PackedMask:
    """Pack the off-bits of `masks` (bool tensors, True = on)."""
    names = tuple(sorted(masks))
    off = [~masks[name].detach().cpu().flatten().numpy().astype(bool) for name in names]
    bits = [np.packbits(values) for values in off]
    return PackedMask(
        names,
        tuple(tuple(masks[name].shape) for name in names),
        np.concatenate(bits) if bits else np.zeros(0, np.uint8),
        np.array([int(values.sum()) for values in off], np.int64),
        np.array([values.size for values in off], np.int64),
    )


def similarity(packed: Sequence[PackedMask], labels: Iterable[str]) -> Similarity:
    """Compare every pair of `packed`. Raises `SettingsError` where two are not over the same tensors."""
    labels = tuple(labels)
    if len(labels) != len(packed) or not packed:
        raise SettingsError(f"{len(labels)} labels were given for {len(packed)} masks; give one label a mask")
    first = packed[0]
    for label, mask in zip(labels, packed, strict=True):
        if (mask.names, mask.shapes) != (first.names, first.shapes):
            raise SettingsError(
                f"the masks of {labels[0]} and {label} are over different tensors "
                f"(the first that differs: {_first_difference(first, mask)}); compare masks of one backbone "
                "and one selection"
            )
    count, total = len(packed), max(int(first.sizes.sum()), 1)
    jaccard, expected_jaccard = np.eye(count), np.eye(count)
    hamming, expected_hamming = np.zeros((count, count)), np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            a, b = packed[i], packed[j]
            both = _popcount(a.bits & b.bits)
            either = int(a.off.sum() + b.off.sum()) - both
            jaccard[i, j] = jaccard[j, i] = both / either if either else 1.0
            hamming[i, j] = hamming[j, i] = (either - both) / total
            chance = float((a.off * (b.off / np.maximum(b.sizes, 1))).sum())
            apart = float(a.off.sum() + b.off.sum()) - chance
            expected_jaccard[i, j] = expected_jaccard[j, i] = chance / apart if apart else 1.0
            expected_hamming[i, j] = expected_hamming[j, i] = (apart - chance) / total
    return Similarity(
        labels, jaccard, expected_jaccard, hamming, expected_hamming, cluster_order(1 - jaccard)
    )


def cluster_order(distance: Matrix) -> tuple[int, ...]:
    """Leaves, optimally ordered, of the average-linkage tree over `distance` (n, n; zero diagonal)."""
    if len(distance) < 3:
        return tuple(range(len(distance)))
    tree = linkage(squareform(np.clip(distance, 0, None), checks=False), "average", optimal_ordering=True)
    return tuple(int(leaf) for leaf in leaves_list(tree))


def over_common_tensors(several: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The same masks restricted to the tensors that all of them have in one shape."""
    if not several:
        return []
    common = set.intersection(*({(n, tuple(t.shape)) for n, t in masks.items()} for masks in several))
    names = {name for name, _ in common}
    return [{name: mask for name, mask in masks.items() if name in names} for masks in several]


def _popcount(values: NDArray[np.uint8]) -> int:
    if hasattr(np, "bitwise_count"):  # numpy ≥ 2.0
        return int(np.bitwise_count(values).sum(dtype=np.int64))
    return int(_ONES[values].sum(dtype=np.int64))


_ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def _first_difference(a: PackedMask, b: PackedMask) -> str:
    shapes_a, shapes_b = dict(zip(a.names, a.shapes, strict=True)), dict(zip(b.names, b.shapes, strict=True))
    for name in sorted(shapes_a.keys() | shapes_b.keys()):
        if shapes_a.get(name) != shapes_b.get(name):
            return f"{name}, {shapes_a.get(name, 'absent')} against {shapes_b.get(name, 'absent')}"
    return "none"
