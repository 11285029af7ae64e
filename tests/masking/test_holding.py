"""At most one mask set or applied mask over a model's weights: whatever stands around them, and whoever asks."""

from __future__ import annotations

import copy
import gc
import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import selfmask
from selfmask.errors import SettingsError, WrongBaseError
from selfmask.maskfile.mask import Handle, Mask
from selfmask.masking.rules import TopK
from selfmask.maskset import MaskSet


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)
        with torch.no_grad():
            self.conv1.weight[0] = 0.0  # a dead filter, as trained networks have them

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(self.conv2(x).mean(dim=(2, 3)))


class Wrapper(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 2)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def mask_file(folder: Path, seed: int = 0, off: float = 0.3) -> Mask:
    masks = MaskSet(Small(), "conv*.weight")
    generator = torch.Generator().manual_seed(seed)
    masks.set_scores(
        {n: torch.rand(s.shape, generator=generator) - off + 1e-9 for n, s in masks.scores.items()}
    )
    return selfmask.load(masks.save(folder / f"{seed}.mask.safetensors"))


def held_by_a_mask_set(model: nn.Module, folder: Path) -> MaskSet:
    masks = MaskSet(model, "conv*.weight")
    masks.set_scores({n: torch.rand_like(s) - 0.3 for n, s in masks.scores.items()})
    return masks


def held_by_a_mask(model: nn.Module, folder: Path) -> Handle:
    return mask_file(folder).apply(model)


HOLDERS = [held_by_a_mask_set, held_by_a_mask]


def shared_memory(model: nn.Module) -> nn.Module:
    """Other parameters over the same memory."""
    other = Small()
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(
    "around",
    [
        Wrapper,
        lambda model: model.conv1,
        copy.copy,
        lambda model: nn.Sequential(nn.Identity(), model.conv2),
        shared_memory,
    ],
)
def test_whatever_stands_around_held_weights_is_held(
    holder: Callable[[nn.Module, Path], MaskSet | Handle],
    around: Callable[[nn.Module], nn.Module],
    tmp_path: Path,
) -> None:
    model = Small()
    first = holder(model, tmp_path)
    with pytest.raises(WrongBaseError, match=r"held by (a MaskSet|the applied mask 0\.mask\.safetensors)"):
        MaskSet(around(model), "*weight")
    first.remove()
    assert same(snapshot(model), snapshot(Small()))
    MaskSet(around(model), "*weight").remove()
    assert same(snapshot(model), snapshot(Small()))


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_held_part_holds_the_whole(
    holder: Callable[[nn.Module, Path], MaskSet | Handle], tmp_path: Path
) -> None:
    model = Small()
    whole = Wrapper(model)
    first = holder(model, tmp_path)
    with pytest.raises(WrongBaseError, match="held by"):
        mask_file(tmp_path, 1).apply(model)
    with pytest.raises(WrongBaseError, match="held by"):
        mask_file(tmp_path, 1).check(model)
    MaskSet(whole.head, "weight").remove()  # no weight of it is anyone's
    first.remove()


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_copy_of_a_masked_model_knows_what_it_is(
    holder: Callable[[nn.Module, Path], MaskSet | Handle],
    copied: Callable[[nn.Module], nn.Module],
    tmp_path: Path,
) -> None:
    model = Small()
    first = holder(model, tmp_path)
    copies = [copied(model), copied(Wrapper(model)), copied(model).half().to(torch.float32)]
    copies.append(copied(copies[0]))
    first.remove()
    for other in copies:
        with pytest.raises(WrongBaseError, match=r"is a copy, made while .* its weights are masked"):
            MaskSet(other, "*conv*.weight")
    with pytest.raises(WrongBaseError, match="is a copy"):
        mask_file(tmp_path, 1).apply(copies[0])
    copies[0].load_state_dict(Small().state_dict())
    MaskSet(copies[0], "conv*.weight").remove()
    mask_file(tmp_path, 1).apply(copies[0]).remove()
    assert "_selfmask" not in str(vars(copied(model).conv1)), "no trace on the base"


