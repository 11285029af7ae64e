"""Every script of examples/ runs, on small networks and scikit-learn's digits, and does what it says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import selfmask

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script's module by its name; what it writes goes to a folder of the test's own."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def flipped(path: Path | str) -> int:
    return sum(int((~mask).sum()) for mask in selfmask.load(path).masks().values())


def test_each_is_short_and_has_a_test() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 6
    tested = Path(__file__).read_text(encoding="utf-8")
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, script.name
        assert f'example("{script.stem}")' in tested


def test_own_loop(example: Any, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, create = example("own_loop"), timm.create_model

    def pretrained(*words: Any, **settings: Any) -> torch.nn.Module:
        """Its running statistics are frozen, so they have to have seen something."""
        model = create(*words, **settings)
        model.load_state_dict(load_file(weights), strict=False)
        return model

    monkeypatch.setattr(script.timm, "create_model", pretrained)
    before, after = script.main("test_resnet", False, 80)
    assert before < after
    assert flipped("digits.mask.safetensors") > 1000


@pytest.mark.filterwarnings("ignore")  # theirs, of which a new one comes with each release
def test_with_lightning(example: Any) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    adapter = example("with_lightning").main("test_resnet", False, max_epochs=2, **quiet)
    assert adapter.masks.steps == 32
    assert flipped("digits.mask.safetensors") > 0


@pytest.mark.filterwarnings("ignore")
def test_with_trainer(example: Any) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    shape: Any = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    config = ViTConfig(**shape, image_size=16, patch_size=4)
    config.num_labels = 10
    figures = example("with_trainer").main(ViTForImageClassification(config), size=16, steps=80)
    assert figures["eval_accuracy"] > 0.14  # chance is 0.1
    assert flipped("digits.mask.safetensors") > 0


def test_segmentation(example: Any) -> None:
    losses = example("segmentation").main(False, 22)
    assert losses[-1] < 0.8 * losses[0]
    assert flipped("scenes.mask.safetensors") > 0
    assert all(name.startswith("backbone.") for name in selfmask.load("scenes.mask.safetensors").names)


def test_bank_of_ten(example: Any, tmp_path: Path, weights: Path) -> None:
    backbone = selfmask.build("timm:test_resnet", weights=weights)
    right = example("bank_of_ten").main(backbone, 18)
    assert right > 0.55
    files = list((tmp_path / "masks").iterdir())
    assert len(files) == 10
    assert all(flipped(file) > 0 for file in files)
    theta = load_file(weights)
    assert all(torch.equal(t, theta[name]) for name, t in backbone.module.state_dict().items())


def test_no_labels(example: Any, tmp_path: Path, weights: Path) -> None:
    shares = example("no_labels").main(
        backbone="timm:test_resnet", weights=weights, steps=20, size=16, count=40
    )
    assert set(shares) == {"before", "after"}
    pages = [(tmp_path / "no-labels" / f"{name}.html").read_text(encoding="utf-8") for name in shares]
    assert pages[0] != pages[1]
    assert all(page.count("<img") > 40 for page in pages)
