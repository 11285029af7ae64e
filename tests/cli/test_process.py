"""Commands in a process of their own: what another test has imported, or a slow import, cannot hide there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selfmask.cli import COMMANDS
from selfmask.maskset import MaskSet


def selfmask(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfmask", *map(str, words)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_pull_from_a_hub_that_is_not_there(tmp_path: Path) -> None:
    found = selfmask("pull", "me/x", tmp_path / "x.safetensors", HF_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 2
    assert "cannot be reached" in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"pull", "data", "demo"}))
def test_each_command_on_what_is_no_file(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]
) -> None:
    path = tmp_path / "junk.safetensors"
    path.write_bytes(b"no mask at all, and no images")
    rest = {
        "compare": [path], "combine": [path, "--out", tmp_path / "x"], "compact": ["digits", "--out", tmp_path / "x"],
        "apply": [tmp_path / "x"], "export": [tmp_path / "x.pt2"], "push": ["me/x"], "evaluate": ["--data", "digits"],
        "adapt": ["--out", tmp_path / "r"], "cascade": ["--out", tmp_path / "r"],
    }.get(name, [])  # fmt: skip
    words = [name, *map(str, [path, *rest])]
    said = tmp_path_factory.mktemp("said") / "said.txt"
    status, printed = start(words, said, HF_TOKEN="none", HF_ENDPOINT="http://127.0.0.1:9").end()
    assert status == 2, printed
    assert "Traceback" not in printed
    assert printed.startswith(f"selfmask {name}: ")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_help_and_a_path_that_is_not_there_import_no_torch(tmp_path: Path) -> None:
    code = "import sys; from selfmask.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for words, status in (
        (["--help"], 0),
        (["adapt", f"{tmp_path}/nowhere/"], 2),
        (["adapt", "nowhere"], 2),
        (["inspect", "no.safetensors"], 2),
    ):
        found = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
        )
        assert found.stdout.splitlines()[-1] == f"{status} False", found.stderr
    assert "there is no no.safetensors" in found.stderr


@pytest.mark.parametrize("words", [("predict", "--help"), ("evaluate", "--help"), ("inspect", "MASK")])
def test_without_a_network_no_library_of_networks_or_figures_is_imported(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """Each takes seconds."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    mask = MaskSet(model, select="0.weight").save(tmp_path / "mask.safetensors")
    given = [str(mask) if word == "MASK" else word for word in words]
    heavy = {"timm", "torchvision", "matplotlib", "scipy", "sklearn"}
    code = (
        "import sys; from selfmask.cli import main; status = main(sys.argv[1:]); "
        f"print(status, sorted({heavy} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert found.stdout.splitlines()[-1] == "0 []", found.stdout + found.stderr


@pytest.mark.parametrize("words", [["--help"], ["data", "list"], ["adapt", "--help"]])
def test_a_reader_that_goes_is_no_error(words: list[str]) -> None:
    """As `| head -1` does, or `| true`."""
    running = subprocess.Popen(
        [sys.executable, "-m", "selfmask", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    said = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 0, said
    assert said == b""


def test_json_is_json_whatever_the_terminal_writes(tmp_path: Path) -> None:
    masks = MaskSet(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), select="0.weight")
    path = masks.save(tmp_path / "m.safetensors", training={"data": "Bäume 😀"})
    for encoding in ("ascii", "cp1251", "utf-8"):
        found = selfmask("inspect", path, "--json", PYTHONIOENCODING=encoding)
        assert json.loads(found.stdout)["training"] == {"data": "Bäume 😀"}, encoding
