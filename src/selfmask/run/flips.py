"""How restless a mask is: the share of its bits that flip in a step."""

from __future__ import annotations

from selfmask.maskset import MaskSet


class Flips:
    """Counts flips between one line of the log and the next. Keeps one byte a weight."""

    def __init__(self, masks: MaskSet, step: int) -> None:
        self._masks, self._before, self._step = masks, masks.masks(), step

    def share(self, step: int) -> float:
        """Share of the bits, a step, that differ from the last call's (of the steps done by `step`), in [0, 1].

        A bit that flipped there and back in between is not seen.
        """
        now, total, flipped = self._masks.masks(), 0, 0
        for name, mask in now.items():
            total += mask.numel()
            flipped += int((mask != self._before[name]).sum())
        steps = max(step - self._step, 1)
        self._before, self._step = now, step
        return flipped / max(total, 1) / steps
