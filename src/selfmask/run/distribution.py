"""Several processes, one batch: what has to be averaged so that all of them stay alike.

Gradients are averaged by hand and not by a wrapper around the model: an objective may pass through the model
several times a step, and reads its parameters directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from selfmask.errors import RunError, SelfmaskError
from selfmask.masking.norm import running_statistics


def accelerator_for(module: nn.Module) -> Accelerator:
    """The processes that there are, on the kind of device where `module` is."""
    return Accelerator(cpu=all(p.device.type == "cpu" for p in module.parameters()))


def console_for(accelerator: Accelerator, console: Console | None) -> Console:
    """Where a process speaks: `console` or standard error for the first one, nowhere for the others."""
    if not accelerator.is_main_process:
        return Console(quiet=True)
    return console or Console(stderr=True)


def average_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over the processes, in one message. Alone, nothing is done."""
    if accelerator.num_processes == 1:
        return
    _average([p.grad for p in parameters if p.grad is not None])


def average_statistics(accelerator: Accelerator, module: nn.Module) -> None:
    """Replace running means and variances by their means over the processes."""
    if accelerator.num_processes == 1:
        return
    _average(list(running_statistics(module).values()))


def same_on_all(accelerator: Accelerator, module: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if accelerator.num_processes == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)


def any_of(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set on any process: a signal may reach one of them a step before the others."""
    if accelerator.num_processes == 1:
        return flag
    found = torch.tensor(float(flag), device=accelerator.device)
    dist.all_reduce(found)
    return bool(found > 0)


def by_the_first(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Let the first process do `work` while the others wait. Where it raises a `SelfmaskError`, all raise."""
    problem: SelfmaskError | None = None
    if accelerator.is_main_process:
        try:
            work()
        except SelfmaskError as error:
            problem = error
    failed = any_of(accelerator, problem is not None)
    if problem is not None:
        raise problem
    if failed:
        raise RunError("the first process could not start; it says why")


def leave_processes() -> None:
    """End the group of processes, if there is one: for programs, which own it, at their end."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _average(tensors: list[Tensor]) -> None:
    if not tensors:
        return
    message = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(message)
    message /= dist.get_world_size()
    parts = message.split([t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))
