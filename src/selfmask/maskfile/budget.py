"""The best mask file of at most so many bytes: what is given up of a specialist, and how that is chosen.

A file holds masks, norm weights, a head, and the rest: what the base is told by, and metadata. Words that nobody needs
to use the mask go first. The rest of the room is shared out between the flips and the bits of each norm's weights, by
how much each moves the network's features for the bits that it takes (`trade`), beside a head of 8, 4, 3 or 2 bits,
rounded so that it says of the network's features as they now are what was said before (`head_rounding`). Each such file
is judged by how far it moves the outputs on some images, and the nearest is taken. No label is needed, and no test
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask._common.modes import eval_mode
from selfmask.errors import SettingsError
from selfmask.maskfile.head import Head, logits
from selfmask.maskfile.head_rounding import rounded_head
from selfmask.maskfile.index import Base
from selfmask.maskfile.quantised import Quantised, clipped, plain
from selfmask.maskfile.saving import mask_bytes
from selfmask.maskfile.trade import Learnt, Trade
from selfmask.masking.importance import sensitivity
from selfmask.masking.places import forget_casts
from selfmask.masking.weight import masked_weight

HEAD_BITS = (8, 4, 3, 2)
_USEFUL = frozenset(("objective", "data", "classes", "size", "seed", "split"))
_SPARED = ("rule", "selection", "flipped", "compaction")
"""What a file within a budget does not say: of `training` all but `_USEFUL`, and these."""


@dataclass(frozen=True)
class Fitted:
    """What was chosen.

    content: the file's bytes, at most as many as were asked for. moved: how far the outputs moved, see `Worn.rounded`.
    whole: whether nothing had to be given up.
    """

    learnt: Learnt
    content: bytes
    moved: float
    whole: bool = False

    @property
    def record(self) -> dict[str, Any] | None:
        """What the file's metadata has under "budget"; None where nothing had to be given up."""
        return None if self.whole else self.learnt.metadata.get("budget")


