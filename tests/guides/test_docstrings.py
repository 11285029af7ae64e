"""The examples in public docstrings are true: each runs in a folder with the photographs and runs that it speaks of."""

from __future__ import annotations

import doctest
import importlib
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import selfmask
from selfmask.objectives.registry import OBJECTIVES

NEED_A_HUB = {"from_hub", "push_to_hub"}
"""They speak to a hub; tests/cli/test_hub.py makes the same calls to a stand-in of one."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of two classes, three images in new/, runs/photos and runs/other, and their masks in masks/."""
    folder = tmp_path_factory.mktemp("prepared")
    images = selfmask.open_data("digits").train
    places = [place for place, label in enumerate(images.labels.tolist()) if label < 2]
    for count, place in enumerate(places[:47]):
        where = folder / ("new" if count < 3 else f"photos/{int(images.labels[place])}")
        where.mkdir(parents=True, exist_ok=True)
        name = "abc"[count] if count < 3 else f"{count:02}"
        pixels = images.image(place).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((32, 32)).save(where / f"{name}.png")
    (folder / "masks").mkdir()
    for seed, name, site in ((0, "photos", "north"), (1, "other", "south")):
        run = selfmask.adapt(
            str(folder / "photos"), out=folder / "runs" / name, size=32, steps=3, batch=8, lr=0.3, threads=1, seed=seed,
            evaluate=False,
        )  # fmt: skip
        shutil.copy(run.mask, folder / "masks" / f"{site}.mask.safetensors")
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of it, to work in."""
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    before = dict(OBJECTIVES)
    yield
    OBJECTIVES.clear()
    OBJECTIVES.update(before)


def example_of(name: str) -> doctest.DocTest:
    found = getattr(selfmask, name)
    names = vars(importlib.import_module(found.__module__)) | {"selfmask": selfmask}
    return doctest.DocTestParser().get_doctest(inspect.getdoc(found) or "", dict(names), name, None, 0)


@pytest.mark.parametrize("name", selfmask.__all__)
def test_each_has_an_example(name: str) -> None:
    example = example_of(name)
    assert example.examples
    assert not any(doctest.SKIP in one.options for one in example.examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(selfmask.__all__) - NEED_A_HUB))
@pytest.mark.usefixtures("here")
def test_the_example_is_true(name: str) -> None:
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example_of(name), out=said.append)
    assert not said, "".join(said)
