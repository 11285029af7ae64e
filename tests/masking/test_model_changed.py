"""What a user may do to a masked model before the mask is saved or removed: it works, or is refused at that moment."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import selfmask
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SelfmaskError, SettingsError
from selfmask.maskset import MaskSet


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(self.conv2(x).mean(dim=(2, 3)))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def train(masks: MaskSet, optimizer: torch.optim.Optimizer, steps: int = 6) -> None:
    masks.model.train()
    for step in range(steps):
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        masks.model(x.to(masks.model.get_parameter("conv1.weight").dtype)).float().square().mean().backward()
        optimizer.step()


def learnt(**options: str) -> tuple[MaskSet, torch.optim.Optimizer]:
    masks = MaskSet(Small(), "conv*.weight", **options)  # pyright: ignore[reportArgumentType]
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2)
    train(masks, optimizer)
    return masks, optimizer


def test_what_is_put_on_or_taken_off_within_autocast_is_seen_there(tmp_path: Path) -> None:
    """Its half-precision copies of weights would else live until its block ends."""
    masks, _ = learnt()
    model, x = masks.model.eval(), torch.randn(4, 3, 6, 6)
    path = masks.save(tmp_path / "m.safetensors", preprocessing=Preprocessing(size=6).describe())

    def said() -> Tensor:
        return model(x)

    def alone() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return said()

    masked = alone()
    masks.remove()
    base = alone()
    assert not torch.equal(masked, base)
    mask = selfmask.load(path)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(said(), base)
        with mask.apply(model):
            assert torch.equal(said(), masked)
        assert torch.equal(said(), base)
        with selfmask.Bank(model, [path]) as bank:
            with bank.use("m"):
                assert torch.equal(said(), masked)
            with bank.use(None):
                assert torch.equal(said(), base)
            with bank.use("m"):
                assert torch.equal(said(), masked)
        assert torch.equal(said(), base)
        again = MaskSet(model, "conv*.weight")
        again.set_scores({name: torch.where(on, 1.0, -1.0) for name, on in mask.masks().items()})
        assert not torch.equal(said(), base)
        again.remove()
        assert torch.equal(said(), base)


def test_a_step_within_autocast_is_seen_by_the_next() -> None:
    masks = MaskSet(Small(), "conv*.weight")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.6)
    x = torch.randn(8, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        before = masks.model.eval()(x)
        before.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        masks.model(x).float().square().mean().backward()
        optimizer.step()
        assert not torch.equal(masks.model(x), before)


@pytest.mark.parametrize("what", ["step", "save"])
def test_weights_that_are_loaded_over_the_masked_ones_are_not_lost_in_silence(
    what: str, tmp_path: Path
) -> None:
    masks, optimizer = learnt(norm_stats="adapt")
    model, kept = masks.model, snapshot(masks.model)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with torch.no_grad():  # written and put back, as an average of weights is tried
        for p in model.parameters():
            p.mul_(2).mul_(0.5)
    train(masks, optimizer, 1)
    model.load_state_dict(Small().state_dict())
    with pytest.raises(
        SettingsError, match=r"other weights were written over conv1.weight .* Load weights before"
    ):
        masks.save(tmp_path / "m") if what == "save" else train(masks, optimizer, 1)
    model.load_state_dict(state[0])  # a checkpoint: first the model's, then the optimizer's
    optimizer.load_state_dict(state[1])
    assert same(snapshot(model), kept)
    train(masks, optimizer, 1)
    masks.save(tmp_path / "m")


def test_after_remove_nothing_masks_the_base_again() -> None:
    masks, optimizer = learnt()
    state = optimizer.state_dict()
    masks.remove()
    base = snapshot(Small())
    assert same(snapshot(masks.model), base)
    for p in masks.model.parameters():
        p.grad = torch.ones_like(p)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("step", optimizer.step),
        ("load_state_dict", lambda: optimizer.load_state_dict(state)),
        ("rewrite", masks.rewrite),
        ("set_scores", lambda: masks.set_scores(masks.scores)),
    ]
    for what, call in calls:
        with pytest.raises(SettingsError, match=f"{what}: this MaskSet was removed from its model"):
            call()
        assert same(snapshot(masks.model), base), what


def test_a_parameter_added_to_the_optimizer_is_saved_and_restored(tmp_path: Path) -> None:
    masks, _ = learnt()
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2)
    outside = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": masks.model.get_submodule("fc").parameters(), "lr": 0.01})
    optimizer.add_param_group({"params": outside, "lr": 0.01})
    train(masks, optimizer)
    assert set(masks.trained()) == {"fc.weight", "fc.bias"}
    x = torch.randn(4, 3, 6, 6)
    expected = masks.model.eval()(x)
    path = masks.save(tmp_path / "a.mask.safetensors")
    base = Small().eval()
    with selfmask.load(path).apply(base):
        assert torch.equal(base(x), expected)
    masks.remove()
    assert same(snapshot(masks.model), snapshot(Small()))


def test_parameters_that_are_masked_cannot_be_added() -> None:
    masks, optimizer = learnt()
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": masks.model.get_parameter("conv1.weight"), "lr": 0.1})
    train(masks, optimizer)


@pytest.mark.parametrize("options", [{}, {"train": "fc.*"}])
def test_parameters_that_were_exchanged_are_refused_and_still_restored(options: dict[str, str]) -> None:
    masks = MaskSet(Small(), "conv*.weight", **options)  # pyright: ignore[reportArgumentType]
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2, trained={"lr": 0.01} if options else None)
    train(masks, optimizer)
    state = {n: t.clone() for n, t in masks.model.state_dict().items()}
    masks.model.load_state_dict(state, assign=True)
    with pytest.raises(
        SettingsError, match=r"optimizer\.step: conv1\.weight is another parameter .*assign=True"
    ):
        train(masks, optimizer)
    masks.remove()
    assert same(snapshot(masks.model), snapshot(Small()))
    assert all(p.requires_grad for p in masks.model.parameters())


def test_exchanging_only_what_is_trained_is_refused() -> None:
    masks = MaskSet(Small(), "conv*.weight", train="fc.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2, trained={"lr": 0.01})
    head = masks.model.get_submodule("fc")
    head.load_state_dict({n: t.clone() for n, t in head.state_dict().items()}, assign=True)
    with pytest.raises(SettingsError, match=r"fc\.weight is another parameter"):
        train(masks, optimizer)


@pytest.mark.parametrize(
    ("cast", "name"),
    [(nn.Module.half, "float16"), (nn.Module.bfloat16, "bfloat16"), (nn.Module.double, "float64")],
)
def test_casting_in_mid_training_is_refused(
    cast: Callable[[nn.Module], nn.Module], name: str, tmp_path: Path
) -> None:
    masks, optimizer = learnt()
    cast(masks.model)
    with pytest.raises(SettingsError, match=rf"step: conv1\.weight was cast from float32 to {name}"):
        train(masks, optimizer, 1)
    with pytest.raises(SettingsError, match=rf"save: conv1\.weight was cast from float32 to {name}"):
        masks.save(tmp_path / "a.mask.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("norm_stats", ["adapt", "frozen"])
def test_a_masked_model_can_be_pickled_and_copied(norm_stats: str) -> None:
    masks, _ = learnt(norm_stats=norm_stats)
    x = torch.randn(4, 3, 6, 6)
    expected = masks.model.eval()(x)
    file = io.BytesIO()
    torch.save(masks.model, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), copy.deepcopy(masks.model)):
        other.train()
        assert other.get_submodule("norm1").training == (norm_stats == "adapt"), (
            "a copy is as frozen as the model was"
        )
        assert torch.equal(other.eval()(x), expected)
        assert isinstance(other.get_submodule("norm1"), nn.BatchNorm2d)


def test_what_was_neither_masked_nor_trained_must_be_the_base_still(tmp_path: Path) -> None:
    masks, _ = learnt()
    with torch.no_grad():
        masks.model.get_parameter("fc.bias").add_(1.0)
    with pytest.raises(SelfmaskError, match=r"save: fc\.bias has changed, though it is neither"):
        masks.save(tmp_path / "a.mask.safetensors")
    with torch.no_grad():
        masks.model.get_parameter("fc.bias").copy_(Small().fc.bias)
    path = masks.save(tmp_path / "a.mask.safetensors")
    selfmask.load(path).apply(Small())


def replace_conv(model: nn.Module) -> None:
    model.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)


def replace_head(model: nn.Module) -> None:
    model.fc = nn.Sequential(nn.Linear(16, 4))


def drop_head(model: nn.Module) -> None:
    model.fc = nn.Identity()


def cast_head(model: nn.Module) -> None:
    model.get_submodule("fc").double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_conv, r"conv2\.weight belongs to a layer that was replaced"),
        (replace_head, r"fc\.weight is not in the model any more"),
        (drop_head, r"fc\.weight is not in the model any more"),
        (cast_head, r"fc\.weight has changed"),
        (lambda m: m.register_parameter("extra", nn.Parameter(torch.ones(2))), "extra was added"),
    ],
)
def test_a_model_of_other_layers_is_not_saved_and_what_is_left_is_restored(
    change: Callable[[nn.Module], object], message: str, tmp_path: Path
) -> None:
    masks, _ = learnt()
    first = masks.model.get_submodule("conv2"), masks.model.get_submodule("fc")
    change(masks.model)
    with pytest.raises(SettingsError, match=message):
        masks.save(tmp_path / "a.mask.safetensors")
    masks.remove()
    base = Small()
    assert torch.equal(first[0].get_parameter("weight"), base.conv2.weight)
    assert torch.equal(first[1].get_parameter("weight").float(), base.fc.weight)
    assert torch.equal(masks.model.get_parameter("conv1.weight"), base.conv1.weight)


def test_a_buffer_that_appears_later_is_none_of_the_base(tmp_path: Path) -> None:
    masks, _ = learnt()
    masks.model.register_buffer("cache", torch.ones(3))
    selfmask.load(masks.save(tmp_path / "a.mask.safetensors")).apply(Small())


def test_weights_written_past_the_count_of_writes_are_seen_too(tmp_path: Path) -> None:
    """As torch's own `vector_to_parameters` and averages of weights write them, by `.data`."""
    masks, optimizer = learnt()
    there = nn.utils.parameters_to_vector(masks.model.parameters()).detach()
    nn.utils.vector_to_parameters(3 * there, masks.model.parameters())
    with pytest.raises(
        SettingsError, match=r"optimizer\.step: other weights were written over conv1\.weight"
    ):
        train(masks, optimizer, 1)
    nn.utils.vector_to_parameters(there, masks.model.parameters())
    train(masks, optimizer, 1)
    kept = masks.model.get_parameter("conv2.weight").detach().clone()
    masks.model.get_parameter("conv2.weight").data.mul_(2)
    with pytest.raises(SettingsError, match=r"save: other weights were written over conv2\.weight"):
        masks.save(tmp_path / "m.safetensors")
    masks.model.get_parameter("conv2.weight").data.copy_(kept)
    masks.save(tmp_path / "m.safetensors")


def test_frozen_statistics_outlive_torchs_update_bn() -> None:
    masks = MaskSet(Small(), "conv*.weight", norm_stats="frozen")
    before = snapshot(masks.model)
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 6, 6)], masks.model)
    assert same(snapshot(masks.model), before)


def test_a_copy_of_a_frozen_model_is_the_base_once_its_weights_are_loaded(tmp_path: Path) -> None:
    base = snapshot(Small())
    masks = MaskSet(Small(), "conv*.weight", norm_stats="frozen")
    train(masks, masks.optimizer(torch.optim.Adam, lr=0.2))
    path = masks.save(tmp_path / "m.safetensors", preprocessing=Preprocessing(size=6).describe())
    again = copy.deepcopy(masks.model)
    again.load_state_dict(base)
    with selfmask.load(path).apply(again):  # without a warning of another architecture
        pass
    assert again.train().get_submodule("norm1").training
    with pytest.raises(SelfmaskError, match=r"conv1\.weight has no values yet"):
        selfmask.load(path).apply(Small().to("meta"))
