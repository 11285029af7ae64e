"""A whole cascade on digits: its parts, its files, a stop between experts, and resume."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from selfmask.backbones.catalogue import DEFAULT
from selfmask.backbones.spec import build
from selfmask.cascades import experts as experts_module
from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.learning import CascadeRun, learn_cascade
from selfmask.cascades.network import Cascade
from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import MaskFileError, RunError, SelfmaskError
from selfmask.images.opening import open_data
from selfmask.maskfile.loading import load
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.provenance import command_of

QUIET = Console(quiet=True)


Tiny = Callable[..., CascadeSettings]


@pytest.fixture
def tiny(weights: Path) -> Tiny:
    """`tiny(folder, **changed)`: three steps at a rate at which weights do cross, on digits of 32 pixels.

    Of a random network's features a mixture of Gaussians makes one cluster: hence k-means.
    """
    values: dict[str, Any] = {
        "data": "digits", "objective": "supervised", "images": 150, "size": 32, "steps": 3, "batch": 16,
        "lr": 0.6, "warmup": 0.0, "experts": 2, "router": "kmeans", "width": 20, "evaluate": False,
        "larger": False, "pictures": False, "threads": 1, "backbone": "timm:test_resnet", "weights": weights,
    }  # fmt: skip
    return lambda folder, **changed: CascadeSettings(out=folder, **(values | changed))


@pytest.mark.parametrize(
    "wrong",
    [{"select": "resnt"}, {"rule": "topk", "density": 1.5}, {"objective_settings": {"target_size": 80}}],
)
def test_a_setting_that_cannot_be_blocks_no_folder(tmp_path: Path, tiny: Tiny, wrong: dict[str, Any]) -> None:
    with pytest.raises(SelfmaskError):
        learn_cascade(tiny(tmp_path / "c", **wrong), console=QUIET)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_probe")
def test_a_cascade_stopped_between_experts_ends_as_an_uninterrupted_one(
    tmp_path: Path, tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn_cascade(tiny(tmp_path / "whole"), console=QUIET)
    assert not whole.interrupted
    assert whole.experts == 2

    calls: list[Path] = []

    def stopping(
        backbone: Any, masks: Any, objective: Any, images: Any, settings: Any, folder: RunFolder, **kw: Any
    ) -> Any:
        calls.append(folder.path)
        if len(calls) == 2:

            def watch(step: int) -> dict[str, float]:
                if (
                    step == settings.steps - 1
                ):  # nothing is left to train of this one, and there may be others
                    signal.raise_signal(signal.SIGTERM)
                return {}

            return fit(backbone, masks, objective, images, settings, folder, **kw, watch=watch)
        return fit(backbone, masks, objective, images, settings, folder, **kw)

    monkeypatch.setattr(experts_module, "fit", stopping)
    part = learn_cascade(tiny(tmp_path / "part"), console=QUIET)
    assert part.interrupted
    assert (tmp_path / "part" / "expert-1" / "mask.safetensors").is_file()
    assert not (tmp_path / "part" / "expert-2" / "mask.safetensors").is_file()
    assert (tmp_path / "part" / "expert-2" / "checkpoint.safetensors").is_file()
    finished = (tmp_path / "part" / "expert-1" / "mask.safetensors").stat().st_mtime_ns
    with pytest.raises(RunError, match="not empty"):
        learn_cascade(tiny(tmp_path / "part"), console=QUIET)
    with pytest.raises(RunError, match="experts: 2 there, 3 here"):
        learn_cascade(tiny(tmp_path / "part", experts=3, resume=True), console=QUIET)

    document = learn_cascade(tiny(tmp_path / "part", resume=True, evaluate=True), console=QUIET).document()
    assert (tmp_path / "part" / "expert-1" / "mask.safetensors").stat().st_mtime_ns == finished
    assert len(calls) == 3  # only the unfinished expert was trained again
    _same_masks(whole, tmp_path / "part")
    _what_it_says(document)
    assert document["result"]["rows"]["rival"]["ours"].startswith("conditional")
    monkeypatch.setenv("SELFMASK_WEIGHTS", str(weights.parent))
    _embeds(tmp_path / "part")
    _stopped_again(tiny(tmp_path / "part", resume=True, width=5), monkeypatch)


def _stopped_again(settings: CascadeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished stays, where one that makes it anew with another fusion is stopped."""
    file = settings.folder() / "cascade.safetensors"
    before = file.read_bytes()

    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Cascade, "member_features", stopped)
        with pytest.raises(KeyboardInterrupt):
            learn_cascade(settings, console=QUIET)
    assert file.read_bytes() == before
    assert not list(settings.folder().glob(".draft*"))


def _same_masks(whole: CascadeRun, folder: Path) -> None:
    one, other = load_cascade(whole.file), load_cascade(folder / "cascade.safetensors")
    for number in range(3):
        mine, theirs = one.member(number).masks(), other.member(number).masks()
        assert all(torch.equal(mask, theirs[name]) for name, mask in mine.items())
        assert number == 0 or any(
            not torch.equal(mask, one.dispatcher.masks()[name]) for name, mask in mine.items()
        )


def _what_it_says(document: dict[str, Any]) -> None:
    result = document["result"]
    names = [row["name"] for row in result["rows"]["rows"]]
    assert "pretrained, whitened" in names
    assert [name for name in names if not name.startswith("pretrained, ")] == [
        "pretrained", "statistics only", "self-masked", "self-masked, whitened", "conditional", "unconditional",
    ]  # fmt: skip
    own = result["cascade"]
    assert [own["passes"][name] for name in names] == [1] * (len(names) - 2) + [2, 3]
    assert sum(cluster["images"] for cluster in own["clusters"]) == 150
    assert all(cluster["covered"][-1] == pytest.approx(1) for cluster in own["clusters"])
    assert own["storage"]["masks"] < own["storage"]["separate"]


