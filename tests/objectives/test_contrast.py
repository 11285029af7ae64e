"""Contrast with a pull: its loss against lightly's NT-Xent, its pull, and that masks learn from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch.multiprocessing.spawn import start_processes

from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError
from selfmask.features import whitening
from selfmask.images.image_set import ImageSet
from selfmask.maskset import MaskSet
from selfmask.objectives import contrast
from selfmask.objectives.base import Batch, Choice, Objective
from selfmask.objectives.contrast import Contrast, ContrastSettings, info_nce
from selfmask.objectives.supervised import Supervised

BatchFor = Callable[[Objective, int], Batch]


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.7])
def test_the_loss_is_nt_xent(temperature: float) -> None:
    torch.manual_seed(0)
    one, other = (F.normalize(torch.randn(9, 7), dim=1) for _ in range(2))
    wanted = NTXentLoss(temperature=temperature)(one, other)
    assert torch.allclose(info_nce(one, other, temperature, torch.arange(len(one))), wanted, atol=1e-6)


def test_the_pull_is_the_cosine_to_the_untouched_features(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor
) -> None:
    objective = Contrast(
        backbone.width, len(images), 12, ContrastSettings(pull=2.0, target_size=20), flips=False
    )
    objective.prepare(backbone, images)
    batch = batch_for(objective, 0)
    loss, figures = objective.loss(backbone.module, batch, 0, 10)
    with torch.no_grad():
        found = [F.normalize(backbone.module(view), dim=1) for view in batch.views]
        near = F.normalize(
            backbone.module(backbone.preprocessing.normalise(images.subset(batch.indices).resized(20))), dim=1
        )
        cosine = torch.stack([(z * near).sum(dim=1).mean() for z in found]).mean()
        alone = info_nce(found[0], found[1], 0.1, torch.arange(len(found[0])))
    assert figures["cosine"] == pytest.approx(float(cosine), abs=2e-3)  # targets are kept in half precision
    assert float(loss.detach()) == pytest.approx(float(alone + 2.0 * (1 - cosine)), abs=4e-3)
    free = Contrast(backbone.width, len(images), 12, ContrastSettings(pull=0.0, whiten=False), flips=False)
    assert "none" in free.prepare(backbone, images)[0]
    assert torch.allclose(free.loss(backbone.module, batch, 0, 10)[0], alone, atol=1e-6)


@pytest.mark.parametrize("count", [6, 40])  # fewer images than the features are wide, and more
@pytest.mark.parametrize("pull", [0.0, 2.0])
def test_whitened_it_is_nt_xent_of_numpy_s_whitening(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor, count: int, pull: float
) -> None:
    images = images.subset(range(count))
    objective = Contrast(
        backbone.width, count, 12, ContrastSettings(pull=pull, target_size=20, whiten=True), flips=False
    )
    objective.prepare(backbone, images)
    batch = batch_for(objective, 0)
    indices = batch.indices % count
    once = torch.from_numpy(np.unique(indices.numpy(), return_index=True)[1])
    batch = Batch([view[once] for view in batch.views], batch.labels[once], indices[once])
    loss, _ = objective.loss(backbone.module, batch, 0, 10)
    with torch.no_grad():
        x = backbone.module(backbone.preprocessing.normalise(images.resized(20))).double().numpy()
        views = [backbone.module(view).double().numpy() for view in batch.views]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    kept = values > 1e-6 * values[0]
    variances = values[kept] ** 2 / (count - 1)
    scale = np.sqrt(variances + 0.1 * variances.mean())

    def white(y: np.ndarray) -> torch.Tensor:
        y = (y / np.linalg.norm(y, axis=1, keepdims=True) - unit.mean(axis=0)) @ axes[kept].T / scale
        return torch.from_numpy(y / np.linalg.norm(y, axis=1, keepdims=True))

    one, other, near = white(views[0]), white(views[1]), white(x)[batch.indices]
    expected = NTXentLoss(temperature=0.1)(one, other)
    expected += pull * (1 - (one * near + other * near).sum(dim=1).mean() / 2)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=0.02)  # targets are in half precision


@pytest.mark.parametrize(("stretched", "whitens"), [(1.0, False), (30.0, True)])
def test_uneven_features_are_whitened_unasked(
    backbone: Backbone, images: ImageSet, stretched: float, whitens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    drawn = torch.randn(len(images), backbone.width)
    drawn[:, 0] *= stretched
    monkeypatch.setattr(contrast, "take_targets", lambda targets, *_: Choice(targets.copy_(drawn), "drawn"))
    monkeypatch.setattr(whitening, "FEWEST", 10)
    monkeypatch.setattr(whitening, "UNEVEN", 0.5)
    said = {}
    for asked in (None, True, False):
        objective = Contrast(backbone.width, len(images), 12, ContrastSettings(whiten=asked))
        lines = " ".join(objective.prepare(backbone, images))
        said[asked] = "whitened" in lines
        # Advice only where the images say so.
        assert ("--epochs 18" in lines) == (whitens and asked is not False)
        x = torch.randn(4, backbone.width)
        assert torch.equal(objective.compared(x), F.normalize(x, dim=1)) != said[asked]
    assert said == {None: whitens, True: True, False: False}
    monkeypatch.setattr(whitening, "FEWEST", backbone.width + 2)  # of a few dimensions nobody can tell
    objective = Contrast(backbone.width, len(images), 12)
    assert "whitened" not in " ".join(objective.prepare(backbone, images))


def test_whitening_is_of_images_from_all_over_the_set(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set's first are one class, as often as not."""
    monkeypatch.setattr(contrast, "ENOUGH", 20)
    objective = Contrast(backbone.width, len(images), 12, ContrastSettings(whiten=True))
    objective.prepare(backbone, images)
    unit = F.normalize(objective.targets.float(), dim=1)
    assert torch.allclose(objective.mean, unit[::5].mean(dim=0), atol=1e-3)  # 90 / 20, rounded up
    assert not torch.allclose(objective.mean, unit[:20].mean(dim=0), atol=1e-3)


