"""What a plan works out beside the settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from selfmask.errors import BackboneError, SettingsError
from selfmask.objectives.swav import PAPER, SwavSettings
from selfmask.run.build import build_objective
from selfmask.run.plan import make_plan
from selfmask.run.settings import AdaptSettings


@pytest.mark.parametrize("size", [None, 32])
def test_native_is_the_pretraining_size_whatever_the_views(size: int | None) -> None:
    plan = make_plan(AdaptSettings("digits", objective="distil", size=size, steps=2))
    assert plan.native == 224
    assert plan.size == (size or 48)
    assert plan.backbone.preprocessing.size == plan.size


def test_a_transformer_is_built_for_the_views_size(tmp_path: Path) -> None:
    """Its position embeddings belong to one size, and the file says which; a convolutional network takes any."""
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    plan = make_plan(
        AdaptSettings("digits", backbone="timm:test_vit", weights=weights, objective="swav", size=64, steps=2)
    )
    assert plan.native == 160
    assert plan.backbone.image_size == 64
    assert make_plan(AdaptSettings("digits", objective="swav", size=64, steps=2)).backbone.image_size is None
    assert plan.backbone.module(torch.randn(1, 3, 64, 64)).shape == (1, plan.backbone.width)


def test_settings_of_the_objective_reach_it() -> None:
    plan = make_plan(
        AdaptSettings(
            "digits", objective="distil", objective_settings={"target_size": 80, "crop": 0.5}, steps=2
        )
    )
    settings = build_objective(plan).settings
    assert (settings.target_size, settings.crop) == (80, 0.5)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_size_that_the_network_does_not_take_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_plan(
        AdaptSettings("digits", objective="distil", objective_settings={"target_size": 80}, steps=2)
    )
    taken = plan.backbone.module.forward

    def fixed(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == plan.size, "another size"
        return taken(x)

    monkeypatch.setattr(plan.backbone.module, "forward", fixed)
    with pytest.raises(
        SettingsError, match=r"target_size 80: package:efficientnet_lite0 does not take images"
    ):
        build_objective(plan)
    swav = replace(plan, objective="swav", objective_settings=SwavSettings(small=24, count=(2, 2)))
    with pytest.raises(
        SettingsError, match=r"swav: .* does not take crops of 24 × 24 pixels: .*--swav\.count 2 0"
    ):
        build_objective(swav)


@pytest.mark.parametrize(
    ("objective", "given", "message"),
    [
        (
            "supervised",
            {"target_size": 80},
            "supervised has no setting 'target_size'; it has label_smoothing",
        ),
        ("distil", {"target_sise": 80}, "did you mean 'target_size'"),
        ("distil", {"target_size": 0}, "target_size is a number of pixels, got 0"),
        ("swav", {"prototypes": "many"}, r"Expected `int \| null`, got `str` - at `\$.prototypes`"),
        ("swaw", {}, "there is no objective 'swaw'; did you mean 'swav'"),
        ("auto", {"crop": 0.5}, "belong to one objective: name it too"),
    ],
)
def test_settings_of_no_objective_are_refused(objective: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AdaptSettings("digits", objective=objective, objective_settings=given)


def test_the_papers_settings_hold_where_nothing_else_is_given() -> None:
    paper = AdaptSettings("digits", objective="supervised", preset="paper", size=48, steps=2)
    plan = make_plan(paper)
    assert (plan.objective_settings.head_start, plan.objective_settings.crop) == ("random", 0.08)
    assert (plan.fit.method, plan.fit.rate, plan.norm_stats) == ("sgd", 50.0, "adapt")
    mine = make_plan(replace(paper, objective_settings={"crop": 0.5}))
    assert (mine.objective_settings.head_start, mine.objective_settings.crop) == ("random", 0.5)
    swav = make_plan(replace(paper, objective="swav", objective_settings={}, size=None))
    assert (swav.objective_settings, swav.size) == (PAPER, 224)
    smaller = make_plan(replace(paper, objective="swav", objective_settings={}))
    assert smaller.objective_settings == replace(PAPER, large=None, small=None)
    assert [view.size for view in build_objective(smaller).views] == [48, 48, *[16] * 6]


def test_recorded_settings_are_read_back() -> None:
    settings = AdaptSettings(
        "photos",
        weights=Path("a/b.pth"),
        objective="swav",
        objective_settings={"count": [2, 0]},
        lr=0.5,
        seed=3,
    )
    recorded = json.loads(json.dumps(settings.recorded()))
    assert AdaptSettings.read(recorded) == settings
    with pytest.raises(SettingsError, match=r"Expected `int`, got `str` - at `\$.seed`"):
        AdaptSettings.read({**recorded, "seed": "one"})


@pytest.mark.parametrize("objective", ["supervised", "distil", "contrast", "swav"])
@pytest.mark.parametrize("mirror", [True, False])
def test_mirror_images_are_left_out_on_request(tmp_path: Path, objective: str, mirror: bool) -> None:
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for k in range(20):
            pixels = np.random.default_rng([ord(label), k]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{k}.png")
    settings = AdaptSettings(
        str(tmp_path / "photos"), objective=objective, size=32, batch=8, steps=2, mirror=mirror, held_out=0.0
    )
    views = build_objective(make_plan(settings)).views
    assert {view.flip for view in views} == {0.5 if mirror else 0.0}
    digits = build_objective(make_plan(replace(settings, data="digits"))).views
    assert {view.flip for view in digits} == {0.0}


@pytest.mark.parametrize(
    ("objective", "given"),
    [("swav", {"start": "random"}), ("swav", {}), ("supervised", {"head_start": "random"})],
)
def test_what_an_objective_draws_is_the_seeds(objective: str, given: dict[str, object]) -> None:
    """Whatever was drawn before; and the caller's generator is left as it was."""

    def made(seed: int, before: int) -> list[torch.Tensor]:
        torch.manual_seed(before)
        asked = AdaptSettings(
            "digits", objective=objective, objective_settings=given, images=120, size=32, steps=2, seed=seed
        )
        plan = make_plan(asked)
        state = torch.get_rng_state()
        built = build_objective(plan)
        assert torch.equal(torch.get_rng_state(), state)
        built.prepare(plan.backbone, plan.train)
        return list(built.parameters())

    same, again, other = made(1, 5), made(1, 6), made(2, 5)
    assert all(torch.equal(one, two) for one, two in zip(same, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(same, other, strict=True))


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**32}, {"data": "photos\udcff"}, {"out": Path("\udcff")}]
)
def test_what_no_record_can_hold_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"--seed is a whole number|is not UTF-8.*rename it"):
        AdaptSettings(**({"data": "digits"} | wrong))  # pyright: ignore[reportArgumentType]