class Worn:
    """A network that wears what was learnt, and then what might be stored of it.

    Args:
        model: as it is now: with its masks, norm weights and all.
        theta: the base of the masked tensors by name; `bases`: that of the norm weights.
        learnt: what it wears now.
        images: batches that the model takes, of images that stand for those to come.
        learnt.head: a linear one ("weight", perhaps "bias") or one of texts ("text", "logit_scale"), by what it says;
            with any other, or none, the outputs are the model's, and a head is then stored as it is.

    Raises `SettingsError` where the model's outputs are no tensor, or there are no images.
    """

    def __init__(
        self,
        model: nn.Module,
        theta: Mapping[str, Tensor],
        bases: Mapping[str, Tensor],
        learnt: Learnt,
        images: Iterable[Tensor],
    ) -> None:
        if isinstance(images, Tensor):
            raise SettingsError("images are batches: put the one tensor into a list, images=[x]")
        # The same ones in the same order each time, whatever a loader or a generator would give.
        images = list(images)
        if any(isinstance(batch, tuple | list) for batch in images):
            raise SettingsError("images are batches without their labels: images=[x for x, _ in loader]")
        if not images or not all(isinstance(batch, Tensor) and len(batch) for batch in images):
            raise SettingsError(
                "max_bytes needs images=: batches as the model takes them, by which to judge what is given up"
            )
        self._model, self._theta, self._bases, self._images = model, theta, bases, images
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        x = self.features()
        said = logits(x, learnt.head)
        self.speaks = said is not None
        self._first, self._head = x if said is None else said, plain(learnt.head)
        if not bool(self._first.isfinite().all()):
            raise SettingsError(
                "max_bytes: the network's outputs on the images are not finite, so nothing can be judged"
            )

    @torch.no_grad()
    def features(self) -> Tensor:
        """What the model makes of all images, as it is now: float32 (N, …)."""
        parts = []
        with eval_mode(self._model):
            for batch in self._images:
                found = self._model(batch)
                if not isinstance(found, Tensor):
                    raise SettingsError(
                        f"max_bytes: the model gives {type(found).__name__}, expected one tensor"
                    )
                parts.append(found.float())
        return torch.cat(parts)

    @torch.no_grad()
    def wear(self, learnt: Learnt) -> None:
        """Make the network what a file of `learnt` holds, bit for bit."""
        for name, mask in learnt.masks.items():
            theta = self._theta[name]
            self._parameters[name].copy_(masked_weight(theta, mask.to(theta.device)))
        for name, base in self._bases.items():
            change = learnt.norms.get(name)
            self._parameters[name].copy_(base if change is None else change.added_to(base))
        forget_casts()

    def rounded(self, learnt: Learnt) -> tuple[Learnt, float]:
        """`learnt`, worn, with its head rounded for what the network is now; and how far the outputs then are, ≥ 0.

        How far: with a head that `speaks` the mean Kullback-Leibler divergence of what it says from what was said
        first, in nats; without one the mean squared difference over the mean square. A head that was rounded for some
        images is judged by others: each half of them by a head rounded for the other half.
        """
        self.wear(learnt)
        x, first, head = self.features(), self._first, learnt.head
        linear = isinstance(head.get("weight"), Quantised) and "bias" in head
        if not (linear and self.speaks) or len(x) < 4:
            return learnt, self._far(x, head, first)
        halves = (slice(0, None, 2), slice(1, None, 2))
        far = [
            self._far(x[these], self._head_for(head, x[others], first[others]), first[these])
            for these, others in (halves, halves[::-1])
        ]
        return replace(learnt, head=self._head_for(head, x, first)), sum(far) / 2

    def _far(self, x: Tensor, head: Head, first: Tensor) -> float:
        """How far what is now said of the features is from what was said first; without a head, they themselves."""
        now = logits(x, head) if self.speaks else x
        assert now is not None  # rounding changes no shape
        if self.speaks:
            said, before = now.log_softmax(1), first.log_softmax(1)
            return float(F.kl_div(said, before, reduction="batchmean", log_target=True))
        return float((now - first).square().mean() / first.square().mean().clamp_min(1e-30))

    def _head_for(self, head: Head, x: Tensor, wanted: Tensor) -> Head:
        """A linear head that says `wanted` of the features `x`, in the bits of `head`, near what was learnt."""
        weight, bias = head["weight"], head["bias"]
        assert isinstance(weight, Quantised)
        bits = bias.bits if isinstance(bias, Quantised) else 8
        weight, bias = rounded_head(self._head["weight"], weight.bits, x, wanted, bias_bits=bits)
        return {**head, "weight": weight, "bias": bias}

    def trade(self, learnt: Learnt) -> Trade:
        """What each part of `learnt`, which is worn now, is worth."""
        ones = {name: torch.ones_like(self._bases[name]) for name in learnt.norms}
        found = sensitivity(self._model, {**self._theta, **ones}, self._images)
        return Trade(learnt, found)


