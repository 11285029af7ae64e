"""Whatever measures or draws may fail: mask and result of a run are written, and the result says what failed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from selfmask.backbones.spec import build
from selfmask.errors import RunError
from selfmask.masking.norm_weights import norm_weights
from selfmask.objectives.distil import Distil
from selfmask.reports.reading import read_run
from selfmask.run import finetuning
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.checkpoint import read_checkpoint
from selfmask.run.expected import in_words
from selfmask.run.folder import RunFolder
from selfmask.run.log import Log, Progress
from selfmask.run.loop import Fitted
from selfmask.run.settings import AdaptSettings


def short(weights: Path, out: Path, **more: Any) -> AdaptSettings:
    settings = AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, size=32, batch=16, images=64, steps=4,
        threads=1, statistics=False, larger=False, lr=0.3,
    )  # fmt: skip
    return replace(settings, **more)


def said(settings: AdaptSettings) -> tuple[Run, str]:
    written = io.StringIO()
    return learn_mask(settings, console=Console(file=written, width=200)), written.getvalue()


def fail(*_: Any, **__: Any) -> None:
    raise ValueError("a picture's own trouble \x1b[31m")


@pytest.mark.parametrize(
    ("part", "what"),
    [("draw_curves", "drawing the curves"), ("measure_masked", "measuring the masked network")],
)
def test_a_failure_is_a_warning(
    part: str, what: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"selfmask.run.adapt.{part}", fail)
    run, text = said(short(weights, tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    assert folder.mask().names
    result = folder.result()
    assert result == run.result
    assert result.warnings[-1] == f"{what} failed: a picture's own trouble \\x1b[31m"
    assert f"warning: {what} failed" in text
    assert result.rows is not None
    names = [row.name for row in result.rows.rows]
    base = ["pretrained", "pretrained, whitened"]
    assert names == [*base, "masked", "masked, whitened"] if part == "draw_curves" else base
    assert (result.verdict.kind == "not measured") == (part == "measure_masked")


def test_a_run_that_dies_while_it_is_measured_has_its_result(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfmask.run.adapt.measure_masked", die)
    with pytest.raises(KeyboardInterrupt):
        said(short(weights, tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    assert folder.mask().names
    assert folder.result().verdict.sentence == "Nothing was measured: the run was stopped before it could be."


def test_a_name_that_reads_as_mathematics_is_a_name(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / r"5$ off \frac$"
    for kind in (r"$\x$", "$$"):
        (data / kind).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / kind / f"{number}.png")
    run, _ = said(short(weights, tmp_path / "run", data=str(data), batch=4, steps=2))
    assert run.result is not None
    assert not any("failed" in warning for warning in run.result.warnings)
    assert RunFolder(tmp_path / "run").curves.stat().st_size > 1000


def test_finetuning_that_goes_wrong_costs_its_row_only(weights: Path, tmp_path: Path) -> None:
    run, _ = said(short(weights, tmp_path / "run", finetune=True, finetune_lr=1e30))
    assert run.result is not None
    assert run.result.warnings[-1].startswith("full fine-tuning failed: the loss is not a finite number")
    assert run.rows is not None
    assert [row.name for row in run.rows.rows] == [
        "pretrained",
        "pretrained, whitened",
        "masked",
        "masked, whitened",
    ]


def test_a_signal_while_a_rival_is_trained_ends_the_run(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = finetuning.fit

    def stopped(*given: Any, **more: Any) -> Fitted:
        return replace(fit(*given, **more), interrupted=True, steps=1)

    monkeypatch.setattr(finetuning, "fit", stopped)
    settings = short(weights, tmp_path / "run", finetune=True, norms_alone=True)
    run, text = said(settings)
    assert run.interrupted
    assert "full fine-tuning was stopped after step 1; the mask is learnt" in text
    table = RunFolder(tmp_path / "run").result().rows
    assert table is not None, "what was measured before the rival is kept"
    assert table.rows[-1].name == "masked, whitened"
    assert not (tmp_path / "run" / "norms").exists(), "nothing more is begun"
    monkeypatch.undo()
    again, _ = said(replace(settings, resume=True))
    assert again.rows is not None
    assert {row.name for row in again.rows.rows} >= {"masked", "full fine-tuning", "norm weights alone"}
    # Another call, which does not ask for them, or is stopped before it has them: they stay.
    last, _ = said(replace(settings, resume=True, finetune=False, norms_alone=False))
    assert last.rows == again.rows
    monkeypatch.setattr(finetuning, "fit", stopped)
    said(replace(settings, resume=True, norms_alone=False))
    assert RunFolder(tmp_path / "run").result().rows == again.rows


def test_a_finished_run_keeps_its_table_until_there_is_another(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = RunFolder(tmp_path / "run"), short(weights, tmp_path / "run")
    run, _ = said(settings)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfmask.run.adapt.measure_masked", die)
    with pytest.raises(KeyboardInterrupt):
        said(replace(settings, resume=True, finetune=True))
    assert run.rows is not None
    assert (folder.result().rows, folder.result().verdict) == (run.rows, run.result and run.result.verdict)
    again, _ = said(replace(settings, resume=True, evaluate=False))
    assert again.result is not None
    assert (again.rows, again.result.verdict) == (run.rows, run.result and run.result.verdict)
    # A mask that is another has no table yet.
    monkeypatch.setattr("selfmask.run.adapt._same_mask", lambda *_: False)
    with pytest.raises(KeyboardInterrupt):
        said(replace(settings, resume=True))
    assert folder.result().rows is None
    page = read_run(folder.path)
    assert not page.finished
    assert page.problems == (
        "The results hold no table. Nothing was measured: the run was stopped before it could be.",
    )


def test_a_rival_under_an_objective_without_labels_is_named_where_it_goes_wrong(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Distil.loss

    def collapsed(self: Distil, *given: Any) -> Any:
        if "finetune" in str(seen[-1]):
            raise RunError("the masks destroy the network")
        return loss(self, *given)

    fit, seen = finetuning.fit, [Path()]

    def noted(*given: Any, **more: Any) -> Fitted:
        seen.append(given[5].path)
        return fit(*given, **more)

    monkeypatch.setattr(Distil, "loss", collapsed)
    monkeypatch.setattr(finetuning, "fit", noted)
    run, _ = said(short(weights, tmp_path / "run", objective="distil", finetune=True))
    assert run.result is not None
    assert run.result.warnings[-1] == (
        "full fine-tuning failed: the masks destroy the network. But that was full fine-tuning (its rate: "
        "--finetune-lr), and not the masks"
    )


def test_norm_weights_that_diverge_are_not_told_of_another_rows_flag(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "NORMS_RATE", 1e30)
    run, _ = said(short(weights, tmp_path / "run", norms_alone=True, steps=6))
    assert run.result is not None
    assert "norm weights alone failed" in run.result.warnings[-1]
    assert "--finetune-lr" not in run.result.warnings[-1]


def test_norm_weights_alone(weights: Path, tmp_path: Path) -> None:
    # After full fine-tuning, from which they do not start.
    run, _ = said(short(weights, tmp_path / "run", norms_alone=True, finetune=True))
    assert run.rows is not None
    assert run.rows.rows[-1].name == "norm weights alone"
    assert run.rows.rows[-1].knn_gain is not None
    base = build("timm:test_resnet", weights=weights).module
    norms = norm_weights(base)
    trained = read_checkpoint(RunFolder(tmp_path / "run" / "norms").checkpoint)["module"]
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, trained[name]) != (name in norms), name


def test_a_mask_that_changes_nothing_is_said_to(weights: Path, tmp_path: Path) -> None:
    run, text = said(short(weights, tmp_path / "run", steps=1, lr=1e-6, evaluate=False))
    assert "warning: 1 steps cannot switch any weight off: their rates add up to 1e-06" in text
    assert run.result is not None
    assert run.result.warnings[-1].startswith("no weight is off, so the mask changes nothing")
    assert "warning: no weight is off" in text
    assert run.result.verdict.sentence == "Nothing was measured, as --no-evaluate asked."


def test_images_without_labels_show_how_far_the_objective_came(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "flat"
    data.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{number}.png")
    run, _ = said(short(weights, tmp_path / "run", data=str(data), batch=4, steps=12, lr=0.03))
    assert run.result is not None
    assert (run.result.verdict.kind, run.result.agreement) == ("not measured", None)  # too few to look at
    progress = run.result.progress
    assert progress is not None
    assert progress.figure == "cosine"
    steps, values = RunFolder(tmp_path / "run").log().curve("cosine")
    assert steps[0] == 0
    assert (progress.before, progress.after) == (values[0], values[-1])
    assert str(progress).startswith("the cosine on the batches trained on went from ")


def test_progress_is_of_the_ends() -> None:
    log = Log(tuple({"step": step, "loss": float(step)} for step in range(100)))
    assert log.progress() == Progress("loss", 2.0, 97.0)
    assert Log().progress() is None


def test_a_gradient_that_is_not_finite_ends_a_run_that_can_be_resumed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such step is skipped and counted; when they go on, the run ends by our own error, its checkpoint kept."""
    from selfmask.objectives.supervised import Supervised

    taken = Supervised.before_step

    def spoil(self: Supervised, step: int, steps: int) -> None:
        if step == 1 or step >= 6:
            self.linear.weight.grad.fill_(float("inf"))  # pyright: ignore[reportOptionalMemberAccess]
            for parameter in spoilt:
                parameter.grad = None if parameter.grad is None else parameter.grad * float("nan")
        taken(self, step, steps)

    spoilt: list[Any] = []
    started = Supervised.prepare

    def prepare(self: Supervised, backbone: Any, images: Any) -> list[str]:
        spoilt.extend(list(backbone.module.parameters())[:1])
        return started(self, backbone, images)

    monkeypatch.setattr(Supervised, "before_step", spoil)
    monkeypatch.setattr(Supervised, "prepare", prepare)
    settings = short(weights, tmp_path / "run", steps=12, evaluate=False, checkpoint_every=4, lr=0.01)
    with pytest.raises(
        RunError, match=r"step 10: the gradient of .* 5 steps in a row.*checkpoint .* is kept"
    ):
        said(settings)
    log = RunFolder(tmp_path / "run").log()
    assert log.steps[-1]["skipped"] == 2
    monkeypatch.setattr(Supervised, "before_step", taken)
    run, _ = said(replace(settings, resume=True))
    assert run.steps == 12


def test_the_time_of_the_whole_run_is_said_first(weights: Path, tmp_path: Path) -> None:
    _, text = said(short(weights, tmp_path / "run", steps=1, evaluate=False))
    assert text.index("expected: less than a minute in all") < text.index("masked:")
    assert in_words(50) == "about a minute in all"
    assert in_words(600) == "about 10 minutes in all"
    assert in_words(3 * 3600) == "about 3 hours in all"
