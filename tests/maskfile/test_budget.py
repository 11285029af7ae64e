"""`max_bytes`: no file is larger, each is what was evaluated, and what cannot be is said and changes nothing."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selfmask._common.units import byte_count
from selfmask.errors import SettingsError
from selfmask.maskfile.budget import Worn, in_bytes, spared, writer
from selfmask.maskfile.head_rounding import rounded_head
from selfmask.maskfile.loading import load
from selfmask.maskfile.quantised import Quantised, clipped, quantised
from selfmask.maskfile.trade import Learnt, Trade
from selfmask.masking.rules import TopK
from selfmask.maskset import MaskSet

IMAGES = [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
HEAD = {"weight": torch.randn(4, 10, generator=torch.Generator().manual_seed(2)), "bias": torch.arange(4.0)}
TOLD = {
    "site": "north",
    "training": {"data": "x", "classes": ["a"], "size": 8, "seed": 1, "rate": 0.1, "betas": [1, 2]},
}


def learnt(model: nn.Module, **more: Any) -> MaskSet:
    """A mask set after some steps: weights off, norm weights moved."""
    more = {"norm_stats": "frozen", "train_norms": True, **more}
    masks = MaskSet(model, select=["conv2.weight", "conv3.weight"], **more)
    train(model, masks)
    return masks


def train(model: nn.Module, masks: MaskSet) -> None:
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    for step in range(5):
        optimizer.zero_grad()
        model(
            torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        ).square().mean().backward()
        optimizer.step()


def said(model: nn.Module, head: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return F.linear(model(IMAGES[0]), head["weight"].float(), head["bias"].float())


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        n: t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()
    }


# The fixture is only copied.
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    max_bytes=st.integers(1200, 4600),
    head_dtype=st.sampled_from([None, "float16", "int8"]),
    train_norms=st.booleans(),
)
def test_no_file_is_larger_and_each_is_what_is_evaluated(
    model: nn.Module, tmp_path: Path, max_bytes: int, head_dtype: Any, train_norms: bool
) -> None:
    model = copy.deepcopy(model)
    base = bits(model)
    masks = learnt(model, train_norms=train_norms)
    masks.round_norms()
    before, whole = masks.masks(), bits(model)
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "m"
    try:
        masks.save(path, head=HEAD, head_dtype=head_dtype, max_bytes=max_bytes, images=IMAGES, **TOLD)
    except SettingsError as error:
        # The least that it names is possible (some bytes for the digits of another budget), and so it was none here.
        assert bits(model) == whole
        assert not path.exists()
        found = re.search(r"takes ([\d,]+) bytes", str(error))
        assert found is not None
        least = int(found[1].replace(",", ""))
        assert least > max_bytes
        masks.save(path, head=HEAD, head_dtype=head_dtype, max_bytes=least + 8, images=IMAGES, **TOLD)
        max_bytes = least + 8
    assert path.stat().st_size <= max_bytes
    mask = load(path)
    assert mask.metadata["site"] == "north"
    after = masks.masks()
    assert all(bool((after[n] | ~m).all()) for n, m in before.items())
    evaluated, worn = said(model, mask.head), bits(model)
    masks.round_norms()
    assert bits(model) == worn
    budget = mask.metadata.get("budget")
    if budget is None:
        assert worn == whole
    else:
        off = sum(int((~m).sum()) for m in after.values())
        assert (budget["max_bytes"], budget["off"]) == (max_bytes, off)
        assert budget["norms"] == sorted({q.bits for q in mask.norms.values()})
        assert "rate" not in mask.metadata["training"]
        assert "training" in budget["left_out"]
    masks.remove()
    assert bits(model) == base
    with mask.apply(model):
        assert bits(model) == worn
        assert torch.equal(said(model, mask.head), evaluated)


def test_a_file_that_fits_is_the_whole_one(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    whole = masks.save(tmp_path / "whole", head=HEAD, **TOLD).read_bytes()
    again = masks.save(tmp_path / "again", head=HEAD, max_bytes=len(whole), images=IMAGES, **TOLD)
    assert again.read_bytes() == whole
    masks.save(tmp_path / "less", head=HEAD, max_bytes=len(whole) - 1, images=IMAGES, **TOLD)
    assert load(tmp_path / "less").metadata["budget"]["whole"] == len(whole)
    masks.remove()


def test_more_bytes_are_nearer(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    exact, far = said(model, HEAD), []
    for most in (4000, 2600, 1900):
        masks.save(tmp_path / str(most), head=HEAD, max_bytes=most, images=IMAGES)
        far.append(float((said(model, load(tmp_path / str(most)).head) - exact).square().mean()))
    assert far[0] < far[1] < far[2]
    assert far[0] < 0.05 * float(exact.square().mean())
    masks.remove()


def test_training_goes_on_from_what_was_saved(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    masks.save(tmp_path / "m", max_bytes=2200, images=IMAGES)
    density, weight = masks.density(), model.get_parameter("conv3.weight").detach().clone()
    train(model, masks)
    assert masks.density() != density
    assert not torch.equal(model.get_parameter("conv3.weight"), weight)
    again = load(masks.save(tmp_path / "again"))
    masks.remove()
    assert "budget" not in again.metadata


@pytest.mark.parametrize(
    "bad", [0, -1, "", "k", "10q", "1e4", "-5k", True, float("nan"), 10**30, "0.0001", [1]]
)
def test_what_is_no_number_of_bytes_is_refused(bad: Any, tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(SettingsError, match="max_bytes"):
        byte_count(bad, "max_bytes")
    masks = learnt(model)
    before = bits(model)
    with pytest.raises(SettingsError, match="max_bytes"):
        masks.save(tmp_path / "m", max_bytes=bad, images=IMAGES)
    assert bits(model) == before
    masks.remove()


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        (10240, 10240),
        ("10240", 10240),
        ("10k", 10240),
        ("10 KiB", 10240),
        ("10kB", 10000),
        ("1.5M", 1572864),
        ("7b", 7),
    ],
)
def test_amounts_of_bytes(written: Any, amount: int) -> None:
    assert byte_count(written, "x") == amount


def test_what_cannot_be_judged_is_told_and_changes_nothing(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    masks.round_norms()
    before = bits(model)
    for images, message in (
        ([], "needs images="),
        ([torch.zeros(0, 3, 8, 8)], "needs images="),
        ([torch.full((2, 3, 8, 8), torch.nan)], "not finite"),
    ):
        with pytest.raises(SettingsError, match=message):
            masks.save(tmp_path / "m", max_bytes=2000, images=images)
    with pytest.raises(SettingsError, match=r"smallest possible file takes .*the head .* leave out the head"):
        masks.save(tmp_path / "m", head={"weight": torch.randn(64, 512)}, max_bytes=3000, images=IMAGES)
    with pytest.raises(SettingsError, match=r"smallest possible file takes .* give less metadata"):
        masks.save(tmp_path / "m", head=HEAD, max_bytes=3000, images=IMAGES, words="x" * 4000)
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []
    masks.remove()
    top = MaskSet(model, select=["conv2.weight"], rule=TopK(0.5))
    with pytest.raises(SettingsError, match="a density of its own"):
        top.save(tmp_path / "m", max_bytes=2000, images=IMAGES)
    top.remove()


def test_batches_that_come_only_once_or_in_another_order_each_time_are_judged_by_too(
    tmp_path: Path, model: nn.Module
) -> None:
    class Turning:
        """Batches in the other order each time, as a loader that shuffles gives them."""

        def __init__(self, batches: Sequence[Tensor]) -> None:
            self.batches = list(batches)[::-1]

        def __iter__(self) -> Iterator[Tensor]:
            self.batches.reverse()
            return iter(self.batches)

    masks = learnt(model)
    batches = torch.cat(IMAGES).split(3)
    first = masks.save(tmp_path / "a", head=HEAD, max_bytes=2600, images=iter(batches)).read_bytes()
    masks.remove()
    masks = learnt(model)
    turning = Turning(batches)
    assert masks.save(tmp_path / "b", head=HEAD, max_bytes=2600, images=turning).read_bytes() == first


def test_metadata_says_what_it_lacks() -> None:
    assert spared({"a": 1}, 10, 20) == {"a": 1, "budget": {"max_bytes": 10, "whole": 20, "left_out": []}}
    found = spared({"rule": 1, "training": {"classes": ["x"]}, "flipped": 2}, 10, 20)
    assert found == {
        "training": {"classes": ["x"]}, "budget": {"max_bytes": 10, "whole": 20, "left_out": ["rule", "flipped"]}
    }  # fmt: skip
    assert spared({"training": "odd"}, 10, 20)["training"] == "odd"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(1e-6, 10.0))
def test_what_is_kept_at_a_price_is_what_is_worth_it(seed: int, price: float) -> None:
    """Against every choice there is, one part after the other."""
    torch.manual_seed(seed)
    masks = {"a": torch.rand(30, 20) > 0.2, "b": torch.ones(4, 5, dtype=torch.bool)}
    norms = {"n": quantised(torch.randn(12), 8, "n"), "m": quantised(0.01 * torch.randn(12), 8, "m")}
    worth = {n: torch.rand(m.shape) for n, m in masks.items()} | {n: torch.rand(12) for n in norms}
    trade = Trade(Learnt(masks, norms, {}, {}), worth)
    kept, changes = trade.at(price)
    off = int((~masks["a"]).sum())
    share = off / 600
    bits = (
        -(share * torch.log2(torch.tensor(share)) + (1 - share) * torch.log2(torch.tensor(1 - share))) / share
    )
    expected = masks["a"] | (worth["a"].square() / bits < price)
    assert (kept["a"] != expected).sum() <= 1  # one that is just worth it may be rounded either way
    assert bool(kept["b"].all())
    for name, exact in norms.items():

        def cost(values: Tensor, used: float, name: str = name, exact: Any = exact) -> float:
            left = (
                worth[name].double().square() * (values.double() - exact.values().double()).square()
            ).sum()
            return float(left) + price * used

        ours = changes.get(name)
        paid = cost(torch.zeros(12), 0) if ours is None else cost(ours.values(), ours.bits * 12 + 16)
        others = [cost(torch.zeros(12), 0), cost(exact.values(), 8 * 12 + 16)]
        others += [cost(quantised(exact.values(), b, "x").values(), b * 12 + 16) for b in (2, 3, 4, 5, 6)]
        assert paid <= min(others) + 1e-9
    # A higher price keeps less.
    assert trade.bytes(2 * price) <= trade.bytes(price) + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 8))
def test_clipping_is_never_farther(seed: int, bits: int) -> None:
    torch.manual_seed(seed)
    values, worth = torch.randn(3, 17).pow(3), torch.rand(3, 17)
    plain, ours = quantised(values, bits, "x"), clipped(values, bits, "x", worth)

    def error(q: Any) -> Tensor:
        return (worth.double() * (q.values().double() - values.double()).square()).sum(1)

    assert bool((error(ours) <= error(plain) + 1e-12).all())
    again = clipped(ours.values(), bits, "x", worth)
    assert torch.equal(again.values(), ours.values())


def test_a_copy_is_not_touched(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    twin, own = copy.deepcopy((model, masks))
    before = bits(twin)
    masks.save(tmp_path / "m", max_bytes=2200, images=IMAGES)
    assert bits(twin) == before
    own.remove()
    masks.remove()


def test_a_head_of_texts_is_judged_by_what_it_says(model: nn.Module) -> None:
    """And one without a bias: other rows say other things of the same features."""
    model.eval()
    rows = F.normalize(torch.randn(40, 10, generator=torch.Generator().manual_seed(3)), dim=1)
    with torch.no_grad():
        x = model(IMAGES[0])
    heads = {
        "text": ({"text": rows, "logit_scale": torch.tensor(20.0)}, 20 * F.normalize(x, dim=1) @ rows.T),
        "weight": ({"weight": rows}, x @ rows.T),
    }
    for name, (head, logits) in heads.items():
        worn = Worn(model, {}, {}, Learnt({}, {}, head, {}), IMAGES)
        assert worn.speaks
        assert worn.rounded(Learnt({}, {}, head, {}))[1] == pytest.approx(0, abs=1e-6)
        turned = {**head, name: rows.roll(1, dims=0)}
        said = (logits.log_softmax(1), logits.roll(1, dims=1).log_softmax(1))
        far = (said[0].exp() * (said[0] - said[1])).sum(1).mean()
        assert worn.rounded(Learnt({}, {}, turned, {}))[1] == pytest.approx(float(far), rel=1e-3)


def test_a_rounded_head_is_judged_by_images_that_it_was_not_rounded_for(model: nn.Module) -> None:
    model.eval()
    images = [torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(4))]
    worn = Worn(model, {}, {}, Learnt({}, {}, HEAD, {}), images)
    small = {"weight": clipped(HEAD["weight"], 2, "w"), "bias": clipped(HEAD["bias"], 8, "b")}
    kept, moved = worn.rounded(Learnt({}, {}, small, {}))
    with torch.no_grad():
        x = model(images[0])
    first = F.linear(x, HEAD["weight"], HEAD["bias"])
    far = []
    for parity in (0, 1):
        own = torch.arange(len(x)) % 2 == parity
        head = [t.values() for t in rounded_head(HEAD["weight"], 2, x[~own], first[~own], bias_bits=8)]
        p, q = first[own].softmax(1), F.linear(x[own], *head).softmax(1)
        far.append(float((p * (p / q).log()).sum(1).mean()))
    assert moved == pytest.approx(sum(far) / 2, rel=1e-3)
    assert far[0] != pytest.approx(far[1], rel=0.01)
    # What is stored is rounded for all of them.
    wanted = rounded_head(HEAD["weight"], 2, x, first, bias_bits=8)
    for name, tensor in zip(("weight", "bias"), wanted, strict=True):
        found = kept.head[name]
        assert isinstance(found, Quantised)
        assert tensor.equals(found)


@pytest.mark.parametrize(
    "head", [{"first": torch.randn(7, 10), "second": torch.randn(4, 7)}, {"weight": torch.randn(4, 9)}]
)
def test_a_head_that_nobody_can_judge_is_not_rounded(
    head: dict[str, Tensor], model: nn.Module, tmp_path: Path
) -> None:
    masks = learnt(model)
    whole = load(masks.save(tmp_path / "whole", head=head))
    found = load(
        masks.save(tmp_path / "small", head=head, max_bytes=whole.bytes()["file"] - 300, images=IMAGES)
    )
    assert found.metadata["budget"]["head"] == 32
    assert all(torch.equal(found.head[name], tensor) for name, tensor in head.items())


class Spare(nn.Module):
    """With a layer that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(64, 32), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_weights_that_nothing_uses_are_the_first_to_be_on_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    masks = MaskSet(Spare(), select="*.weight")
    masks.set_scores({name: torch.rand_like(score) - 0.2 for name, score in masks.scores.items()})
    whole = load(masks.save(tmp_path / "whole"))
    images = [torch.randn(16, 64)]
    with torch.no_grad():  # as a caller may have it
        path = masks.save(tmp_path / "small", max_bytes=whole.bytes()["file"] - 250, images=images)
    off = {name: int((~mask).sum()) for name, mask in load(path).masks().items()}
    assert off["spare.weight"] < 100 < off["used.weight"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(short=st.integers(1, 400), train_norms=st.booleans())
def test_a_little_less_than_the_whole_file_gives_up_a_little(
    model: nn.Module, tmp_path: Path, short: int, train_norms: bool
) -> None:
    model = copy.deepcopy(model)
    masks = learnt(model, train_norms=train_norms)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    whole = masks.save(folder / "whole").stat().st_size
    off = masks.status().off
    masks.save(folder / "small", max_bytes=whole - short, images=IMAGES)
    small = load(folder / "small")
    assert small.path.stat().st_size <= whole - short
    assert small.path.stat().st_size >= whole - short - max(700, whole // 3)
    if short < 60 and off:
        assert masks.status().off > off / 2


def test_the_one_weight_that_a_rule_keeps_on_stays_on(tmp_path: Path, model: nn.Module) -> None:
    masks = MaskSet(model, select=["conv2.weight", "conv3.weight"], norm_stats="frozen")
    shape = masks.scores["conv2.weight"].shape
    masks.set_scores(masks.scores | {"conv2.weight": -torch.rand(shape) - 1})
    path = tmp_path / "small"
    whole = masks.save(tmp_path / "whole").stat().st_size
    masks.save(path, max_bytes=whole - 100, images=IMAGES)
    found = load(path).masks()
    assert all(torch.equal(found[name], mask) for name, mask in masks.masks().items())


def test_weights_that_are_on_again_start_as_others_do(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model, train_norms=False)
    before = masks.masks()
    whole = masks.save(tmp_path / "whole").stat().st_size
    masks.save(tmp_path / "small", max_bytes=whole - 300, images=IMAGES)
    again = torch.cat([masks.scores[n][mask & ~before[n]] for n, mask in masks.masks().items()])
    assert len(again)
    assert (again == 1).all()  # where `Threshold` starts


def test_what_breaks_off_leaves_what_was_learnt(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = learnt(model)
    masks.round_norms()
    whole = masks.save(tmp_path / "whole").stat().st_size
    before = bits(model)

    def broken(self: Worn, learnt: Learnt) -> Any:
        self.wear(learnt)
        raise RuntimeError("no memory")

    monkeypatch.setattr(Worn, "rounded", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        masks.save(tmp_path / "small", max_bytes=whole - 500, images=IMAGES)
    assert bits(model) == before
    assert not (tmp_path / "small").exists()


def test_a_file_that_cannot_be_written_costs_no_flip(tmp_path: Path, model: nn.Module) -> None:
    masks = learnt(model)
    masks.round_norms()
    before, scores = bits(model), {name: score.clone() for name, score in masks.scores.items()}
    whole = masks.save(tmp_path / "whole").stat().st_size
    for most in (whole - 300, whole):
        with pytest.raises(OSError, match="whole"):
            masks.save(tmp_path / "whole" / "small", max_bytes=most, images=IMAGES)
        assert bits(model) == before
        assert all(torch.equal(score, scores[name]) for name, score in masks.scores.items())


def test_a_file_made_smaller_twice_says_all_that_it_lacks(tmp_path: Path, model: nn.Module) -> None:
    whole = 3344
    once = spared({"rule": 1, "flipped": 2, "training": {"rate": 1}}, 2200, whole)
    twice = spared(once, 2000, 2188)
    odd = spared({"budget": {"left_out": [["x"], "rule"], "whole": None}}, 2000, 2188)["budget"]
    assert odd == {"max_bytes": 2000, "whole": 2188, "left_out": ["rule"]}
    assert twice["budget"] == {"max_bytes": 2000, "whole": whole, "left_out": ["rule", "flipped", "training"]}

    masks = learnt(model)
    size = masks.save(tmp_path / "whole").stat().st_size
    masks.save(tmp_path / "small", max_bytes=size - 300, images=IMAGES)
    small = load(tmp_path / "small")
    assert small.metadata["budget"]["max_bytes"] == size - 300
    again = Learnt(small.masks(), small.norms, small.stored_head, small.metadata)
    write = writer(small.index.base, small.statistics, small.trained)
    assert in_bytes(10**6, again, Worn(model, masks.theta, {}, again, IMAGES), write).record is None
