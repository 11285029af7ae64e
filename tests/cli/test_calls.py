"""Each command from Python and by `--json`: the same document, because both make the same settings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import selfmask
from selfmask._common.calls import call
from selfmask.backbones.spec import build
from selfmask.cli import COMMANDS, main
from selfmask.errors import SettingsError
from selfmask.maskset import MaskSet
from selfmask.run.settings import AdaptSettings
from selfmask.tasks import data as data_task
from selfmask.tasks import demo as demo_task
from selfmask.tasks import publish

SPEC = "timm:test_resnet"
SMALL: dict[str, Any] = {
    "backbone": SPEC, "size": 32, "images": 64, "batch": 16, "steps": 2, "threads": 1, "evaluate": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def masks(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two masks with 1 % off at random."""
    folder, backbone = tmp_path_factory.mktemp("masks"), build(SPEC, weights=weights)
    paths = []
    for seed in range(2):
        own = MaskSet(backbone.module, norm_stats="frozen")
        random = torch.Generator().manual_seed(seed)
        own.set_scores({n: torch.rand(s.shape, generator=random) - 0.01 for n, s in own.scores.items()})
        about = {
            "backbone": backbone.describe(),
            "preprocessing": backbone.preprocessing.describe() | {"size": 32},
        }
        paths.append(
            own.save(folder / f"{seed}.safetensors", training={"data": "digits", "size": 32}, **about)
        )
        own.remove()
    return paths