def test_views_change_colours_and_are_mirrored_only_where_they_may_be() -> None:
    view = Contrast(4, 10, 16, ContrastSettings(crop=0.4)).views[0]
    assert (view.scale, view.flip, view.jitter, view.hue) == ((0.4, 1.0), 0.5, 0.8, 0.1)
    assert (view.brightness, view.contrast, view.saturation) == (0.4, 0.4, 0.2)
    lighter = Contrast(4, 10, 16, ContrastSettings(light=0.8)).views[0]
    assert (lighter.brightness, lighter.contrast, lighter.saturation) == (0.8, 0.8, 0.2)
    plain = Contrast(4, 10, 16, ContrastSettings(colours=0.0), flips=False).views[0]
    assert (plain.flip, plain.jitter, plain.grey) == (0.0, 0.0, 0.0)


def test_a_resumed_run_has_the_targets_and_their_whitening(
    backbone: Backbone, images: ImageSet, batch_for: BatchFor
) -> None:
    objective = Contrast(backbone.width, len(images), 12, ContrastSettings(pull=0.5, whiten=True))
    objective.prepare(backbone, images)
    objective.targets.copy_(objective.targets.roll(3, dims=1))
    other = Contrast(backbone.width, len(images), 12, objective.settings)
    other.load_state_dict(objective.state_dict())
    batch = batch_for(objective, 0)
    mine, theirs = (o.loss(backbone.module, batch, 0, 10)[0] for o in (objective, other))
    assert torch.equal(mine, theirs)


def test_masks_learn_from_it(backbone: Backbone, images: ImageSet, batch_for: BatchFor) -> None:
    objective = Contrast(backbone.width, len(images), 12, ContrastSettings(pull=0.5))
    objective.prepare(backbone, images)
    masks = MaskSet(backbone.module, select=lambda name, p: p.ndim == 4)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.02, betas=(0.9, 0.99))
    losses = []
    for step in range(120):
        loss, _ = objective.loss(backbone.module, batch_for(objective, step), step, 120)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert any(not mask.all() for mask in masks.masks().values())
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"pull": -1.0},
        {"target_size": 0},
        {"crop": 0.0},
        {"colours": 3.0},
        {"light": 1.5},
    ],
)
def test_settings_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        ContrastSettings(**changes)  # pyright: ignore[reportArgumentType]


TWICE = torch.tensor([0, 1, 2, 3, 4, 2, 5, 0])
"""Of a batch of eight two images are in it twice, once for each process."""


def _gradients(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    weight, x, y = _problem()
    share = slice(rank * 4, rank * 4 + 4)
    one, other = F.normalize(x[share] @ weight, dim=1), F.normalize(y[share] @ weight, dim=1)
    info_nce(one, other, 0.1, TWICE[share]).backward()
    assert weight.grad is not None
    dist.all_reduce(weight.grad)
    torch.save(weight.grad / 2, f"{folder}/{rank}.pt")
    dist.barrier()
    Path(folder, f"{rank}.left").touch()
    while not Path(
        folder, f"{1 - rank}.left"
    ).exists():  # gloo aborts one that still hears of another that left
        time.sleep(0.01)
    dist.destroy_process_group()


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randn(5, 6, requires_grad=True), torch.randn(8, 5), torch.randn(8, 5)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    start_processes(_gradients, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    weight, x, y = _problem()
    info_nce(F.normalize(x @ weight, dim=1), F.normalize(y @ weight, dim=1), 0.1, TWICE).backward()
    assert weight.grad is not None
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), weight.grad, atol=1e-6)


def test_an_image_that_is_in_a_batch_twice_is_not_told_apart_from_itself() -> None:
    """As where there are fewer images than a batch takes. The oracle counts view by view."""
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(5, 16, generator=generator), dim=1) for _ in range(2))
    images = [3, 0, 3, 1, 4]
    wanted = []
    for a, b in ((one, other), (other, one)):
        for at, image in enumerate(images):
            own = math.exp(float(a[at] @ b[at]) / 0.1)
            others = [k for k in range(5) if images[k] != image]
            rest = sum(math.exp(float(a[at] @ c[k]) / 0.1) for c in (one, other) for k in others)
            wanted.append(-math.log(own / (own + rest)))
    assert float(info_nce(one, other, 0.1, torch.tensor(images))) == pytest.approx(sum(wanted) / 10, rel=1e-5)
    perfect = F.normalize(torch.eye(4, 16), dim=1).repeat(4, 1)
    assert float(info_nce(perfect, perfect, 0.05, torch.arange(4).repeat(4))) < 1e-3


@pytest.mark.parametrize("kind", ["contrast", "supervised"])
def test_losses_stay_float32_in_mixed_precision(kind: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16))
    if kind == "contrast":
        objective: Any = Contrast(16, 6, 8, ContrastSettings(pull=0, whiten=False, watch=False))
    else:
        objective = Supervised(16, 3, 8)
    views = [torch.randn(6, 3, 8, 8) for _ in objective.views]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective.loss(module, Batch(views, torch.arange(6) % 3, torch.arange(6)), 0, 10)
    assert loss.dtype == torch.float32
    assert loss.to(torch.bfloat16) != loss, "it was rounded on the way"
