"""A network in use: images in, one embedding each out. It knows of no file and of no console.

So the same function works for a command, for a worker of many, and behind a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import xxhash
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.cascades.fusion import joined
from selfmask.cascades.network import Cascade
from selfmask.embeddings.record import MadeBy
from selfmask.features.features import check_features, features
from selfmask.features.passes import showing
from selfmask.images.image_set import ImageSet
from selfmask.images.listing import Entry
from selfmask.images.sources import Skipped
from selfmask.images.view_set import view_set
from selfmask.maskfile.fingerprint import base_tensors, combined, signature
from selfmask.maskfile.mask import Mask

# Views of one part, the next of which is being decoded meanwhile.
_PART_BYTES, _MOST, _FEWEST = 2**28, 1024, 64


@dataclass(frozen=True)
class Embedded:
    """Some images' embeddings, in order; and which could not be read, so that they have none.

    names: N of them. x: float32 (N, width) on the CPU, finite. experts: int64 (N,), from 1, of a cascade.
    """

    names: tuple[str, ...]
    x: Tensor
    experts: Tensor | None
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        """How many images it is about, those that could not be read included."""
        return len(self.names) + len(self.skipped)


@dataclass(frozen=True)
class Embedder:
    """A network that is ready: the backbone with a mask applied for good, or alone; or a cascade on its backbone.

    backbone: with the preprocessing that its images get. mask: the one applied, for its head and its words.
    mode: which of a cascade's embeddings.
    """

    backbone: Backbone
    made_by: MadeBy
    mask: Mask | None = field(default=None, repr=False)
    cascade: Cascade | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """The width of an embedding."""
        if self.cascade is not None and self.made_by.mode is not None:
            return self.cascade.fusions[self.made_by.mode].width
        return self.backbone.width

    @property
    def part(self) -> int:
        """How many images are decoded and embedded at a time: 64 to 1024, so that their views take 256 MB at most
        where that is possible. It says where parts begin, and depends on nothing but the size of the views."""
        return max(_FEWEST, min(_MOST, _PART_BYTES // (3 * self.backbone.preprocessing.size**2)))

    def embed(self, images: ImageSet) -> tuple[Tensor, Tensor | None]:
        """Embeddings float32 (N, width) of `images`, in order, and of a cascade the experts, int64 (N,), from 1.

        Equal to what `features` gives, to the bit, where the images are no more than one part. Raises `DataError`
        where the network gives what is not finite.
        """
        if len(images) == 0:
            none = torch.zeros(0, dtype=torch.int64)
            return torch.zeros(0, self.width), None if self.cascade is None else none
        last = self.backbone.prefers_channels_last
        if self.cascade is None:
            x, experts = features(self.backbone, images, channels_last=last), None
        else:
            mode = self.made_by.mode
            assert mode is not None
            first, each, assignment = self.cascade.member_features(
                images, self.backbone, everything=mode == "unconditional", channels_last=last
            )
            x = self.cascade.fusions[mode].apply(joined(first, each, assignment, mode))
            experts = assignment.cpu() + 1
        check_features(x, "embeddings")
        return x.cpu(), experts

    def embed_entries(self, entries: Sequence[Entry]) -> Embedded:
        """The same of images by place, `part` of them at most: what cannot be read is left out and named."""
        return self._embedded(*self._views(entries))

    def embed_parts(self, parts: Iterable[Sequence[Entry]]) -> Iterator[Embedded]:
        """`embed_entries` of one part after another; the next is decoded while the network is at work."""
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            try:
                for entries in parts:
                    coming = ahead.submit(self._views, entries)
                    if waiting is not None:
                        yield self._embedded(*waiting.result())
                    waiting = coming
                if waiting is not None:
                    yield self._embedded(*waiting.result())
            finally:
                ahead.shutdown(wait=False, cancel_futures=True)

    def _views(self, entries: Sequence[Entry]) -> tuple[ImageSet, tuple[Skipped, ...]]:
        recipe = self.backbone.preprocessing
        return view_set(entries, recipe.size, recipe.crop, recipe.interpolation)

    def _embedded(self, images: ImageSet, skipped: tuple[Skipped, ...]) -> Embedded:
        with showing(None):  # who asks for parts knows of how many
            return Embedded(images.names, *self.embed(images), skipped)


def network_digest(backbone: Backbone, *more: bytes) -> str:
    """`MadeBy.digest` of the network as it is now, on the CPU, and of what else makes its embeddings what they are."""
    tensors = {name: signature(tensor).digest for name, tensor in base_tensors(backbone.module).items()}
    found = xxhash.xxh3_128(combined(tensors).encode())
    found.update(json.dumps(backbone.preprocessing.describe(), sort_keys=True).encode())
    for one in more:
        found.update(xxhash.xxh3_128_digest(one))
    return found.hexdigest()


def in_parts(entries: Iterable[Entry], size: int) -> Iterator[tuple[Entry, ...]]:
    """`entries`, `size` at a time; the last part may be shorter."""
    part: list[Entry] = []
    for entry in entries:
        part.append(entry)
        if len(part) == size:
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)