def test_images_with_labels_of_one_class_are_not_measured() -> None:
    plan = make_plan(AdaptSettings("digits", images=100, objective="contrast", size=32, steps=2))
    assert plan.can_be_measured
    one = (plan.labelled.labels == 3).nonzero().flatten().tolist()
    assert not replace(plan, labelled=plan.labelled.subset(one)).can_be_measured


def test_the_papers_rate_is_for_its_optimizer() -> None:
    paper = AdaptSettings("digits", objective="supervised", preset="paper", size=48, steps=200)
    assert make_plan(paper).fit.rate == 50
    for method in ("adam", "tensor-adam"):
        assert make_plan(replace(paper, optimizer=method)).fit.rate < 0.1
    assert make_plan(replace(paper, optimizer="adam", lr=3.0)).fit.rate == 3


def test_the_papers_epochs_and_warm_up_where_none_are_given() -> None:
    paper = AdaptSettings(
        "digits", objective="supervised", preset="paper", size=32, images=128, batch=64, held_out=0
    )
    plan = make_plan(paper)
    assert (plan.fit.steps, plan.fit.warmup) == (300, 40 / 150)
    assert make_plan(replace(paper, epochs=3, warmup=0.5)).fit.steps == 6


def test_half_of_the_labels_are_enough_to_learn_by(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
    names = [f"{label}/{k}.png" for label in ("cat", "dog") for k in range(5)] + [
        f"{k}.png" for k in range(9)
    ]
    for k, name in enumerate(names):
        Image.new("RGB", (32, 32), (k, 0, 0)).save(tmp_path / name)
    settings = AdaptSettings(str(tmp_path), size=32, test_share=0.1)  # a labelled image of each class
    plan = make_plan(settings)
    assert plan.objective == "contrast"  # 8 of 17
    assert make_plan(replace(settings, preset="paper")).objective == "swav"  # the paper knows no contrast
    assert any("(8 of 17 images have labels, and it needs none" in line for line in plan.lines())
    (tmp_path / "8.png").unlink()
    assert make_plan(settings).objective == "supervised"


def test_a_network_of_one_size_gets_its_views_there(tmp_path: Path) -> None:
    """A mixer, say, whose layers belong to one size."""
    weights = tmp_path / "mixer.safetensors"
    save_file(timm.create_model("mixer_s32_224").state_dict(), weights)
    settings = AdaptSettings(
        "digits", backbone="timm:mixer_s32_224", weights=weights, objective="distil", steps=2
    )
    assert make_plan(settings).size == 224
    with pytest.raises(BackboneError, match=r"does not take images of 64 × 64 pixels; .* say --size 224"):
        make_plan(replace(settings, size=64))