def flags(settings: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        words += (
            [f"--no-{flag}"]
            if value is False
            else [f"--{flag}"]
            if value is True
            else [f"--{flag}", str(value)]
        )
    return words


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def same(document: dict[str, Any], shown: dict[str, Any], *apart: str) -> None:
    """Equal as JSON, but for `apart`, at whatever depth: times, and paths that the test itself makes differ."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: cut(v) for k, v in value.items() if k not in apart}
        return [cut(v) for v in value] if isinstance(value, list) else value

    assert cut(json.loads(json.dumps(document))) == cut(shown)
    assert document


def test_inspect_compare_combine_apply(
    masks: list[Path], weights: Path, tmp_path: Path, printed: Callable[..., dict[str, Any]]
) -> None:
    a, b = masks
    same(selfmask.inspect(a).document(), printed("inspect", a))
    same(selfmask.compare(str(a), str(b)).document(), printed("compare", a, b))  # type: ignore[arg-type]
    made = selfmask.combine([a, b], tmp_path / "x", "or")  # type: ignore[arg-type]
    same(
        made.document(),
        printed("combine", a, b, "--out", tmp_path / "y", "--operation", "or"),
        "file",
        "path",
    )
    applied = selfmask.apply(a, tmp_path / "w", weights=weights)
    same(applied.document(), printed("apply", a, tmp_path / "w", "--weights", weights))
    analysis = selfmask.analyze((a, b))
    same(analysis.document(), printed("analyze", a, b))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rule": "thresold"}, "rule is 'thresold', expected one of: 'threshold', 'topk', 'progressive'"),
        ({"preset": "papr"}, "preset is 'papr'"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected one of: 'adam', 'tensor-adam', 'sgd', None"),
        ({"steps": 2.5}, "steps is 2.5, expected one of: int, None"),
        ({"size": "64"}, "size is '64'"),
        ({"seed": True}, "seed is True, expected one of: int"),
    ],
)
def test_a_slip_does_not_become_another_setting(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        selfmask.adapt("digits", tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers() -> None:
    given: dict[str, Any] = {"seed": np.int64(3), "lr": np.float32(0.5), "epochs": 2}
    made = call(AdaptSettings, lambda settings: settings)("digits", **given)
    assert (made.seed, made.lr, made.epochs) == (3, 0.5, 2.0)
    assert type(made.seed) is int


def test_embed_predict_and_search(
    masks: list[Path], weights: Path, tmp_path: Path, printed: Callable[..., dict[str, Any]]
) -> None:
    made = selfmask.embed(str(masks[0]), "digits", out=tmp_path / "a.parquet", weights=weights, threads=1)
    words = [masks[0], "digits", "--out", tmp_path / "b.parquet", "--weights", weights, "--threads", "1"]
    same(made.document(), printed("embed", *words), "out")
    alone = selfmask.embed("digits", backbone=SPEC, size=32, out=tmp_path / "a.npy", weights=weights)
    words = ["digits", "--backbone", SPEC, "--size", "32", "--out", tmp_path / "b.npy", "--weights", weights]
    same(alone.document(), printed("embed", *words), "out")
    assert alone.record.made_by.digest != made.record.made_by.digest
    said = selfmask.predict(
        "digits", backbone=SPEC, size=32, out=tmp_path / "p.csv", weights=weights, data="digits", k=5
    )
    words = ["digits", "--backbone", SPEC, "--size", "32", "--out", tmp_path / "p.csv", "--weights", weights]
    same(said.document(), printed("predict", *words, "--data", "digits", "--k", "5"))
    image = tmp_path / "one.png"
    Image.new("RGB", (9, 9), (200, 9, 9)).save(image)
    found = selfmask.search(tmp_path / "a.parquet", str(image), k=3, out=tmp_path / "sheet.html")
    same(found.document(), printed("search", tmp_path / "a.parquet", "--query", image, "--k", "3", "--out",
                                   tmp_path / "sheet.html"))  # fmt: skip
    assert len(found.answers[0].found) == 3
    assert (tmp_path / "sheet.html").read_text().count("<li>") == 3 + len(found.notes)


@pytest.mark.slow
def test_export_and_compact(
    masks: list[Path], weights: Path, tmp_path: Path, printed: Callable[..., dict[str, Any]]
) -> None:
    exported = selfmask.export(masks[0], tmp_path / "m.pt2", weights=weights).document()
    same(exported, printed("export", masks[0], tmp_path / "n.pt2", "--weights", weights), "out", "bytes")
    settings: dict[str, Any] = {"images": 30, "steps": 1, "refine": 0, "weights": weights}
    small = selfmask.compact(masks[0], "digits", tmp_path / "s", **settings).document()
    same(small, printed("compact", masks[0], "digits", "--out", tmp_path / "t", *flags(settings)), "out")


@pytest.mark.slow
def test_adapt_report_and_cascade(
    weights: Path, tmp_path: Path, printed: Callable[..., dict[str, Any]]
) -> None:
    apart = ("seconds", "folder", "mask", "command", "next", "page", "cascade", "files", "metadata")
    run = selfmask.adapt("digits", out=tmp_path / "a", weights=weights, objective="supervised", **SMALL)
    words = ["--out", tmp_path / "b", "--weights", weights, "--objective", "supervised", *flags(SMALL)]
    same(run.document(), printed("adapt", "digits", *words), *apart)
    first, second = (selfmask.load(tmp_path / name / "mask.safetensors").masks() for name in "ab")
    assert all(torch.equal(bits, second[name]) for name, bits in first.items())
    page = selfmask.report(tmp_path / "a", images=0, weights=weights)
    shown = printed("report", tmp_path / "b", "--images", 0, "--weights", weights)
    same(page.document(), shown, *apart, "images_per_second", "figures")
    assert page.document()["figures"].keys() == shown["figures"].keys()

    more: dict[str, Any] = {**SMALL, "experts": 2, "width": 8, "pictures": False, "steps": 3, "lr": 0.1}
    found = selfmask.cascade("digits", out=tmp_path / "c", weights=weights, **more).document()
    words = ["--out", tmp_path / "d", "--weights", weights, *flags(more)]
    same(found, printed("cascade", "digits", *words), *apart)


def test_push_data_and_demo_take_the_same_settings(
    masks: list[Path], printed: Callable[..., dict[str, Any]]
) -> None:
    shown = publish.push(publish.PushSettings(masks[0], "me/leaves", preview=True))
    same(shown.document(), printed("push", masks[0], "me/leaves", "--preview"))
    same(data_task.run(data_task.DataSettings()).document(), printed("data", "list"))
    assert demo_task.DemoSettings().data == "digits"  # its run is adapt's, above; `make demo` shows it


def test_what_is_no_path_is_said_to_be_none(masks: list[Path], tmp_path: Path) -> None:
    mask, out = selfmask.load(masks[0]), tmp_path / "out.safetensors"
    with pytest.raises(
        SettingsError, match=r"^mask is the path of a file .* got Mask: .*mask\.apply\(model\)"
    ):
        selfmask.apply(mask, out)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match=r"^masks is the path"):
        selfmask.combine([masks[0], 3], out)  # pyright: ignore[reportArgumentType]
    assert not out.exists()


def test_a_call_has_the_fields_of_its_settings() -> None:
    made = call(AdaptSettings, lambda settings: settings)
    assert made("photos", size=64, out="runs/x") == AdaptSettings("photos", size=64, out=Path("runs/x"))  # type: ignore[arg-type]
    assert inspect.signature(selfmask.adapt) == inspect.signature(AdaptSettings)
    assert "Learn a mask" in (selfmask.adapt.__doc__ or "")
    with pytest.raises(TypeError, match="sizee"):
        made("photos", sizee=64)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="--size must be positive"):
        made("photos", size=0)


def test_every_command_is_named_here() -> None:
    """evaluate is in test_evaluate.py, pull in test_hub.py, serve in ../serve."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in text or name in ("evaluate", "pull", "demo", "serve") for name in COMMANDS)


def test_paths_and_words_stand_for_each_other(masks: list[Path], weights: Path, tmp_path: Path) -> None:
    embed: Any = selfmask.embed
    evaluate: Any = selfmask.evaluate
    analyze: Any = selfmask.analyze
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "a.png")
    shown = [
        embed(masks[0], spec, out=tmp_path / f"{k}.npy", weights=weights)
        for k, spec in enumerate((photos, str(photos)))
    ]
    assert shown[0].record == shown[1].record
    with pytest.raises(SettingsError, match="name the images to measure on"):  # and no TypeError for one size
        evaluate(masks[0], size=32)
    assert analyze(masks[0]).document() == analyze([str(masks[0])]).document()