def test_a_copy_made_before_any_weight_is_off_is_the_base() -> None:
    model = Small()
    masks = MaskSet(model, "conv*.weight")
    early = copy.deepcopy(model)
    MaskSet(early, "conv*.weight").remove()
    masks.remove()
    assert same(snapshot(early), snapshot(model))


def test_a_mask_set_that_is_copied_with_its_model_holds_the_copy(tmp_path: Path) -> None:
    model = Small()
    masks = held_by_a_mask_set(model, tmp_path)
    other, copied = copy.deepcopy((model, masks))
    masks.remove()
    with pytest.raises(WrongBaseError, match="held by a MaskSet"):
        MaskSet(other, "conv*.weight")
    copied.remove()
    assert same(snapshot(other), snapshot(model))
    MaskSet(other, "conv*.weight").remove()


def test_a_model_that_is_gone_holds_nothing() -> None:
    for _ in range(20):  # new networks, at the addresses of the old ones
        MaskSet(Small(), "conv*.weight")


def test_a_mask_set_does_not_keep_its_model_alive() -> None:
    import gc
    import weakref

    gc.disable()
    try:
        model = Small()
        masks = MaskSet(model, "conv*.weight")
        gone = [weakref.ref(model), weakref.ref(masks)]
        del model, masks
        assert [r() for r in gone] == [None, None], (
            "without the collector of cycles: a large model must go at once"
        )
    finally:
        gc.enable()


def test_statistics_that_moved_under_an_applied_mask_are_put_back(tmp_path: Path) -> None:
    model = Small()
    before = snapshot(model)
    with mask_file(tmp_path).apply(model):
        model.train()
        for _ in range(3):
            model(torch.randn(8, 3, 6, 6))
    assert same(snapshot(model), before)


def test_removing_after_a_layer_was_replaced(tmp_path: Path) -> None:
    model = Small()
    before, first = snapshot(model), model.conv1
    handle = mask_file(tmp_path).apply(model)
    model.conv1 = nn.Conv2d(3, 8, 3, padding=1)
    mine = model.conv1.weight.detach().clone()
    model.conv2 = nn.Conv2d(8, 16, 1)
    handle.remove()
    assert not handle.applied
    assert torch.equal(model.conv1.weight, mine), "what the user has put there is the user's"
    model.conv1 = first
    assert torch.equal(model.conv1.weight, before["conv1.weight"])


def test_parameters_exchanged_under_an_applied_mask_are_put_back(tmp_path: Path) -> None:
    model = Small()
    before = snapshot(model)
    handle = mask_file(tmp_path).apply(model)
    model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)
    handle.remove()
    assert same(snapshot(model), before)


def test_five_hundred_cycles_from_eight_threads(tmp_path: Path) -> None:
    """Apply, remove and switch: every output is the single-threaded one, and the base is intact."""
    masks = [mask_file(tmp_path, seed) for seed in range(4)]
    model = Small().eval()
    base, x = snapshot(model), torch.randn(2, 3, 6, 6)
    expected: list[Tensor] = []
    for mask in masks:
        with mask.apply(model), torch.no_grad():
            expected.append(model(x))
    wrong: list[str] = []
    done = [0] * 8

    def work(who: int) -> None:
        k = who
        while done[who] < 63:
            k += 1
            try:
                handle = masks[k % 4].apply(model)
            except WrongBaseError as error:
                if "held by" not in str(error):
                    wrong.append(str(error))
                continue
            with torch.no_grad():
                if not torch.equal(model(x), expected[k % 4]):
                    wrong.append(f"thread {who}, cycle {done[who]}: another output")
            handle.remove()
            done[who] += 1

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert sum(done) == 504
    assert same(snapshot(model), base)


