"""CLIP: the tower that sees as a backbone, the one that reads beside it, in a tiny network of open_clip's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfmask.backbones.from_openclip import resampled
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError

open_clip = pytest.importorskip("open_clip")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    config = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    yield
    open_clip.factory._MODEL_CONFIGS.pop("tiny-clip")


def make() -> Any:
    torch.manual_seed(1)
    clip = open_clip.model.CLIP(**TINY).eval()
    with torch.no_grad():
        clip.visual.positional_embedding.normal_()
    return clip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = {key: one.contiguous() for key, one in make().state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


def test_features_are_open_clip_s_image_embeddings(file: Path) -> None:
    clip, backbone = make(), build("openclip:tiny-clip", weights=file)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.module(x), clip.encode_image(x))
    assert (backbone.width, backbone.family, backbone.spec) == (16, "clip", "openclip:tiny-clip")
    assert backbone.preprocessing.size == 64
    assert backbone.preprocessing.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert {n for n, _ in backbone.module.named_parameters()} == {
        n for n, _ in clip.named_parameters() if n.startswith("visual.")
    }


def test_text_embeddings_are_open_clip_s(file: Path) -> None:
    clip, backbone = make(), build("openclip:tiny-clip", weights=file)
    assert backbone.text is not None
    texts = [f"a photo of {i} cats" for i in range(70)]  # more than are embedded at once
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer("tiny-clip")(texts), normalize=True)
    torch.testing.assert_close(backbone.text.embed(texts), expected, rtol=1e-5, atol=1e-6)
    assert backbone.text.logit_scale == pytest.approx(clip.logit_scale.exp().item())


def test_other_sizes_resample_the_position_embedding_and_leave_it(file: Path) -> None:
    backbone = build("openclip:tiny-clip", weights=file, image_size=96)
    assert backbone.preprocessing.size == 96
    before = backbone.module.state_dict()["visual.positional_embedding"].clone()
    larger = open_clip.create_model("tiny-clip", pretrained=str(file), force_image_size=96).eval()
    x = torch.randn(2, 3, 96, 96)
    out = backbone.module(x)
    torch.testing.assert_close(out, larger.encode_image(x), rtol=1e-4, atol=1e-5)
    out.sum().backward()
    parameter = dict(backbone.module.named_parameters())["visual.positional_embedding"]
    assert parameter.grad is not None
    assert torch.equal(parameter, before)


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(1 + 25, 8)
    torch.testing.assert_close(resampled(table, 5, 5), table)
    assert resampled(table, 3, 7).shape == (1 + 21, 8)


def test_gradients_reach_the_tower_at_its_own_size(file: Path) -> None:
    backbone = build("openclip:tiny-clip", weights=file)
    backbone.module(torch.randn(1, 3, 64, 64)).sum().backward()
    weight = dict(backbone.module.named_parameters())["visual.transformer.resblocks.0.attn.in_proj_weight"]
    assert weight.grad is not None
    assert bool(weight.grad.any())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openclip:ViT-B-33", "open_clip has no network 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("openclip:ViT-B-32:openia", "no weights 'openia' for ViT-B-32; did you mean 'openai'"),
        ("openclip:tiny-clip", r"needs a tag.*or a file: --weights FILE"),
    ],
)
def test_names_that_are_nearly_right(spec: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        build(spec)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    state: dict[str, Tensor] = nn.Linear(2, 2).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        BackboneError, match=r"do not fit openclip:tiny-clip: positional_embedding is not among them"
    ):
        build("openclip:tiny-clip", weights=tmp_path / "w.safetensors")


def test_what_a_tag_says_of_its_weights_holds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip applies QuickGELU to no architecture that says nothing of it: it only warns."""
    tags = {"theirs": {"quick_gelu": True}, "own": {}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(tags))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags[tag])
    kinds = {}
    for tag in tags:
        module = build(f"openclip:tiny-clip:{tag}", weights=file).module
        kinds[tag] = {type(one).__name__ for one in module.modules() if "GELU" in type(one).__name__}
    assert kinds == {"theirs": {"QuickGELU"}, "own": {"GELU"}}
