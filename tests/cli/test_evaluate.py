"""`selfmask evaluate`: the run's own split unless told otherwise, a word where it is not, and a row a size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selfmask
from selfmask.cli import main
from selfmask.cli.runs import show_evaluation
from selfmask.errors import RunError, SettingsError
from selfmask.features.rows import MASKED, PRETRAINED


@pytest.mark.slow
def test_it_measures_what_the_run_measured_and_says_where_a_mask_has_seen_the_images(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = selfmask.adapt(
        "digits", out=tmp_path / "run", backbone="timm:test_resnet", weights=weights, size=32, images=120, steps=4,
        seed=1, threads=1, statistics=False, larger=False,
    )  # fmt: skip
    assert run.rows is not None
    again = selfmask.evaluate(tmp_path / "run", weights=weights, statistics=False)
    for name in (PRETRAINED, MASKED):
        assert again.rows[name].knn == run.rows[name].knn
        assert again.rows[name].probe == run.rows[name].probe
    assert (again.seen, again.notes) == (0, ())

    # Another seed draws other test images, most of them among those that the run was trained on.
    other = selfmask.evaluate(tmp_path / "run", "digits", seed=0, weights=weights, statistics=False)
    assert other.seen is not None
    assert 0 < other.seen < other.rows.images
    (note,) = other.notes
    assert f"learnt on {other.seen} of these {other.rows.images} test images" in note

    # Images of other classes: the mask's own head says nothing of them.
    for place in range(24):
        folder = tmp_path / "letters" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    letters = selfmask.evaluate(run.mask, str(tmp_path / "letters"), weights=weights, statistics=False)
    assert letters.rows[MASKED].head is None
    assert letters.notes == (
        "the mask's own head is not measured: it tells 10 classes (0, 1, 2, …) apart, the images are 2 classes (a, b)",
    )
    assert letters.document()["notes"] == list(letters.notes)

    # A mask file by itself has the rule, but not the place of its data.
    words = ["evaluate", str(run.mask), "--data", "digits", "--weights", str(weights), "--no-statistics"]
    capsys.readouterr()
    assert main([*words, "--size", "24,32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seen_in_training"] == 0
    assert [row["name"] for row in found["rows"]] == [
        "pretrained, 32 px", "pretrained, 32 px, whitened", "pretrained, 24 px", "pretrained, 24 px, whitened",
        "masked, 32 px", "masked, 32 px, whitened", "masked, 24 px", "masked, 24 px, whitened",
    ]  # fmt: skip
    # It is on the mask's own size, whatever it was asked for first.
    assert "The masked network at 32 px is" in found["verdict"]["sentence"]
    assert "on the pretrained features at 32 px" in found["verdict"]["sentence"]
    expected = selfmask.evaluate(run.mask, "digits", (24, 32), weights=weights, statistics=False)
    assert expected.document()["rows"] == found["rows"]
    show_evaluation(expected)
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(found["verdict"]["sentence"])
    assert main([*words, "--size", "24"]) == 0
    assert "The masked network is" in " ".join(capsys.readouterr().out.split())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").touch()
    with pytest.raises(RunError, match=r"its checkpoint lies there\. The same command with --resume goes on"):
        selfmask.evaluate(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"there is no .*nowhere"):
        selfmask.evaluate(tmp_path / "nowhere", "digits")
    with pytest.raises(SettingsError, match="name the images to measure on"):
        selfmask.evaluate(tmp_path / "mask.safetensors")
