"""Is the run learning anything? Looked at after every step, and said in words when it is not.

Without labels a loss says little by itself: a SwAV that has collapsed, or one whose head never caught on, sits
quietly at ln K. So the loss is held against what chance would give, and the embeddings against each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from selfmask._common.processes import gathered
from selfmask.errors import RunError

_MEMORY = 20  # steps that the running means reach back


class RunWatch(nn.Module):
    """Follows a run's loss and the spread of its embeddings; its memory is in buffers, so a resumed run has it.

    chance: the loss of guessing (ln K for K prototypes or clusters), None where there is none.
    patience: share of the run after which a loss that is still at chance, or above where it began, ends it.
    """

    def __init__(self, chance: float | None = None, *, patience: float = 0.4) -> None:
        super().__init__()
        self.chance = chance
        self.patience = patience
        self.register_buffer("first", torch.zeros((), dtype=torch.float64))  # mean of the first steps' losses
        self.register_buffer("recent", torch.zeros((), dtype=torch.float64))
        self.register_buffer("spread", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.first: Tensor
        self.recent: Tensor
        self.spread: Tensor
        self.seen: Tensor

    def observe(self, step: int, steps: int, loss: float, spread: float) -> None:
        """Take note of a step (from 0, of `steps`): its loss and `spread`, 1 - |mean L2-normalised embedding|².

        Raises `RunError`, which says what to change, where the embeddings have collapsed, or the loss is stuck at
        chance or well above where it began. One that is not finite is the training loop's to tell.
        """
        if not math.isfinite(loss):
            return
        seen = int(self.seen)
        keep = min(seen, _MEMORY - 1) / (min(seen, _MEMORY - 1) + 1)
        self.recent.mul_(keep).add_((1 - keep) * loss)
        self.spread.mul_(keep).add_((1 - keep) * spread)
        if seen < _MEMORY:
            self.first.copy_(self.recent)
        self.seen += 1
        if seen < 2 * _MEMORY:
            return
        if float(self.spread) < 1e-3:
            raise RunError(
                f"the features have collapsed at step {step}: every image gets the same one (spread "
                f"{float(self.spread):.1e}). Start again with a smaller score rate (a quarter), or with frozen "
                "batch norms. Where your images are nearly alike, and the first steps said so too (spread in "
                "log.jsonl), leave this check out: watch=False among the objective's settings (--contrast.no-watch)"
            )
        if step < self.patience * steps:
            return
        self._judge(step, steps)

    def _judge(self, step: int, steps: int) -> None:
        recent, first = float(self.recent), float(self.first)
        if self.chance is not None and recent > 0.99 * self.chance:
            raise RunError(
                f"the loss is still at chance after {step} of {steps} steps ({recent:.3f}; "
                f"ln K = {self.chance:.3f}): the prototypes tell no two images apart. Take more steps "
                "(--steps), leave --preset paper out (it starts at random), or take --objective contrast, which on "
                "a few thousand images needs none of it. From Python, SwavSettings has start, prototypes and head_rate"
            )
        if recent > first + 0.15 * abs(first):
            raise RunError(
                f"the loss rose from {first:.3f} to {recent:.3f} in {step} of {steps} steps: the masks destroy the "
                "network faster than they adapt it. Start again with a smaller score rate (a quarter; --lr)"
            )


def spread_of(embeddings: Tensor) -> float:
    """1 - |mean|² of L2-normalised embeddings (B, dim): 0 if all are alike, near 1 if they point everywhere.

    Of all processes' embeddings, of one shape: that of one image alone would be 0.
    """
    return 1.0 - float(gathered(embeddings.detach()).float().mean(dim=0).square().sum())
