"""A folder with the images, runs and masks that examples and pages speak of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import selfmask

Pictures = Callable[..., None]


@pytest.fixture(autouse=True)
def _quick_probe(quick_probe: None) -> None:
    """What a probe is worth is told elsewhere."""


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """`pictures(folder, count, classes=True)`: so many digits of two classes, 32 px, in a folder a class or in one."""
    images = selfmask.open_data("digits").train
    places = [place for place, label in enumerate(images.labels.tolist()) if label < 2]

    def write(folder: Path, count: int, *, classes: bool = True) -> None:
        for place in places[:count] if classes else places[-count:]:
            where = folder / str(int(images.labels[place])) if classes else folder
            where.mkdir(parents=True, exist_ok=True)
            pixels = images.image(place).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).resize((32, 32)).save(where / f"{images.names[place]}.png")

    return write


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """photos/ of two classes, new/ with a.png and two more, runs/photos, runs/other, and their masks in masks/.

    Not to be written to: `here` is a copy.
    """
    folder = tmp_path_factory.mktemp("prepared")
    pictures(folder / "photos", 44)
    pictures(folder / "new", 3, classes=False)
    for letter, path in zip("abc", sorted((folder / "new").iterdir()), strict=True):
        path.rename(path.with_stem(letter))
    (folder / "masks").mkdir()
    for seed, name, site in ((0, "photos", "north"), (1, "other", "south")):
        run = selfmask.adapt(
            str(folder / "photos"), out=folder / "runs" / name, size=32, steps=3, batch=8, lr=0.3, threads=1,
            seed=seed, evaluate=False,
        )  # fmt: skip
        shutil.copy(run.mask, folder / "masks" / f"{site}.mask.safetensors")
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `prepared`, in which the test stands."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    # The run says where its images lay, and the copy's are those.
    monkeypatch.chdir(folder)
    return folder
