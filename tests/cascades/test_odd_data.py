"""Cascades on data that supports little: what is refused before any training, what is merged, what is only said."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from PIL import Image
from rich.console import Console

from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.learning import learn_cascade
from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import DataError
from selfmask.images.opening import open_data
from selfmask.objectives.base import Job
from selfmask.objectives.registry import OBJECTIVES
from selfmask.objectives.supervised import Supervised

RED, GREEN = (0, 1)


def noise(folder: Path, count: int, colour: int) -> None:
    """`count` pictures of noise, brightest in one colour."""
    generator = torch.Generator().manual_seed(colour)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = torch.randint(0, 100, (3, 16, 16), generator=generator, dtype=torch.uint8)
        pixels[colour] += 150
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{colour}-{index}.png")


def small(data: Path, **changed: object) -> CascadeSettings:
    """Two steps for each member, of 32 pixels."""
    values: dict[str, object] = {
        "data": str(data), "out": data.with_name("out"), "size": 32, "steps": 2, "batch": 16, "experts": 2,
        "width": 8, "pictures": False, "threads": 1,
    }  # fmt: skip
    return CascadeSettings(**(values | changed))  # type: ignore[arg-type]


def said() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=400), text


def test_more_experts_than_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    noise(tmp_path / "data", 40, RED)
    with pytest.raises(DataError, match=r"3 experts need at least 48 images .* there are 40: take at most 2"):
        learn_cascade(small(tmp_path / "data", experts=3))
    assert not (tmp_path / "out").exists()
    few = tmp_path / "few"
    noise(few, 5, RED)
    with pytest.raises(
        DataError, match=r"1 expert needs at least 16 images .* there are 5: .* selfmask adapt"
    ):
        learn_cascade(small(few, experts=1))


@pytest.mark.slow
def test_one_expert_on_images_without_labels(tmp_path: Path) -> None:
    noise(tmp_path / "data", 20, RED)
    noise(tmp_path / "data", 20, GREEN)
    console, text = said()
    run = learn_cascade(small(tmp_path / "data", experts=1), console=console)
    assert "nothing was measured: that needs labelled images of two classes" in text.getvalue()
    assert run.rows is None
    assert run.experts == 1
    assert [(c.images, c.labelled, c.covered) for c in run.clusters] == [(40, 0, ())]
    assert run.result is not None
    assert run.result.cascade is not None
    assert [trained["steps"] for trained in run.result.cascade.expert_training] == [2]
    assert run.result.command[:2] == ("selfmask", "cascade")
    cascade = load_cascade(run.file)
    x = cascade.embed(open_data(tmp_path / "data").train, mode="unconditional")
    assert x.shape == (40, 8)


@pytest.mark.slow
def test_a_supervised_expert_on_images_of_one_class_is_the_dispatcher(tmp_path: Path) -> None:
    for name, colour in (("red", (200, 20, 20)), ("green", (20, 200, 20))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(30):
            Image.new("RGB", (16, 16), colour).save(tmp_path / "data" / name / f"{index}.png")
    console, text = said()
    settings = small(tmp_path / "data", objective="supervised", lr=0.01, evaluate=False)
    run = learn_cascade(settings, console=console)
    # There are two pictures, and each is a cluster.
    assert [len(cluster.classes) for cluster in run.clusters] == [1, 1]
    assert text.getvalue().count("images of one class, so it is the dispatcher itself") == 2
    cascade = load_cascade(run.file)
    assert run.result is not None
    assert run.result.cascade is not None
    assert [(one["images"], one["steps"]) for one in run.result.cascade.expert_training] == [(24, 0), (24, 0)]
    for number in (1, 2):
        assert not (tmp_path / "out" / f"expert-{number}" / "log.jsonl").exists()
        own = cascade.member(number).masks()
        assert all(torch.equal(own[name], mask) for name, mask in cascade.member(0).masks().items())


@pytest.mark.slow
def test_experts_with_a_text_head_take_the_targets_of_their_own_images(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "tiny-cascade-clip.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-cascade-clip.json")
    torch.save(open_clip.model.CLIP(**tiny).state_dict(), tmp_path / "clip.pth")
    noise(tmp_path / "data" / "red", 30, RED)
    noise(tmp_path / "data" / "green", 30, GREEN)
    settings = small(
        tmp_path / "data", backbone="openclip:tiny-cascade-clip", weights=tmp_path / "clip.pth",
        objective="text", evaluate=False,
    )  # fmt: skip
    run = learn_cascade(settings, console=said()[0])
    assert run.result is not None
    assert run.result.cascade is not None
    assert [trained["steps"] for trained in run.result.cascade.expert_training] == [2] * run.experts


@pytest.mark.slow
def test_copies_of_one_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for index in range(40):
        Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / "data" / f"{index}.png")
    with pytest.raises(DataError, match="the 40 images all have the same features"):
        learn_cascade(small(tmp_path / "data"))


@pytest.mark.slow
def test_an_objective_of_ones_own_with_a_row_for_each_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rows(Supervised):
        """`Supervised`, and something that it keeps of each image."""

        @classmethod
        def make(cls, job: Job, settings: Any) -> Self:
            made = super().make(job, settings)
            made.register_buffer("rows", torch.zeros(len(job.images)))
            return made

    monkeypatch.setitem(OBJECTIVES, "rows", Rows)
    for part, colours in (("cat", (RED, GREEN)), ("dog", (RED, GREEN))):
        for colour in colours:
            noise(tmp_path / "data" / part, 20, colour)
    asked = small(tmp_path / "data", objective="rows", evaluate=False, router="kmeans", test_share=0.1)
    run = learn_cascade(asked, console=said()[0])
    assert load_cascade(run.file).experts == run.experts


@pytest.mark.slow
def test_what_was_asked_of_swav_suits_an_expert_of_few_images(tmp_path: Path) -> None:
    """Its batch is smaller, and a queue is of whole batches; its prototypes start from clusters of its images."""
    noise(tmp_path / "data", 40, RED)
    noise(tmp_path / "data", 30, GREEN)
    asked = small(
        tmp_path / "data", objective="swav", objective_settings={"queue": 78, "prototypes": 35}, batch=39,
        evaluate=False,
    )  # fmt: skip
    run = learn_cascade(asked, console=said()[0])
    assert run.result is not None
    assert run.result.cascade is not None
    sizes = [cluster.images for cluster in run.clusters]
    assert len(sizes) == 2
    assert min(sizes) < 39
    assert [expert["batch"] for expert in run.result.cascade.expert_training] == [
        min(39, size) for size in sizes
    ]


def test_experts_have_the_prototypes_that_were_asked_for_where_they_start_anywhere(tmp_path: Path) -> None:
    """As the paper's 500 do: more than a small cluster has images."""
    noise(tmp_path / "data", 40, RED)
    noise(tmp_path / "data", 30, GREEN)
    own = {"start": "random", "prototypes": 60, "queue": 0}
    console, words = said()
    learn_cascade(
        small(tmp_path / "data", objective="swav", objective_settings=own, evaluate=False), console=console
    )
    assert words.getvalue().count("prototypes: 60 (asked for)") == 3  # the dispatcher's and both experts'
