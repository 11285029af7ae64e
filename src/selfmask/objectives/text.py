"""CLIP's own head: cosine logits against frozen text embeddings of the class names (PAPER §5, §6).

There is no head to train, so the masks get a meaningful gradient from the first step. Images without a label
take the class that the untouched backbone would give them by its text head; with class names alone, the masks
are thus adapted to the images without anybody's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone, TextTower
from selfmask.errors import BackboneError, DataError, SettingsError
from selfmask.features.features import features
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.views import Augment, light
from selfmask.maskfile.head import cosine_logits
from selfmask.objectives.base import FROM_LABELS, Batch, Figures, Job, Objective, PaperConstants, least_crop


@dataclass(frozen=True)
class TextSettings:
    """Settings of `Text`."""

    prompts: tuple[str, ...] = ("a photo of a {}.",)
    """Templates with one {} for the class name; their embeddings are averaged."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    crop: float | None = None
    """Least share of an image's area in a training view, in (0, 1]. Default: 0.35, or 0.7 for what must not be
    mirrored."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise SettingsError("prompts: at least one template is needed, e.g. 'a photo of a {}.'")
        for prompt in self.prompts:
            if prompt.count("{}") != 1 or set(prompt.replace("{}", "")) & {"{", "}"}:
                raise SettingsError(
                    f"the prompt {prompt!r} needs exactly one {{}} where the class name goes, and no other brace"
                )
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"label_smoothing is a share in [0, 1), got {self.label_smoothing}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise SettingsError(f"crop is a share of the area in (0, 1], got {self.crop}")


def spoken(name: str) -> str:
    """A class name as a person would write it in a sentence: `oxford_rose` is "oxford rose"."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def class_embeddings(text: TextTower, classes: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """L2-normalised embeddings of class names, float32 (classes, width): the mean over `prompts`."""
    texts = [prompt.format(spoken(name)) for name in classes for prompt in prompts]
    rows = text.embed(texts).unflatten(0, (len(classes), len(prompts))).mean(dim=1)
    return F.normalize(rows, dim=-1)


def _reader(backbone: Backbone) -> TextTower:
    if backbone.text is None:
        raise BackboneError(
            f"objective text needs a backbone that reads, e.g. --backbone clip_vit_b_32, not {backbone.spec}"
        )
    return backbone.text


class Text(Objective):
    """Cross-entropy of CLIP's cosine logits on one lightly augmented view.

    `classes` are the class names, `images` is the length of the training set. `make` and `prepare` raise
    `BackboneError` where the backbone has no text tower (build it as `openclip:ARCHITECTURE:TAG`).
    """

    Settings: ClassVar[type] = TextSettings
    recipe = FROM_LABELS
    labels = "names"

    def __init__(
        self,
        width: int,
        classes: Sequence[str],
        size: int,
        settings: TextSettings | None = None,
        *,
        images: int,
        flips: bool = True,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise DataError(f"a text head needs the names of at least two classes, got {list(classes)}")
        self.settings = TextSettings() if settings is None else settings
        self.classes = tuple(classes)
        view = light(size, flips=flips, least=self.settings.crop or least_crop(flips))
        self.views = (Augment(**{**vars(view), "interpolation": interpolation}),)
        self.register_buffer("embeddings", torch.zeros(len(classes), width))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("targets", torch.full((images,), UNLABELLED))
        self.embeddings: Tensor
        self.scale: Tensor
        self.targets: Tensor

    @classmethod
    def make(cls, job: Job, settings: TextSettings) -> Self:
        _reader(job.backbone)
        return cls(
            job.backbone.width, job.images.classes, job.size, settings, images=len(job.images),
            flips=job.images.flips, interpolation=job.backbone.preprocessing.interpolation,
        )  # fmt: skip

    @classmethod
    def paper(cls, family: str) -> PaperConstants:
        if family in ("vit", "dinov2", "clip"):
            return PaperConstants(lr=10.0, epochs=32.0, settings={"crop": 0.08})
        return PaperConstants(warmup=40 / 150, settings={"crop": 0.08})

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        text = _reader(backbone)
        if backbone.width != self.embeddings.shape[1] or len(images) != self.targets.numel():
            raise DataError(
                f"the objective was made for width {self.embeddings.shape[1]} and {self.targets.numel()} images, "
                f"the backbone has {backbone.width} and the set {len(images)}"
            )
        self.embeddings.copy_(class_embeddings(text, self.classes, self.settings.prompts))
        self.scale.fill_(text.logit_scale)
        self.targets.copy_(images.labels)
        guessed = self.targets == UNLABELLED
        lines = [
            f"text head: {len(self.classes)} classes, prompts {', '.join(map(repr, self.settings.prompts))}"
        ]
        if bool(guessed.any()):
            x = features(backbone, images.subset(guessed.nonzero().flatten().tolist()), what="zero-shot")
            zero_shot = cosine_logits(x, self.embeddings.cpu(), float(self.scale)).argmax(dim=1)
            self.targets[guessed] = zero_shot.to(self.targets.device)
            lines.append(
                f"{int(guessed.sum())} of {len(images)} images take their class from the text head itself"
            )
        return lines

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        targets = self.targets[batch.indices]
        x = module(batch.views[0]).float()
        with torch.autocast(x.device.type, enabled=False):  # bf16 could not tell two classes near 95 apart
            logits = cosine_logits(x, self.embeddings, self.scale)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
        return loss, {"accuracy": float((logits.detach().argmax(dim=1) == targets).float().mean())}

    def head(self) -> dict[str, Tensor]:
        return {"text": self.embeddings.clone(), "logit_scale": self.scale.clone()}