def writer(
    base: Base, statistics: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Callable[[Learnt], bytes]:
    """What makes a file's bytes of a `Learnt`, beside what is stored as it is."""
    return lambda one: mask_bytes(
        base, one.masks, statistics, trained, one.head, one.metadata, norms=one.norms
    )


def in_bytes(
    max_bytes: int,
    learnt: Learnt,
    worn: Worn,
    write: Callable[[Learnt], bytes],
    keep: Callable[[bytes], object] = lambda content: None,
) -> Fitted:
    """The file of at most `max_bytes` whose network is nearest to what was `learnt`; the network then wears it.

    keep: what is done with the file's bytes, written to a disk say; where that fails, the network is as before. Raises
    `SettingsError` where even the least does not fit: it says how many bytes that takes, and of what.
    """
    whole = write(learnt)
    if len(whole) <= max_bytes:
        keep(whole)
        return Fitted(learnt, whole, 0.0, whole=True)
    shorter = replace(learnt, metadata=spared(learnt.metadata, max_bytes, len(whole)))
    try:
        best = _nearest(max_bytes, shorter, worn, write)
        keep(best.content)
    except BaseException:
        worn.wear(learnt)
        raise
    worn.wear(best.learnt)
    return best


def _nearest(max_bytes: int, shorter: Learnt, worn: Worn, write: Callable[[Learnt], bytes]) -> Fitted:
    # What a head that nobody can judge would lose by rounding is not known.
    heads, trade = _heads(shorter.head) if worn.speaks else [dict(shorter.head)], worn.trade(shorter)
    found = (_filled(replace(shorter, head=head), trade, max_bytes, write) for head in heads)
    several = [worn.rounded(one) for one in found if one is not None]
    if not several:
        raise SettingsError(_too_little(max_bytes, replace(shorter, norms={}, head=heads[-1]), write))
    best, moved = min(several, key=lambda one: one[1])
    return Fitted(best, write(best), moved)


def spared(metadata: Mapping[str, Any], max_bytes: int, whole: int) -> dict[str, Any]:
    """The metadata without what is not needed to use the mask, and with a word on what was left out."""
    kept = {key: value for key, value in metadata.items() if key not in _SPARED}
    left = [key for key in metadata if key in _SPARED]
    training = metadata.get("training")
    if isinstance(training, Mapping) and not training.keys() <= _USEFUL:
        kept["training"] = {key: value for key, value in training.items() if key in _USEFUL}
        left.append("training")
    before = metadata.get("budget")  # of a file that was made smaller once: what it lacks, this one does too
    if isinstance(before, Mapping):
        lacks, size = before.get("left_out"), before.get("whole")
        known = [one for one in lacks if isinstance(one, str)] if isinstance(lacks, list) else []
        left = [*dict.fromkeys([*known, *left])]
        whole = max(whole, size) if isinstance(size, int) else whole
    return {**kept, "budget": {"max_bytes": max_bytes, "whole": whole, "left_out": left}}


def _heads(head: Head) -> list[Head]:
    """The head as it is, and its matrices in ever fewer bits; vectors (a bias) in 8."""
    some = HEAD_BITS if head else ()
    return [dict(head), *({name: _head_tensor(t, bits, name) for name, t in head.items()} for bits in some)]


def _head_tensor(tensor: Tensor | Quantised, bits: int, name: str) -> Tensor | Quantised:
    values = tensor.values() if isinstance(tensor, Quantised) else tensor
    bits = bits if values.ndim > 1 else 8
    if not values.is_floating_point() or (isinstance(tensor, Quantised) and tensor.bits <= bits):
        return tensor
    return clipped(values, bits, f"the head's {name!r}")


def _filled(learnt: Learnt, trade: Trade, max_bytes: int, write: Callable[[Learnt], bytes]) -> Learnt | None:
    """`learnt` with as much of its flips and norm weights as fits; None where it does not fit without any."""
    best = _told(replace(learnt, masks={n: torch.ones_like(m) for n, m in learnt.masks.items()}, norms={}))
    size = len(write(best))
    if size > max_bytes:
        return None
    # What a price comes to in the file is known only from the file: aim, and correct the aim.
    room = float(max_bytes - size)
    for _ in range(_AIMS):
        if room <= 0:
            break
        price = trade.priced(room)
        room = min(room, trade.bytes(price))  # what is more than everything is of no use as an aim
        masks, norms = trade.at(price)
        one = _told(replace(learnt, masks=masks, norms=norms))
        written = len(write(one))
        left = max_bytes - written
        if left >= 0 and written > size:
            best, size = one, written
        everything = one.off == learnt.off and all(norms.get(name) is q for name, q in learnt.norms.items())
        if 0 <= left <= _NEAR * max_bytes or (left >= 0 and everything):
            break
        room += left - (_NEAR * max_bytes / 2 if left < 0 else 0)
    return best


_AIMS, _NEAR = 6, 0.005


def _told(learnt: Learnt) -> Learnt:
    """With a word on what was given up: the bits of an element of head and norm weights, and the weights off."""
    head = {t.bits if isinstance(t, Quantised) else 8 * t.element_size() for t in learnt.head.values()}
    budget = {
        **learnt.metadata["budget"],
        "head": min(head, default=0),
        "norms": sorted({q.bits for q in learnt.norms.values()}),
        "off": learnt.off,
    }
    return replace(learnt, metadata={**learnt.metadata, "budget": budget})


def _too_little(max_bytes: int, least: Learnt, write: Callable[[Learnt], bytes]) -> str:
    """What to say where nothing fits, and what could be left out."""
    least = _told(replace(least, masks={name: torch.ones_like(mask) for name, mask in least.masks.items()}))
    total = len(write(least))
    head = total - len(write(replace(least, head={})))
    words = total - head - len(write(replace(least, head={}, metadata={})))
    parts = {
        "the head": head,
        "metadata": words,
        "what tells the base, and what was trained": total - head - words,
    }
    said = ", ".join(f"{what} {size:,}" for what, size in parts.items())
    hint = "leave out the head" if head > words else "give less metadata"
    return (
        f"max_bytes: the smallest possible file takes {total:,} bytes ({said}), more than {max_bytes:,}, without any "
        f"weight off and without norm weights; allow more, or {hint}"
    )
