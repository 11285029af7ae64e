"""The wheel has all that the package reads at run time; the citation and the container name what there is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from selfmask.cli import COMMANDS
from selfmask.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    # A copy: setuptools leaves a folder behind beside what it builds from.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    source = {
        path.relative_to(ROOT / "src").as_posix(): path
        for path in (ROOT / "src/selfmask").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name, path in source.items():
        copy = tmp_path / "src" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "."]
    built = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = next((tmp_path / "dist").glob(f"selfmask-{VERSION}-py3-none-any.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    assert not sorted(set(source) - held)
    assert {"selfmask/py.typed", "selfmask/__init__.pyi", "selfmask/maskfile/schema.json"} <= held
    assert any(name.endswith(".html") for name in held)
    assert (
        "selfmask = selfmask.cli:main"
        in zipfile.ZipFile(wheel).read(f"selfmask-{VERSION}.dist-info/entry_points.txt").decode()
    )


def test_the_citation() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(said["version"]) == VERSION
    assert said["license"] == "Apache-2.0"
    assert all(set(author) == {"name"} for author in said["authors"])
    (paper,) = said["references"]
    assert (paper["year"], paper["identifiers"][0]["value"]) == (2024, "arXiv:2409.07577")
    assert "url" not in str(said)


def test_the_container_starts_a_command_that_exists() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["selfmask", "serve"]' in text
    assert "serve" in COMMANDS
    copied = [word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
