"""A network in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """`module` in evaluation mode inside the block; every sub-module's own mode restored after it."""
    modes = [(part, part.training) for part in module.modules()]
    # A module takes a microsecond to be told what it knows; a network has hundreds, and may be asked for one image.
    if any(training for _, training in modes):
        module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            if part.training != training:
                part.training = training