def _embeds(folder: Path) -> None:
    """Without being told the backbone, from the file alone."""
    cascade = load_cascade(folder / "cascade.safetensors")
    test = open_data("digits").test
    assert test is not None
    images = test.subset(range(12))
    x = cascade.embed(images)
    # The rate of this test leaves the features few directions; the fusion keeps no more than there are.
    assert x.shape == (12, cascade.fusions["conditional"].width)
    assert 1 <= x.shape[1] <= 20
    assert float((cascade.embed(images.subset([3])) - x[3]).abs().max()) < 1e-3
    assert load(folder / "dispatcher" / "mask.safetensors").names == cascade.dispatcher.names
    with pytest.raises(RunError, match="holds a cascade, which embed, predict"):
        RunFolder(folder).mask()
    with pytest.raises(MaskFileError, match="is a cascade and no mask"):
        load(folder / "cascade.safetensors")


@pytest.mark.slow
def test_an_expert_starts_as_the_dispatcher_to_the_last_statistic(
    tmp_path: Path, tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, torch.Tensor] = {}

    def fit(backbone: Any, *_: Any, **__: Any) -> Any:
        started.update({name: tensor.clone() for name, tensor in backbone.module.state_dict().items()})
        raise RunError("that is enough")

    monkeypatch.setattr(experts_module, "fit", fit)
    with pytest.raises(RunError, match="that is enough"):
        learn_cascade(tiny(tmp_path / "run", norm_stats="adapt", train_norms=True), console=QUIET)
    mask = load(tmp_path / "run" / "dispatcher" / "mask.safetensors")
    assert mask.statistics
    assert any(bool(change.steps.any()) for change in mask.norms.values())
    base = build("timm:test_resnet", weights=weights).module
    mask.apply(base)
    expected = base.state_dict()
    assert started.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in started.items())


@pytest.mark.slow
def test_an_expert_stopped_for_the_harm_it_does_starts_anew_at_another_rate(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool, float]] = []

    def harm(step: int) -> dict[str, float]:
        if step > 0:
            raise RunError("the loss rose")
        return {}

    def watched(
        backbone: Any, masks: Any, objective: Any, images: Any, settings: Any, folder: RunFolder, **kw: Any
    ) -> Any:
        calls.append((folder.path.name, kw["resume"], settings.rate))
        watch = harm if folder.path.name == "expert-2" and settings.rate == 0.6 else None
        return fit(backbone, masks, objective, images, settings, folder, **kw, watch=watch)

    monkeypatch.setattr(experts_module, "fit", watched)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"expert 2: the loss rose\. .*--resume.*--expert-lr \(0\.15 say\)"):
        learn_cascade(tiny(folder, checkpoint_every=1), console=QUIET)
    finished = (folder / "expert-1" / "mask.safetensors").stat().st_mtime_ns
    # The same again goes on from the checkpoint, to the same end; another rate starts anew.
    with pytest.raises(RunError, match="expert 2: the loss rose"):
        learn_cascade(tiny(folder, checkpoint_every=1, resume=True), console=QUIET)
    run = learn_cascade(tiny(folder, expert_lr=0.15, resume=True), console=QUIET)
    assert calls == [
        ("expert-1", False, 0.6), ("expert-2", False, 0.6), ("expert-2", True, 0.6), ("expert-2", False, 0.15),
    ]  # fmt: skip
    assert (folder / "expert-1" / "mask.safetensors").stat().st_mtime_ns == finished
    assert run.result is not None
    assert run.result.cascade is not None
    assert [trained["rate"] for trained in run.result.cascade.expert_training] == [0.6, 0.15]


@pytest.mark.slow
def test_finished_experts_survive_kill_9(tmp_path: Path, tiny: Tiny, start: Callable[..., Any]) -> None:
    folder = tmp_path / "run"
    settings = tiny(folder)
    first, second = (folder / f"expert-{number}" / "mask.safetensors" for number in (1, 2))
    process = start(command_of(settings, "cascade")[1:], tmp_path / "output")
    while process.running and not first.is_file():
        time.sleep(0.02)
    process.send(signal.SIGKILL)
    _, said = process.end()
    assert first.is_file(), said
    assert not second.is_file()
    kept = {path: path.stat().st_mtime_ns for path in (first, folder / "router.safetensors")}
    run = learn_cascade(tiny(folder, resume=True), console=QUIET)
    assert run.experts == 2
    assert second.is_file()
    member = load_cascade(run.file).member(1).masks()
    assert all(torch.equal(member[name], mask) for name, mask in load(first).masks().items())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_two_processes_learn_one_cascade_and_the_first_says_so(
    tmp_path: Path, tiny: Tiny, start: Callable[..., Any], free_port: int
) -> None:
    default = {"backbone": DEFAULT, "weights": None, "router": "gmm"}
    words = command_of(tiny(tmp_path / "run", images=40, experts=1, steps=1, **default), "cascade")[1:]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "WORLD_SIZE": "2"}
    ranks = [
        start(words, tmp_path / f"said-{rank}", **meeting, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]
    (status, said), (other, silent) = [rank.end() for rank in ranks]
    assert (status, other) == (0, 0), said + silent
    assert said.count("part of the file") == 1
    assert "part of the file" not in silent
    assert load_cascade(tmp_path / "run" / "cascade.safetensors").experts == 1
