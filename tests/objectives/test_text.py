"""The text head: open_clip's own zero-shot computation, frozen embeddings, and classes that nobody labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError, DataError, SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.head import cosine_logits
from selfmask.objectives.base import Batch
from selfmask.objectives.text import Text, TextSettings, class_embeddings, spoken

CLASSES = ("cat", "oxford_rose", "T-shirt")


class Reader:
    """A text tower whose embeddings are known: class k's prompts point along axis k."""

    logit_scale = 20.0

    def embed(self, texts: list[str]) -> Tensor:
        axes = ["cat", "oxford rose", "T shirt"]
        rows = torch.zeros(len(texts), 4)
        for i, text in enumerate(texts):
            rows[i, next(k for k, name in enumerate(axes) if name in text)] = 1.0
            rows[i, 3] = len(text) / 100  # tells prompts apart
        return F.normalize(rows, dim=-1)


class See(nn.Module):
    """Features (red, green, blue, 0): the mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x.mean((2, 3)) * self.weight, (0, 1))


@pytest.fixture
def backbone() -> Backbone:
    recipe = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 8, "bilinear", 1.0)
    return Backbone(See(), None, "generic", 4, recipe, text=Reader())


def pure_colours(labels: list[int]) -> ImageSet:
    """Images all red, all green, all blue, in turn, of which `labels` are known."""
    images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    for i in range(len(labels)):
        images[i, i % 3] = 255
    return ImageSet.from_array(images, labels, classes=CLASSES)


def test_zero_shot_logits_are_open_clip_s_own(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "tiny-text-clip.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-text-clip.json")
    clip: Any = open_clip.model.CLIP(**tiny).eval()
    torch.save(clip.state_dict(), tmp_path / "w.pth")
    built = build("openclip:tiny-text-clip", weights=tmp_path / "w.pth")
    assert built.text is not None
    images = torch.randn(5, 3, 64, 64)
    tokens = open_clip.get_tokenizer("tiny-text-clip")([f"a photo of a {spoken(name)}." for name in CLASSES])
    with torch.no_grad():
        expected, _ = clip.get_logits(images, tokens)
        ours = cosine_logits(
            built.module(images),
            class_embeddings(built.text, CLASSES, TextSettings().prompts),
            built.text.logit_scale,
        )
    assert float((ours - expected).abs().max()) < 1e-5


def test_class_names_are_spoken_and_prompts_averaged() -> None:
    assert [spoken(name) for name in CLASSES] == ["cat", "oxford rose", "T shirt"]
    reader = Reader()
    prompts = ("a photo of a {}.", "{}")
    rows = class_embeddings(reader, CLASSES, prompts)
    for k, name in enumerate(CLASSES):
        mean = reader.embed([prompt.format(spoken(name)) for prompt in prompts]).mean(dim=0)
        torch.testing.assert_close(rows[k], mean / mean.norm())


def made(images: ImageSet, settings: TextSettings | None = None) -> Text:
    return Text(4, CLASSES, 8, settings, images=len(images))


def test_known_labels_stay_and_the_others_are_read_off(backbone: Backbone) -> None:
    images = pure_colours([-1, 2, -1, 0, -1])  # image 1 is green but somebody called it class 2
    objective = made(images)
    lines = objective.prepare(backbone, images)
    assert objective.targets.tolist() == [0, 2, 2, 0, 1]
    assert lines[-1] == "3 of 5 images take their class from the text head itself"


def test_the_loss_is_cross_entropy_of_cosine_logits_and_reaches_the_backbone(backbone: Backbone) -> None:
    images = pure_colours([0, 1, 2, 0])
    objective = made(images, TextSettings(label_smoothing=0.1))
    assert len(objective.prepare(backbone, images)) == 1
    view = torch.rand(2, 3, 8, 8)
    indices = torch.tensor([3, 1])
    loss, figures = objective.loss(backbone.module, Batch([view], images.labels[indices], indices), 0, 10)
    x = backbone.module(view)
    expected = F.cross_entropy(
        20 * F.cosine_similarity(x[:, None], objective.embeddings[None], dim=-1),
        torch.tensor([0, 1]),
        label_smoothing=0.1,
    )
    torch.testing.assert_close(loss, expected)
    assert 0 <= figures["accuracy"] <= 1
    loss.backward()
    assert all(p.grad is not None for p in backbone.module.parameters())
    assert not list(objective.parameters())  # the head is frozen


def test_its_state_is_all_that_a_resume_needs(backbone: Backbone) -> None:
    images = pure_colours([-1, -1, -1])
    first, second = made(images), made(images)
    first.prepare(backbone, images)
    second.load_state_dict(first.state_dict())
    batch = Batch([torch.rand(3, 3, 8, 8)], images.labels, torch.arange(3))
    one, other = (o.loss(backbone.module, batch, 0, 1)[0] for o in (first, second))
    assert torch.equal(one, other)
    head = first.head()
    assert torch.equal(head["text"], first.embeddings)
    assert float(head["logit_scale"]) == 20.0


def test_what_it_refuses(backbone: Backbone) -> None:
    images = pure_colours([0, 1])
    backbone.text = None
    with pytest.raises(BackboneError, match=r"a backbone that reads, e\.g\. --backbone clip_vit_b_32"):
        made(images).prepare(backbone, images)
    backbone.text = Reader()
    with pytest.raises(DataError, match="made for width 4 and 5 images"):
        Text(4, CLASSES, 8, images=5).prepare(backbone, images)
    with pytest.raises(DataError, match="at least two classes"):
        Text(4, ["cat"], 8, images=2)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompts": ()}, {"prompts": ("no place",)}, {"prompts": ("{} {}",)}, {"prompts": ("a {} of {x}",)},
        {"label_smoothing": 1.0}, {"crop": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        TextSettings(**bad)
