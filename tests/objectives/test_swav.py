"""SwAV against lightly's pieces (bias zero), the queue, the frozen prototypes, the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss.swav_loss import SwaVLoss
from torch import Tensor, nn

from selfmask.errors import SettingsError
from selfmask.objectives.base import Batch
from selfmask.objectives.queue import EmbeddingQueue
from selfmask.objectives.swav import PAPER, Swav, SwavSettings, swapped_prediction

WIDTH, BATCH = 24, 8
SMALL = SwavSettings(
    prototypes=6, dim=5, start="random", large=16, small=8, count=(2, 3), split=0.14, least=0.05, queue=0, watch=False
)  # fmt: skip


class Net(nn.Module):
    """The least backbone: pools any size and is linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)).tanh()


def batch_of(objective: Swav, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(BATCH, 3, v.size, v.size, generator=generator) for v in objective.views]
    return Batch(views, torch.full((BATCH,), -1), torch.arange(BATCH))


def lightly_loss(net: Net, objective: Swav, batch: Batch, queued: list[Tensor] | None) -> Tensor:
    prototypes = nn.Linear(5, 6)
    prototypes.weight = objective.projector.prototypes.weight
    nn.init.zeros_(prototypes.bias)
    scores = [prototypes(objective.projector.embed(net(view))) for view in batch.views]
    rows = None if queued is None else [prototypes(z).detach() for z in queued]
    return SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(
        scores[:2], scores[2:], rows
    )


@pytest.mark.parametrize("count", [(2, 0), (2, 3), (3, 2)])
@pytest.mark.parametrize("queue", [0, 2 * BATCH])
def test_loss_and_gradient_equal_lightlys(count: tuple[int, int], queue: int) -> None:
    net = Net()
    objective = Swav(WIDTH, 64, 16, replace(SMALL, count=count, queue=queue, queue_from=0.0), batch=BATCH)
    for past in range(2):  # fill the queue
        objective.loss(net, batch_of(objective, 100 + past), past, 10)
    queued = None
    if objective.queue is not None:
        assert objective.queue.full
        queued = [z.clone() for z in objective.queue.embeddings]
    batch = batch_of(objective)
    loss, _ = objective.loss(net, batch, 2, 10)
    parameters = [*net.parameters(), *objective.parameters()]
    found = torch.autograd.grad(loss, parameters)
    if count[0] == 2:
        other = lightly_loss(net, objective, batch, queued)
    else:
        scores = [objective.projector.score(objective.projector.embed(net(view))) for view in batch.views]
        rows = None if queued is None else [objective.projector.score(z).detach() for z in queued]
        other = SwaVLoss(0.1, 3, 0.05)(scores[:3], scores[3:], rows)
    wanted = torch.autograd.grad(other.sum(), parameters)
    assert torch.allclose(loss, other, atol=1e-5)
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in found)


def test_no_view_predicts_its_own_code() -> None:
    scores = [torch.randn(4, 3, requires_grad=True) for _ in range(3)]
    code = torch.softmax(torch.randn(4, 3), dim=1)
    swapped_prediction(scores, [code], 0.1).backward()
    assert scores[0].grad is None or not scores[0].grad.any()
    assert scores[1].grad is not None
    assert scores[1].grad.any()


def test_prototypes_stay_on_the_sphere_and_are_frozen_at_first() -> None:
    net, objective = Net(), Swav(WIDTH, 64, 16, replace(SMALL, frozen=0.3), batch=BATCH)
    sgd = torch.optim.SGD(objective.parameters(), lr=0.5, weight_decay=0.1)
    before = objective.projector.prototypes.weight.detach().clone()
    for step in range(10):
        loss, _ = objective.loss(net, batch_of(objective, step), step, 10)
        assert torch.allclose(objective.projector.prototypes.weight.norm(dim=1), torch.ones(6), atol=1e-6)
        sgd.zero_grad()
        loss.backward()
        objective.before_step(step, 10)
        sgd.step()
        moved = not torch.allclose(objective.projector.prototypes.weight, before, atol=1e-6)
        assert moved == (step >= 3)


def test_the_queue_starts_at_its_share_of_the_run_and_keeps_the_newest_first() -> None:
    net, objective = Net(), Swav(WIDTH, 64, 16, replace(SMALL, queue=2 * BATCH, queue_from=0.5), batch=BATCH)
    queue = objective.queue
    assert queue is not None
    for step in range(10):
        objective.loss(net, batch_of(objective, step), step, 10)
        assert int(queue.held) == max(0, step - 4) * BATCH
        assert queue.full == (step >= 6)
    newest = objective.projector.embed(net(batch_of(objective, 9).views[1]))
    assert torch.allclose(queue.embeddings[1, :BATCH], newest, atol=1e-6)


def test_a_checkpoint_brings_back_head_queue_and_watch() -> None:
    net, settings = Net(), replace(SMALL, queue=2 * BATCH, queue_from=0.0)
    one = Swav(WIDTH, 64, 16, settings, batch=BATCH)
    for step in range(3):
        one.loss(net, batch_of(one, step), step, 10)
    other = Swav(WIDTH, 64, 16, settings, batch=BATCH)
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    mine, _ = one.loss(net, batch_of(one, 3), 3, 10)
    theirs, _ = other.loss(net, batch_of(one, 3), 3, 10)
    assert torch.equal(mine, theirs)


