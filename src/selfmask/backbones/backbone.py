"""A pretrained network with the four things that one must know of it: width, family, recipe, origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import BackboneError

_TRANSFORMERS = ("vit", "dinov2", "clip", "swin")


class TextTower(Protocol):
    """The half of a CLIP that reads: `objectives.text` makes its frozen head with it."""

    logit_scale: float

    def embed(self, texts: list[str]) -> Tensor:
        """L2-normalised embeddings, float32 (len(texts), width), in the space of the backbone's features."""
        ...


@dataclass
class Backbone:
    """A network that turns images into features of a fixed width.

    `module(x)` maps normalised images, float32 (B, 3, H, W), to pooled features, float32 (B, `width`), before any
    classifier. Its parameters carry the names of the library or of the authors that it comes from, so that a
    mask (which records them) fits the same network however it was loaded.

    `spec` is the string that `build` made it from (None for a user's own module), `weights` the file name of the
    weights if they were given as a file, `pretrained` False for a random start, `image_size` the size that was
    asked for (None: the network's own).

    >>> backbone = selfmask.build("package:efficientnet_lite0")
    >>> pixels = selfmask.open_data("photos/").train.resized(64)  # uint8 (N, 3, 64, 64)
    >>> backbone.module(backbone.preprocessing.normalise(pixels[:2])).shape
    torch.Size([2, 1280])
    """

    module: nn.Module
    spec: str | None
    family: str
    width: int
    preprocessing: Preprocessing
    weights: str | None = None
    image_size: int | None = None
    pretrained: bool = True
    text: TextTower | None = field(default=None, repr=False)

    @property
    def is_transformer(self) -> bool:
        """Whether it cuts images into patches, so that it has to know its size when it is built."""
        return self.family in _TRANSFORMERS

    @property
    def prefers_channels_last(self) -> bool:
        """Convolutional networks run faster so, most of all those with depthwise convolutions."""
        return not self.is_transformer

    def lay_out(self) -> None:
        """Have the weights lie as it prefers."""
        if self.prefers_channels_last:
            self.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def multiple(self) -> int:
        """Pixels that a side is best divisible by: a transformer's patch, else 16."""
        reading = (m for m in self.module.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
        first = next(reading, None)
        if not self.is_transformer or first is None or first.kernel_size != first.stride:
            return 16
        return max(first.kernel_size)

    def takes(self, size: int) -> bool:
        """Whether it runs on images of `size` × `size` pixels."""
        try:
            measured_width(self.module, size)
        except BackboneError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """As JSON, from which `rebuild` makes the same backbone; no path of this machine is in it."""
        return {
            "spec": None if self.spec is None else _without_folders(self.spec),
            "weights": self.weights,
            "pretrained": self.pretrained,
            "image_size": self.image_size,
            "family": self.family,
            "width": self.width,
            "preprocessing": self.preprocessing.describe(),
        }


def _without_folders(spec: str) -> str:
    """`spec`, or where it names a folder here, that by its last part: a mask file may be published."""
    kind, _, name = spec.partition(":")
    folder, colon, entry = name.rpartition(":") if kind == "torchhub" else (name, "", "")
    if kind not in ("hf", "torchhub") or not Path(folder).is_dir():
        return spec
    return f"{kind}:./{Path(folder).resolve().name}{colon}{entry}"


def measured_width(module: nn.Module, size: int) -> int:
    """The width of the features, by a run on one grey image of `size` pixels that leaves the module as it was.

    Raises `BackboneError` where the module cannot run on it, gives anything but (1, width), or other features each time
    that it sees the same image.
    """
    modes = {part: part.training for part in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module.eval()
    try:
        with torch.no_grad():
            features, again = (module(torch.zeros(1, 3, size, size, device=device)) for _ in range(2))
    except Exception as error:
        other = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
        raise BackboneError(
            f"a trial run on one image of {size} × {size} pixels failed: {error}; "
            + (
                "images come in float32: give the network so (module.float()), and train it in mixed precision if you "
                "like (precision='bf16')"
                if other
                else "say the size that the network takes (image_size, or size in preprocessing)"
            )
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise BackboneError(f"the module must give features of shape (B, width); for one image it gave {got}")
    if not features.is_meta and not torch.allclose(features, again, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise BackboneError(
            "the module gives other features each time that it sees one image, in evaluation mode too: take off what "
            "draws at random in it"
        )
    return features.shape[1]


def weights_name(weights: str | Path | None) -> str | None:
    """What a description keeps of a path: its last part, because a mask file may be published."""
    return None if weights is None else Path(weights).name
