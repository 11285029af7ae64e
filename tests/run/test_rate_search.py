"""`adapt --search-lr`: the rate that does best on the images held out, and the very run that it would have been."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import DivergedError, RunError, SettingsError
from selfmask.maskfile.loading import load
from selfmask.run import rate_search
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.folder import RunFolder
from selfmask.run.loop import Fitted, fit
from selfmask.run.plan import make_plan
from selfmask.run.rate_search import MOST, next_rate
from selfmask.run.result import RateTried
from selfmask.run.settings import AdaptSettings


def settings(weights: Path, out: Path, **more: Any) -> AdaptSettings:
    short = AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, size=32, batch=16, images=400, steps=3,
        threads=1, lr=0.2, search_lr=True, spread=0.9, evaluate=False, held_out=0.15,
    )  # fmt: skip
    return replace(short, **more)


def said(given: AdaptSettings) -> tuple[Run, str]:
    written = io.StringIO()
    return learn_mask(given, Console(file=written, width=200)), written.getvalue()


@given(peak=st.integers(-8, 8), tie=st.booleans())
def test_the_ladder_finds_the_peak_or_stops(peak: int, tie: bool) -> None:
    tried: list[RateTried] = []
    while (rate := next_rate(tried, 0.03)) is not None:
        off = abs(torch.tensor(rate / 0.03).log2().item() - peak)
        tried.append(RateTried(rate, 0.5 if tie else 1 - off / 100, off))
    assert len({one.rate for one in tried}) == len(tried) <= MOST
    best = max(tried, key=lambda one: (one.right, -(one.loss or 0))).rate
    if -3 <= peak <= 4:  # as far as six trainings go
        assert best == 0.03 * 2.0**peak
    assert len(tried) >= 3


def test_what_diverged_is_below_everything() -> None:
    assert next_rate([RateTried(0.04, 0.0, 9.0), RateTried(0.08, 0.0, None)], 0.04) == 0.02


@pytest.fixture(scope="module")
def searched(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    with pytest.MonkeyPatch.context() as patched:  # quick_probe is there for each test, and this before them
        patched.setattr("selfmask.features.probe.PENALTIES", (0.1, 0.01))
        return said(settings(weights, tmp_path_factory.mktemp("runs") / "searched"))


@pytest.mark.slow
def test_the_run_is_that_of_the_best_rate(searched: tuple[Run, str], weights: Path, tmp_path: Path) -> None:
    run, text = searched
    folder, result = RunFolder(run.folder), run.result
    assert result is not None
    assert len(result.rates) >= 3
    best = max(result.rates, key=lambda one: (one.right, -(one.loss or 0)))
    assert result.training["rate"] == best.rate
    assert f"rate: {best.rate:.3g}, right on {best.right:.3f} of the images held out" in text
    assert folder.result() == result
    assert not folder.rates.exists()

    alone, _ = said(settings(weights, tmp_path / "alone", search_lr=False, lr=best.rate))
    one, other = load(run.mask), load(alone.mask)
    for name, mask in one.masks().items():
        assert torch.equal(mask, other.masks()[name])
    for name, tensor in one.head.items():
        assert torch.equal(tensor, other.head[name])


@pytest.mark.slow
def test_one_that_is_stopped_goes_on_where_it_was(
    searched: tuple[Run, str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = searched
    calls: list[float] = []

    def stopping(*args: Any, **more: Any) -> Fitted:
        calls.append(args[4].rate)
        if len(calls) == 2:
            fit(*args, **more)  # finished, and killed before it was judged
            return Fitted(3, True, 0.0)
        return fit(*args, **more)

    mine = settings(weights, tmp_path / "stopped")
    monkeypatch.setattr(rate_search, "fit", stopping)
    run, _ = said(mine)
    assert run.interrupted
    assert not RunFolder(tmp_path / "stopped").checkpoint.exists()
    resumed, _ = said(replace(mine, resume=True))
    assert calls[:3] == [0.2, calls[1], calls[1]]
    assert whole.result is not None
    assert resumed.result is not None
    assert resumed.result.rates == whole.result.rates
    for name, mask in load(whole.mask).masks().items():
        assert torch.equal(mask, load(resumed.mask).masks()[name])
    # And once more after its end: nothing is trained.
    calls.clear()
    again, _ = said(replace(mine, resume=True))
    assert calls == []
    assert again.result is not None
    assert again.result.rates == whole.result.rates


@pytest.mark.slow
def test_a_training_that_diverges_counts_as_the_worst(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*args: Any, **more: Any) -> Fitted:
        if args[4].rate > limit:
            raise DivergedError("too fast")
        return fit(*args, **more)

    monkeypatch.setattr(rate_search, "fit", diverging)
    limit = 0.3
    run, text = said(settings(weights, tmp_path / "some"))
    assert run.result is not None
    assert [one.loss is None for one in run.result.rates[:2]] == [False, True]
    assert "rate 0.4: it diverged" in text
    limit = 0.0
    with pytest.raises(DivergedError, match="every rate tried diverged; start again with --lr"):
        said(settings(weights, tmp_path / "none"))


def test_where_nothing_can_judge_it_is_refused(weights: Path, tmp_path: Path) -> None:
    given = settings(weights, tmp_path / "run")
    with pytest.raises(SettingsError, match="--objective contrast has no head"):
        make_plan(replace(given, objective="contrast"))
    with pytest.raises(
        SettingsError, match=r"none is, as --no-evaluate or --held-out asked: --held-out 0\.15"
    ):
        make_plan(replace(given, held_out=None))
    with pytest.raises(SettingsError, match="for a cascade give --lr"):
        CascadeSettings("digits", search_lr=True)


def test_a_damaged_record_is_named(weights: Path, tmp_path: Path) -> None:
    given = settings(weights, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.open(given.recorded(), resume=False)
    folder.rates_file.write_text('[{"rate": "fast"}]')
    with pytest.raises(RunError, match=r"rates\.json is damaged"):
        learn_mask(replace(given, resume=True), Console(quiet=True))
