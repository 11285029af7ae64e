"""What a user can say about a cascade: everything about an adaptation, and the few things that only cascades have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from selfmask.cascades.fusion import MODES, Mode
from selfmask.cascades.router import Kind
from selfmask.errors import SettingsError
from selfmask.run.settings import HEADINGS as ADAPT_HEADINGS
from selfmask.run.settings import AdaptSettings


@dataclass(frozen=True)
class CascadeSettings(AdaptSettings):
    """Learn a dispatcher, a router and experts on your images, in one file."""

    objective: str = "distil"
    """How to learn the dispatcher and the experts. Cascades are meant for images without labels; labels, where
    there are some, then serve to measure."""
    out: Path | None = None
    """Folder for everything that it writes. Default: runs/NAME-OF-THE-DATA-cascade."""
    experts: int = 5
    """How many experts. Clusters too small for one are merged, so there may be fewer."""
    router: Kind = "gmm"
    """How images are told apart: gmm (a mixture of Gaussians) or kmeans."""
    expert_steps: int | None = None
    """Optimizer steps for each expert. Default: as many as for the dispatcher."""
    expert_lr: float | None = None
    """Peak learning rate of the experts' scores. Default: the dispatcher's."""
    width: int | None = None
    """Width of the embedding. Default: the backbone's. Its projection is the largest part of the file by far
    (a float32 for each of its (1 + experts) × backbone width × width entries), so a narrow one saves most."""
    keep: Literal["both", "conditional", "unconditional"] = "both"
    """Which embeddings the file can make. Both are measured either way."""
    pictures: bool = True
    """Draw the clusters' make-up and maps of the embeddings."""

    FREE: ClassVar[tuple[str, ...]] = (
        *AdaptSettings.FREE, "keep", "width", "expert_lr", "expert_steps",
    )  # fmt: skip
    """What a resumed cascade may change. The experts' rate and steps: an expert may have been stopped because it did
    harm. Finished experts stay as they are, and the result says how each was trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts < 1:
            raise SettingsError(f"--experts must be at least 1, got {self.experts}")
        for name in ("expert_steps", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.expert_lr is not None and not (self.expert_lr > 0 and math.isfinite(self.expert_lr)):
            raise SettingsError(f"--expert-lr must be positive, got {self.expert_lr}")
        if self.held_out:
            raise SettingsError("--held-out is a check of `selfmask adapt`; a cascade has none")
        if self.search_lr:
            raise SettingsError("--search-lr is a search of `selfmask adapt`; for a cascade give --lr")
        for name in ("finetune", "norms_alone"):
            if getattr(self, name):
                raise SettingsError(
                    f"--{name.replace('_', '-')} is a row of `selfmask adapt`; a cascade has none"
                )
        if self.max_bytes is not None:
            raise SettingsError(
                "--max-bytes is the size of one mask; a cascade's file is mostly its projection: give a --width"
            )

    def share_held_out(self) -> float:
        """None: the dispatcher and the experts are parts, and it is the cascade that is judged."""
        return 0.0

    def folder(self) -> Path:
        """Where the cascade is written."""
        if self.out is not None:
            return self.out
        return super().folder().with_name(super().folder().name + "-cascade")

    def modes(self) -> tuple[Mode, ...]:
        """The fusions that the file keeps."""
        return MODES if self.keep == "both" else (self.keep,)


HEADINGS: dict[str, tuple[str, ...]] = {
    "": (
        "data", "out", "backbone", "weights", "experts", "size", "epochs", "labels", "evaluate", "resume",
    ),
    "Cascade": ("router", "expert_steps", "expert_lr", "width", "keep"),
    **{heading: names for heading, names in ADAPT_HEADINGS.items() if heading},
}  # fmt: skip
"""The flags under their headings; see `run.settings.HEADINGS`."""
