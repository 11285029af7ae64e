"""Several processes, one batch: which of them this is, and what has to be equal or averaged in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from selfmask.errors import RunError, SelfmaskError


def place() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) where `torch.distributed` is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def gathered(mine: Tensor, dim: int = 0) -> Tensor:
    """The processes' tensors (of one shape) one after another along `dim`, in order of rank."""
    _, world = place()
    if world == 1:
        return mine
    parts = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts, dim=dim)


def gathered_with_gradient(mine: Tensor) -> Tensor:
    """`gathered` along the first dimension, through which gradients flow back to the process that each part is of."""
    if place()[1] == 1:
        return mine
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(mine)))


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message. Alone, nothing is done."""
    _, world = place()
    if world == 1 or not tensors:
        return
    message = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(message)
    message /= world
    parts = message.split([t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def same_on_all(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if place()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any process: a signal may reach one of them a step before the others."""
    if place()[1] == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found)
    return bool(found > 0)


def by_the_first(device: torch.device, work: Callable[[], object]) -> None:
    """Let the first process do `work` while the others wait. Where it raises a `SelfmaskError`, all raise."""
    with ended_on_all(device, RunError("the first process could not start; it says why")):
        if place()[0] == 0:
            work()


@contextmanager
def ended_on_all(device: torch.device, elsewhere: SelfmaskError) -> Iterator[None]:
    """Where one process raises a `SelfmaskError` inside, all end there: else they would wait for it without end.

    elsewhere: what those raise that raised nothing themselves.
    """
    problem: SelfmaskError | None = None
    try:
        yield
    except SelfmaskError as error:
        problem = error
    ended = any_of(problem is not None, device)
    if problem is not None:
        raise problem
    if ended:
        raise elsewhere


def leave_processes() -> None:
    """End the group of processes, if there is one: for programs, which own it, at their end."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
