"""Comparison, set algebra, and baking, against plain set operations and against the applied model."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfmask.errors import RunError, SettingsError, WrongBaseError
from selfmask.maskfile.derive import combine_masks, save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import quantised
from selfmask.maskfile.saving import save_mask
from selfmask.reports.similarity import OffBits, similarity
from selfmask.tasks.apply import ApplySettings, baked_state, save_baked
from selfmask.tasks.card import model_card
from selfmask.tasks.combine import CombineSettings
from selfmask.tasks.compact import CompactSettings
from selfmask.tasks.compare import compare_masks
from selfmask.tasks.export import baked_module, export_module
from selfmask.tasks.opening import open_mask
from selfmask.tasks.predict import PredictSettings
from selfmask.tasks.search import SearchSettings

MASKED = ("conv2.weight", "conv3.weight")


def random_mask(model: nn.Module, path: Path, seed: int, **more: object) -> Mask:
    random = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    theta = {name: state.pop(name) for name in MASKED}
    masks = {n: torch.rand(t.shape, generator=random) > 0.3 for n, t in theta.items()}
    return load(save_mask(path, theta=theta, masks=masks, rest=state, **more))  # type: ignore[arg-type]


@pytest.fixture
def three(tmp_path: Path, model: nn.Module) -> list[Mask]:
    head = {"weight": torch.ones(2, 10)}
    return [random_mask(model, tmp_path / str(seed), seed, head=head) for seed in range(3)]


def test_comparison_counts_what_sets_count(three: list[Mask]) -> None:
    a, b = (set(torch.cat([m.reshape(-1) for m in x.masks().values()]).logical_not().nonzero().flatten().tolist())
            for x in three[:2])  # fmt: skip
    found = compare_masks(three[0], three[1])
    assert found.overall.off_a == len(a)
    assert found.overall.hamming == len(a ^ b)
    assert found.overall.jaccard == pytest.approx(len(a & b) / len(a | b))
    assert found.overall.expected_jaccard == pytest.approx(found.overall.jaccard, abs=0.02)
    assert sum(o.total for o in found.tensors.values()) == found.overall.total == three[0].index.weights
    same = compare_masks(three[0], three[0]).overall
    assert (same.hamming, same.jaccard) == (0, 1.0)


def test_comparison_and_similarity_are_one_figure(tmp_path: Path, model: nn.Module) -> None:
    """Chance is taken tensor by tensor: one that is nearly all off makes any two masks alike without a reason."""
    masks = []
    for seed in range(2):
        random = torch.Generator().manual_seed(seed)
        kept = {name: 0.1 if number == 0 else 0.95 for number, name in enumerate(MASKED)}
        theta = {name: model.get_parameter(name).detach() for name in MASKED}
        drawn = {name: torch.rand(t.shape, generator=random) < kept[name] for name, t in theta.items()}
        rest = {name: t for name, t in model.state_dict().items() if name not in MASKED}
        masks.append(load(save_mask(tmp_path / str(seed), theta=theta, masks=drawn, rest=rest)))
    overall = compare_masks(*masks).overall
    alike = similarity([OffBits.of(mask.masks()) for mask in masks], "ab")
    assert alike.jaccard[0, 1] == overall.jaccard
    assert alike.expected_jaccard[0, 1] == pytest.approx(overall.expected_jaccard)
    assert alike.hamming[0, 1] == overall.hamming / overall.total
    assert overall.expected_jaccard == pytest.approx(overall.jaccard, abs=0.03)


@pytest.mark.parametrize("operation", ["and", "or", "majority"])
def test_set_algebra_makes_a_file_of_the_same_base(
    tmp_path: Path, model: nn.Module, three: list[Mask], operation: str
) -> None:
    path = combine_masks(tmp_path / "new", operation, three)  # type: ignore[arg-type]
    made = load(path)
    for name in MASKED:
        on = torch.stack([m.masks()[name] for m in three]).sum(0)
        least = {"and": 3, "or": 1, "majority": 2}[operation]
        assert torch.equal(made.masks()[name], on >= least)
    made.apply(model).remove()
    assert made.metadata["derived"]["operation"] == operation
    assert [m["file"] for m in made.metadata["derived"]["from"]] == ["0", "1", "2"]
    assert torch.equal(made.head["weight"], torch.ones(2, 10))


def test_companions_that_differ_are_dropped(tmp_path: Path, model: nn.Module) -> None:
    a = random_mask(model, tmp_path / "a", 0, statistics={"norm1.running_mean": torch.ones(8)})
    b = random_mask(model, tmp_path / "b", 0, statistics={"norm1.running_mean": torch.zeros(8)})
    assert load(combine_masks(tmp_path / "c", "and", [a, a])).statistics
    assert not load(combine_masks(tmp_path / "d", "and", [a, b])).statistics


def test_masks_beside_other_trained_parameters_are_not_combined(tmp_path: Path, model: nn.Module) -> None:
    a = random_mask(model, tmp_path / "a", 0, trained={"fc.bias": torch.ones(10)})
    b = random_mask(model, tmp_path / "b", 1, trained={"fc.bias": torch.zeros(10)})
    assert load(combine_masks(tmp_path / "c", "and", [a, a])).trained
    with pytest.raises(WrongBaseError, match=r"learnt beside other trained parameters \('fc.bias'\)"):
        combine_masks(tmp_path / "d", "and", [a, b])
    assert not (tmp_path / "d").exists()


def test_of_masks_learnt_on_different_images_is_not_said_that_they_were_learnt_on_the_first(
    tmp_path: Path, model: nn.Module
) -> None:
    def learnt(data: str, size: int, seed: int) -> Mask:
        told = {
            "backbone": {"spec": "timm:x", "image_size": size},
            "preprocessing": {"size": size},
            "training": {"data": data, "size": size, "objective": "distil"},
            "rule": {"name": "threshold"},
            "rows": {"rows": []},
            "compaction": {"max_drop": 1},
        }
        return random_mask(model, tmp_path / data, seed, metadata=told)

    made = load(combine_masks(tmp_path / "mix", "or", [learnt("digits", 48, 0), learnt("clothing", 64, 1)]))
    assert made.metadata["training"] == {"objective": "distil"}
    assert made.metadata["rule"] == {"name": "threshold"}
    assert made.metadata["backbone"] == {"spec": "timm:x", "image_size": 48}
    assert not {"preprocessing", "rows", "compaction", "flipped"} & set(made.metadata)
    card = model_card(made, "me/x", filename="mix")
    assert "| made by | or of digits (digits), clothing (clothing) |" in card
    assert "| data |" not in card


def test_masks_of_other_bases_are_not_mixed(tmp_path: Path, model: nn.Module, three: list[Mask]) -> None:
    with torch.no_grad():
        model.get_parameter("fc.bias").add_(1)
    other = random_mask(model, tmp_path / "other", 0)
    for act in (
        lambda: compare_masks(three[0], other),
        lambda: combine_masks(tmp_path / "x", "or", [three[0], other]),
    ):
        with pytest.raises(WrongBaseError, match="different bases"):
            act()


def test_what_makes_no_mask_is_said(tmp_path: Path, model: nn.Module, three: list[Mask]) -> None:
    with pytest.raises(SettingsError, match="at least two"):
        combine_masks(tmp_path / "x", "or", three[:1])
    with pytest.raises(SettingsError, match="one of and, or, majority"):
        combine_masks(tmp_path / "x", "xor", three)  # type: ignore[arg-type]
    inverse = {name: ~m for name, m in three[0].masks().items()}
    opposite = load(save_derived(tmp_path / "inverse", three[0], inverse, note={}))
    with pytest.raises(SettingsError, match=r"every weight of 'conv2.weight' off"):
        combine_masks(tmp_path / "x", "and", [three[0], opposite])
    with pytest.raises(SettingsError, match="in its order"):
        save_derived(tmp_path / "x", three[0], {}, note={})
    assert not (tmp_path / "x").exists()
    smaller = save_derived(tmp_path / "y", three[0], inverse, note={"compaction": 1})
    assert load(smaller).metadata["compaction"] == 1


def test_baked_weights_are_those_of_the_applied_model(
    tmp_path: Path, model: nn.Module, three: list[Mask]
) -> None:
    images = torch.randn(2, 3, 8, 8)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with three[0].apply(model) as adapted:
        features = adapted(images)
        expected: dict[str, Tensor] = {n: t.clone() for n, t in adapted.state_dict().items()}
    state = baked_state(three[0], model)
    assert all(torch.equal(state[n], t) for n, t in expected.items())
    path = save_baked(tmp_path / "deep" / "baked.safetensors", three[0], model, head=True)
    stored = load_file(path)
    assert torch.equal(stored.pop("head.weight"), torch.ones(2, 10))
    model.load_state_dict(stored, strict=True)
    assert torch.equal(model(images), features)
    model.load_state_dict(before)
    assert torch.equal(baked_module(three[0], model)(images), features)
    logits = baked_module(three[0], model, head=True)(images)
    assert torch.allclose(logits, features.sum(1, keepdim=True).expand(2, 2), atol=1e-5)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exported_programs_compute_the_same(
    tmp_path: Path, model: nn.Module, three: list[Mask], suffix: str, norms: bool
) -> None:
    images, mask = torch.randn(5, 3, 8, 8), three[0]
    if norms:
        changes = {n: quantised(torch.randn(64) / 4, 8, n) for n in ("norm2.weight", "norm2.bias")}
        plain = baked_module(mask, model, head=True)(images)
        mask = load(save_derived(tmp_path / "norms", mask, mask.masks(), note={}, norms=changes))
        assert not torch.allclose(baked_module(mask, model, head=True)(images), plain, atol=1e-2)
    module = baked_module(mask, model, head=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about their own insides
        path = export_module(module, tmp_path / f"program{suffix}", 8)
        if suffix == ".pt2":
            found = torch.export.load(path).module()(images)
        else:
            runtime = pytest.importorskip("onnxruntime")
            session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert torch.allclose(found, module(images), atol=1e-4)
    assert [p.name for p in tmp_path.glob("*program*")] == [path.name]
    with pytest.raises(SettingsError, match=r"\.onnx.*\.pt2"):
        export_module(module, tmp_path / "program.pb", 8)


def test_a_rejected_mask_is_looked_at_and_not_used(tmp_path: Path, three: list[Mask]) -> None:
    (tmp_path / "rejected.mask.safetensors").write_bytes(three[0].path.read_bytes())
    assert open_mask(tmp_path, rejected=True).names == three[0].names
    with pytest.raises(RunError, match="was worse than the untouched network"):
        open_mask(tmp_path)


def test_a_run_s_own_mask_is_not_written_over(tmp_path: Path, model: nn.Module, three: list[Mask]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    own = run / "mask.safetensors"
    own.write_bytes(three[0].path.read_bytes())
    for settings in (
        lambda: ApplySettings(run, own),
        lambda: CombineSettings((run, three[1].path), out=own),
        lambda: CompactSettings(run, "digits", out=own),
    ):
        with pytest.raises(SettingsError, match=r"out is the .* itself"):
            settings()


@pytest.mark.parametrize("spec", ["list:{}", "webdataset:{}", "{}", "~/{}"])
def test_a_list_is_not_written_over_by_whatever_name(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    listed = tmp_path / "q.csv"
    listed.write_text("file\na.png\n")
    said = spec.format("q.csv" if spec.startswith("~") else listed)
    for settings in (
        lambda: PredictSettings("run", said, out=listed),
        lambda: SearchSettings(tmp_path / "e.parquet", said, out=listed),
        lambda: SearchSettings(tmp_path / "e.parquet", "x.png", images=said, out=listed),
    ):
        with pytest.raises(SettingsError, match=r"out is the .* itself"):
            settings()


def test_half_is_a_majority(three: list[Mask], tmp_path: Path) -> None:
    some, most = (load(combine_masks(tmp_path / how, how, three[:2])).masks() for how in ("or", "majority"))
    assert all(torch.equal(mask, some[name]) for name, mask in most.items())