def test_kmeans_start_learns_from_the_first_step() -> None:
    images, generator = 120, torch.Generator().manual_seed(1)
    x = torch.randn(6, WIDTH, generator=generator).repeat_interleave(images // 6, dim=0)
    x = x + 0.05 * torch.randn(images, WIDTH, generator=generator)
    objective = Swav(WIDTH, images, 16, replace(SMALL, start="kmeans"), batch=BATCH)
    objective._start_from(x)
    scores = objective.projector.score(objective.projector.embed(x))
    groups = scores.argmax(dim=1).view(6, -1)
    assert all(len(set(group.tolist())) == 1 for group in groups)
    assert len({group[0].item() for group in groups}) == 6
    # The main axes are the features' own, from their mean on.
    assert float(x.mean(dim=0).abs().max()) > 0.1
    assert float(objective.projector.projection(x).detach().mean(dim=0).abs().max()) < 1e-5


def test_the_share_of_prototypes_in_use_is_of_the_last_steps() -> None:
    """A running mean of what is predicted, about twenty steps long, from all of them equally on."""
    net, objective = Net(), Swav(WIDTH, 64, 16, SMALL, batch=BATCH)
    usage = np.full(len(objective.usage), 1 / len(objective.usage))
    for step in range(5):
        batch = batch_of(objective, step)
        with torch.no_grad():
            objective.projector.normalise()
            scores = objective.projector.score(objective.projector.embed(net(batch.views[0])))
        _, figures = objective.loss(net, batch, step, 10)
        scaled = np.exp(scores.double().numpy() / SMALL.temperature)
        usage = 0.95 * usage + 0.05 * (scaled / scaled.sum(axis=1, keepdims=True)).mean(axis=0)
        assert figures["usage"] == pytest.approx(
            np.exp(-(usage * np.log(usage)).sum()) / len(usage), rel=1e-4
        )


def test_the_paper_preset_is_the_papers() -> None:
    objective = Swav(2048, 50_000, 224, PAPER)
    sizes = [(view.size, view.scale) for view in objective.views]
    assert sizes == [(224, (0.14, 1.0))] * 2 + [(96, (0.05, 0.14))] * 6
    view = objective.views[0]
    assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (
        0.8,
        0.8,
        0.8,
        0.8,
        0.2,
    )
    assert (view.grey, view.blur, view.flip) == (0.2, 0.5, 0.5)
    assert objective.projector.prototypes.weight.shape == (500, 128)
    assert objective.projector.prototypes.bias is None
    assert objective.queue is not None
    assert objective.queue.embeddings.shape == (2, 512, 128)
    assert (PAPER.temperature, PAPER.epsilon, PAPER.iterations, PAPER.queue_from) == (0.1, 0.05, 3, 30 / 150)
    assert (PAPER.head_rate, PAPER.head_decay) == (0.15, 1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prototypes": 1}, "at least 2 prototypes"),
        ({"projection": "mlp", "start": "kmeans"}, "no main axes"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"queue_from": 1.5}, "share of the run"),
        ({"count": (1, 0)}, "2 in all"),
        ({"temperature": float("inf")}, "positive and finite"),
        ({"head_rate": float("nan")}, "head_rate is finite"),
        ({"large": 0}, "number of pixels"),
        ({"least": 0.0}, "share of the area"),
        ({"least": 0.5, "split": 0.2}, "at most split"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(SMALL, **changes)  # pyright: ignore[reportArgumentType]


def test_a_queue_that_is_no_multiple_of_the_batch_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"multiple of the batch of 8, got 12: take 16"):
        Swav(WIDTH, 64, 16, replace(SMALL, queue=12), batch=8)
    queue = EmbeddingQueue(12, 1, 4)
    with pytest.raises(SettingsError, match="multiple of the batch size"):
        queue.push(torch.zeros(1, 5, 4))


def test_nothing_is_kept_of_the_head_unless_asked() -> None:
    assert Swav(WIDTH, 64, 16, SMALL).head() == {}
    kept = Swav(WIDTH, 64, 16, replace(SMALL, keep=True)).head()
    assert kept["swav.prototypes.weight"].shape == (6, 5)


def test_large_and_small_crops_of_one_size_are_told_apart() -> None:
    objective = Swav(WIDTH, 1000, 32, batch=BATCH, short_side=200, multiple=32)  # a patch of 32 px
    assert [view.size for view in objective.views] == [32] * 8
    assert objective.large == 2


@pytest.mark.parametrize(
    ("changes", "large", "small"),
    [
        ({"least": 0.1}, (0.1, 1.0), None),
        ({"least": 0.5, "count": (2, 3)}, (0.5, 1.0), (0.5, 0.5)),
        ({"split": 0.2, "count": (2, 3)}, (0.2, 1.0), (0.2, 0.2)),
        ({"split": 0.6, "least": 0.3, "count": (2, 3)}, (0.6, 1.0), (0.3, 0.6)),
    ],
)
def test_shares_of_the_area_that_are_asked_for_are_taken(
    changes: dict[str, Any], large: tuple[float, float], small: tuple[float, float] | None
) -> None:
    objective = Swav(WIDTH, 1000, 64, SwavSettings(**changes), batch=BATCH, short_side=32)
    assert objective.views[0].scale == large
    assert (objective.views[-1].scale if len(objective.views) > objective.large else None) == small


def test_small_crops_are_not_left_out_without_a_word() -> None:
    with pytest.raises(SettingsError, match=r"no small crops .* count=\(2, 6\)"):
        Swav(WIDTH, 1000, 64, SwavSettings(small=32), batch=BATCH, short_side=32)
