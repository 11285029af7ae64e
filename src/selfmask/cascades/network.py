"""A cascade in use: images in, one embedding out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import rebuild
from selfmask.cascades.fusion import Fusion, Mode, joined
from selfmask.cascades.router import Router
from selfmask.errors import MaskFileError, SettingsError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.mask import Mask

# Images whose features by all members are held at one time; the masks are changed once a chunk and member.
CHUNK = 4096

DISPATCHER = "dispatcher"


@dataclass(frozen=True)
class Cascade:
    """A dispatcher, K experts, a router and fusions over one base. Made by `load_cascade`.

    Attributes:
        path, metadata: of the file.
        dispatcher: its mask.
        router: chooses the expert of an image by the dispatcher's features.
        fusions: by mode, those that the file has.
        sizes: bytes by part.
    """

    path: Path
    metadata: dict[str, Any]
    dispatcher: Mask
    router: Router
    fusions: Mapping[Mode, Fusion]
    sizes: dict[str, int]
    _unpack: Callable[[int], Mask] = field(repr=False)
    _members: dict[int, Mask] = field(default_factory=dict, repr=False)

    @property
    def experts(self) -> int:
        """The number of experts."""
        return self.router.experts

    def bytes(self) -> dict[str, int]:
        """The file's bytes by part: dispatcher, experts, router, each fusion, metadata, and all: "file"."""
        return dict(self.sizes)

    def passes(self, mode: str) -> int:
        """Forward passes an image: 1 for "dispatcher", 2 for "conditional", 1 + K for "unconditional"."""
        return {DISPATCHER: 1, "conditional": 2, "unconditional": 1 + self.experts}[mode]

    def member(self, number: int) -> Mask:
        """The dispatcher (0) or an expert (1 … K) as a mask that applies to the base by itself."""
        if not 0 <= number <= self.experts:
            raise SettingsError(f"the cascade has members 0 to {self.experts}, not {number}")
        if number == 0:
            return self.dispatcher
        if number not in self._members:
            self._members[number] = self._unpack(number)
        return self._members[number]

    def backbone(self, *, weights: str | Path | None = None, download: bool = False) -> Backbone:
        """The base, rebuilt from the metadata, and fetched only where `download` says so (see `rebuild`).

        Raises `BackboneError` where that cannot be done here.
        """
        description = self.dispatcher.metadata.get("backbone")
        if not isinstance(description, dict):
            raise MaskFileError(
                f"{self.path.name}: does not say which backbone it belongs to; pass the backbone"
            )
        return rebuild(description, weights=weights, download=download)

    def embed(
        self,
        images: ImageSet,
        backbone: Backbone | None = None,
        *,
        mode: Mode = "conditional",
        batch_size: int = 256,
        channels_last: bool = False,
    ) -> Tensor:
        """The embedding of each image, float32 (N, width of the fusion), in the set's order.

        "conditional" takes two forward passes an image: dispatcher and one expert, images batched by expert;
        "unconditional" 1 + K. `backbone` is the base (default: rebuilt), and is left as it was. An image's
        embedding does not depend on the others (but for the last bits of floating-point sums).
        """
        return self.embeddings(
            images, backbone, modes=(mode,), batch_size=batch_size, channels_last=channels_last
        )[mode]

    def embeddings(
        self,
        images: ImageSet,
        backbone: Backbone | None = None,
        *,
        modes: Collection[str],
        batch_size: int = 256,
        channels_last: bool = False,
    ) -> dict[str, Tensor]:
        """Several embeddings at the cost of the dearest one; `modes` may also name "dispatcher", its own features."""
        for mode in modes:
            if mode != DISPATCHER and mode not in self.fusions:
                have = ", ".join(self.fusions) or "none"
                raise SettingsError(f"{self.path.name}: has no {mode} fusion (it has: {have})")
        backbone = self.prepared(backbone)
        parts: dict[str, list[Tensor]] = {mode: [] for mode in modes}
        for start in range(0, max(len(images), 1), CHUNK):
            chunk = images.subset(range(start, min(start + CHUNK, len(images))))
            first, experts, assignment = self.member_features(
                chunk,
                backbone,
                everything="unconditional" in modes,
                nothing=set(modes) <= {DISPATCHER},
                batch_size=batch_size,
                channels_last=channels_last,
            )
            for mode in modes:
                if mode == DISPATCHER:
                    parts[mode].append(first)
                else:
                    fusion = self.fusions[mode]  # type: ignore[index]
                    parts[mode].append(fusion.apply(joined(first, experts, assignment, fusion.mode)))
        return {mode: torch.cat(found) for mode, found in parts.items()}

    def member_features(
        self,
        images: ImageSet,
        backbone: Backbone,
        *,
        everything: bool,
        nothing: bool = False,
        batch_size: int = 256,
        channels_last: bool = False,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Dispatcher features (N, width), K × expert features (N, width), and the experts of the images (N,).

        Unless `everything`, an expert sees its own images only and the other rows are zero; with `nothing`, no
        expert is asked at all.
        """

        def run(number: int, part: ImageSet) -> Tensor:
            with self.member(number).apply(backbone.module):
                what = f"expert {number}" if number else "dispatcher"
                return features(backbone, part, batch_size=batch_size, channels_last=channels_last, what=what)

        first = run(0, images)
        assignment = self.router.assign(first)
        experts: list[Tensor] = []
        for expert in range(0 if nothing else self.experts):
            if everything:
                experts.append(run(1 + expert, images))
                continue
            mine = (assignment == expert).nonzero().flatten()
            found = torch.zeros_like(first)
            if len(mine):
                found[mine] = run(1 + expert, images.subset(mine))
            experts.append(found)
        return first, experts, assignment

    def prepared(self, backbone: Backbone | None = None) -> Backbone:
        """The backbone with the preprocessing that the cascade was learnt with."""
        backbone = self.backbone() if backbone is None else backbone
        if backbone.width != self.router.width:
            raise SettingsError(
                f"{self.path.name}: belongs to a backbone of width {self.router.width}, this one has {backbone.width}"
            )
        described = self.dispatcher.metadata.get("preprocessing")
        if not isinstance(described, dict):
            return backbone
        return replace(backbone, preprocessing=Preprocessing.read(described))