def test_of_two_threads_that_remove_one_does(tmp_path: Path) -> None:
    model, mask = Small(), mask_file(tmp_path)
    base = snapshot(model)
    for _ in range(30):
        handle = mask.apply(model)
        threads = [threading.Thread(target=handle.remove) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert same(snapshot(model), base)
        assert not handle.applied


def test_a_thread_that_fails_leaves_the_model_to_the_one_that_waits(tmp_path: Path) -> None:
    """While a mask is being checked another thread waits: it is told `held` only where the mask was really applied."""
    mask, other = mask_file(tmp_path), Small()
    with torch.no_grad():
        other.fc.bias.add_(1.0)  # not the base: every apply fails, after its check
    errors: list[str] = []

    def work() -> None:
        for _ in range(20):
            with pytest.raises(WrongBaseError) as caught:
                mask.apply(other)
            errors.append(str(caught.value))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert all("is not the base" in error for error in errors)


def test_masked_weights_that_were_loaded_are_no_base(tmp_path: Path) -> None:
    """By the state dict of a model that is masked now; and by a checkpoint that says which base its scores are over."""
    model = Small()
    masks = held_by_a_mask_set(model, tmp_path)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.1)
    other = Small()
    other.load_state_dict(model.state_dict())
    with pytest.raises(WrongBaseError, match="its weights are masked and not the base"):
        MaskSet(other, "conv*.weight")
    with pytest.raises(WrongBaseError, match="its weights are masked"):
        mask_file(tmp_path, 1).apply(other)
    saved, state = snapshot(model), optimizer.state_dict()
    state["state"] = {i: {n: t.clone() for n, t in s.items()} for i, s in state["state"].items()}
    masks.remove()

    wrong = Small()
    wrong.load_state_dict(saved)
    late = MaskSet(wrong, "conv*.weight").optimizer(torch.optim.Adam, lr=0.1)
    with pytest.raises(SettingsError, match=r"load_state_dict: the state was saved over other base weights"):
        late.load_state_dict(state)
    right = Small()
    again = MaskSet(right, "conv*.weight")
    right.load_state_dict(saved)
    again.optimizer(torch.optim.Adam, lr=0.1).load_state_dict(state)
    assert same(snapshot(right), saved)
    again.remove()
    assert same(snapshot(right), snapshot(Small()))


def test_a_mask_set_that_is_gone_holds_no_other_base(tmp_path: Path) -> None:
    """Its model lives on; that a tensor of it has no weight off makes no fresh base a copy."""

    def learnt() -> tuple[nn.Module, Path]:
        model = Small()
        masks = MaskSet(model, select=["conv2.weight", "fc.weight"], norm_stats="frozen")
        masks.set_scores(masks.scores | {"fc.weight": torch.linspace(-1, 1, 64).view(4, 16)})
        return model, masks.save(tmp_path / "a.mask.safetensors")

    model, path = learnt()
    gc.collect()
    other = Small()
    with selfmask.load(path).apply(other):
        pass
    MaskSet(other).remove()
    again = Small()
    again.load_state_dict(model.state_dict())
    with pytest.raises(WrongBaseError):
        MaskSet(again)


def test_zeros_that_the_base_has_itself_tell_nothing_of_a_mask_set_that_is_gone() -> None:
    """As pruned weights are, or those that are too small for half precision."""

    def pruned() -> nn.Module:
        model = Small()
        with torch.no_grad():
            model.get_parameter("conv2.weight")[:, 0] = 0
        return model

    model = pruned()
    MaskSet(model, select="conv2.weight")
    gc.collect()
    MaskSet(pruned(), select="conv2.weight").remove()
    assert model.get_parameter("conv2.weight").numel()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: torch.load(_saved(m), weights_only=False)])
def test_a_tensor_that_is_0_everywhere_proves_nothing(copied: Callable[[nn.Module], nn.Module]) -> None:
    """As biases are that nobody has trained: masked or not, they are the base's."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with torch.no_grad():
        model.get_parameter("0.bias").zero_()
    other, base = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    masks = MaskSet(model, select="0.bias", rule=TopK(0.5))
    MaskSet(other, select="0.weight").remove()
    again = copied(model)
    again.load_state_dict(base)
    masks.remove()
    MaskSet(again, select="0.weight").remove()


def _saved(model: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file
