"""SwAV's queue: embeddings of the last batches, which make the codes of a small batch meaningful.

Balance among hundreds of prototypes cannot be judged from 64 images; with the queue's earlier ones it can.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfmask._common.processes import gathered, place
from selfmask.errors import SettingsError


class EmbeddingQueue(nn.Module):
    """The last `length` embeddings (dim,) of each of `views` large crops, newest first.

    They are buffers, so a checkpoint of the objective holds them. Every process keeps the whole queue and
    scores only its own share of it (`part`): the state is the same everywhere, and a run may resume on
    another number of processes.

    length: a multiple of the batch size over all processes (checked when the first batch is pushed).
    """

    def __init__(self, length: int, views: int, dim: int) -> None:
        super().__init__()
        if length < 1:
            raise SettingsError(f"a queue holds at least one batch, got a length of {length}")
        self.register_buffer("embeddings", torch.zeros(views, length, dim))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))
        self.embeddings: Tensor
        self.held: Tensor

    @property
    def full(self) -> bool:
        """Whether every place is taken: only then is the queue of use (as in SwAV)."""
        return int(self.held) >= self.embeddings.shape[1]

    def part(self, view: int) -> Tensor:
        """This process's share of the embeddings of large crop `view`, (length / processes, dim)."""
        rank, world = place()
        return self.embeddings[view, rank::world]

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Put a batch (views, B, dim) in front; the oldest drop out. All processes' batches, in order of rank."""
        whole = gathered(embeddings.detach().to(self.embeddings.dtype), dim=1)
        length, batch = self.embeddings.shape[1], whole.shape[1]
        if length % batch:
            raise SettingsError(
                f"the queue's length must be a multiple of the batch size, got {length} and batches of {batch}; "
                f"take {max(1, round(length / batch)) * batch}"
            )
        self.embeddings = torch.cat([whole, self.embeddings[:, :-batch]], dim=1)
        self.held += batch
