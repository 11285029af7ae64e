"""The nearest of many embeddings, exactly: one product of matrices, a block after another.

Why no index: a million embeddings of 512 numbers are searched in a second or two on two cores, and an index answers
with what is probably nearest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.embeddings.file import Embeddings
from selfmask.errors import DataError, SettingsError
from selfmask.features.passes import passing
from selfmask.features.whitening import ENOUGH, Whitening

# Similarities held at one time: 2**24 float32 are 64 MiB.
_SIMILARITIES = 2**24


@dataclass(frozen=True)
class Hit:
    """An image that was found: its name, and the cosine to the query."""

    path: str
    similarity: float


@dataclass(frozen=True)
class Nearest:
    """For each of Q queries its k nearest: rows int64 (Q, k) of what was searched, similarities float32 (Q, k).

    The similarity is the cosine; the largest comes first, and of equal ones the lower row.
    """

    rows: Tensor
    similarities: Tensor


@torch.no_grad()
def nearest(blocks: Iterable[Tensor], queries: Tensor, k: int) -> Nearest:
    """The `k` nearest (all, where there are fewer) of the rows of `blocks`, float (n, width) each, by the cosine.

    queries: float (Q, width). Memory is that of one block, of the queries and of k answers each. Raises `SettingsError`
    for k < 1 or another width.

    >>> nearest([torch.eye(3)], torch.tensor([[0.0, 2.0, 1.0]]), 2).rows.tolist()
    [[1, 2]]
    """
    if k < 1:
        raise SettingsError(f"k is how many images are told of each query, 1 or more, got {k}")
    wanted = F.normalize(queries.float(), dim=1)
    best = torch.zeros(len(wanted), 0)
    rows = torch.zeros(len(wanted), 0, dtype=torch.int64)
    start = 0
    for block in blocks:
        if block.shape[1] != wanted.shape[1]:
            raise SettingsError(
                f"queries of width {wanted.shape[1]} among embeddings of width {block.shape[1]}"
            )
        unit = F.normalize(block.float(), dim=1)
        step = max(1, _SIMILARITIES // max(len(unit), 1))
        found = [_largest(some @ unit.T, k) for some in wanted.split(step)] if len(wanted) else []
        if found:
            values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
            # Those before are in order and of lower rows, so a stable order keeps the lower row first.
            best, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
            rows = torch.cat([rows, places + start], dim=1).gather(1, order)[:, :k]
            best = best[:, :k]
        start += len(block)
    return Nearest(rows, best)


def hits(
    file: Embeddings, queries: Tensor, k: int, *, whitening: Whitening | None = None
) -> list[tuple[Hit, ...]]:
    """For each of the `queries` (Q, width) the `k` nearest images of a file, the nearest first; see `nearest`.

    whitening: compare what it makes of both; see `whitening_of`.
    """
    blocks = passing(file.blocks(), len(file), "searching")
    if whitening is not None:
        queries, blocks = whitening.apply(queries), map(whitening.apply, blocks)
    best = nearest(blocks, queries, k)
    known = file.names(sorted(set(best.rows.flatten().tolist())))
    return [
        tuple(Hit(known[row], value) for row, value in zip(rows, values, strict=True))
        for rows, values in zip(best.rows.tolist(), best.similarities.tolist(), strict=True)
    ]


UNASKED = 100_000


def whitening_of(file: Embeddings, asked: bool | None = True) -> Whitening | None:
    """That of a file's embeddings, of at most some 20 000 of them, drawn evenly: images of one kind lie together.

    asked: None gives one only where it helps, and the file has at most 100 000: to whiten more takes minutes.

    Raises `DataError` where there are fewer than two, which tell no direction from another.
    """
    if asked is False or (asked is None and not 2 <= len(file) <= UNASKED):
        return None
    if len(file) < 2:
        raise DataError(f"{file.path} holds {len(file)} embedding: whitening needs two or more")
    step = -(-len(file) // ENOUGH)
    some, start = [], 0
    for block in file.blocks():
        some.append(block[-start % step :: step])
        start += len(block)
    return Whitening.where_it_helps(torch.cat(some), asked)


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row of x (Q, N) in order, and their columns; of equal ones the lower columns."""
    values, columns = x.topk(min(k, x.shape[1]), dim=1)
    if values.shape[1]:
        # topk takes any of those that equal the last one.
        tied = ((x >= values[:, -1:]).sum(dim=1) > values.shape[1]).nonzero().flatten()
        if len(tied):
            ordered = x[tied].sort(dim=1, descending=True, stable=True)
            values[tied], columns[tied] = (
                part[:, : values.shape[1]] for part in (ordered.values, ordered.indices)
            )
    columns, order = columns.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
