"""Every named data set's real loader on a small copy of its true layout: folders, formats, split files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from selfmask.errors import DataError
from selfmask.images.catalogue import CATALOGUE
from selfmask.images.named import overview
from selfmask.images.opening import open_data
from selfmask.images.sources import Reading
from selfmask.images.splits import Splits

Save = Callable[[Path, int], None]


@pytest.fixture
def save(paint: Any) -> Save:
    def write(path: Path, seed: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(seed, 20, 16).save(path)

    return write


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_coop(path: Path, **splits: list[list[Any]]) -> None:
    path.write_text(json.dumps(splits))


def opened(name: str, root: Path, **options: Any) -> Splits:
    """Half of the images of these small copies may be damaged, and nothing may be downloaded."""
    return open_data(name, root=root, download=False, reading=Reading(skip_limit=0.5), **options)


def sizes(splits: Splits) -> dict[str, int]:
    return {split: len(images) for split, images in splits.parts().items()}


@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_binary(tmp_path: Path, name: str, label_bytes: int) -> None:
    rng = np.random.default_rng(0)
    classes = ["airplane", "automobile", "bird"]
    if name == "cifar10":
        folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
        files = {f"data_batch_{k}.bin": 6 for k in range(1, 6)} | {"test_batch.bin": 3}
        write_lines(folder / "batches.meta.txt", [*classes, ""])
    else:
        folder = tmp_path / "cifar-100-binary"
        files = {"train.bin": 6, "test.bin": 3}
        write_lines(folder / "fine_label_names.txt", classes)
        write_lines(folder / "coarse_label_names.txt", ["a", "b"])
    records = {}
    for file, count in files.items():
        record = rng.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        record[:, :label_bytes] = np.arange(count)[:, None] % 3
        if label_bytes == 2:
            record[:, 0] = 1
        (folder / file).write_bytes(record.tobytes())
        records[file] = record
    splits = opened(name, tmp_path)
    assert sizes(splits) == {"train": sum(files.values()) - 3, "test": 3}
    assert splits.train.classes == tuple(classes)
    assert splits.train.labels[:6].tolist() == [0, 1, 2, 0, 1, 2]
    first = next(iter(records))
    for k in (0, 4):
        expected = records[first][k, label_bytes:].reshape(3, 32, 32)
        assert np.array_equal(splits.train.image(k).numpy(), expected)
    (folder / first).write_bytes((folder / first).read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged"):
        opened(name, tmp_path)
    (folder / first).unlink()
    with pytest.raises(DataError, match=re.escape(first)):
        opened(name, tmp_path)


def test_cifar10_as_class_folders(tmp_path: Path, save: Save) -> None:
    for split in ("train", "test"):
        for label in ("bird", "cat"):
            save(tmp_path / "cifar10" / split / label / "0.png", 0)
    assert sizes(opened("cifar10", tmp_path)) == {"train": 2, "test": 2}


def test_dtd(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "dtd"
    for label in ("banded", "zigzagged"):
        for k in range(1, 6):
            save(folder / "images" / label / f"{label}_{k:04d}.jpg", k)
    for file, numbers in (("train1", (1, 2)), ("val1", (3,)), ("test1", (4, 5))):
        lines = [f"{label}/{label}_{k:04d}.jpg" for label in ("banded", "zigzagged") for k in numbers]
        write_lines(folder / "labels" / f"{file}.txt", lines)
    splits = opened("dtd", tmp_path)
    assert sizes(splits) == {"train": 4, "validation": 2, "test": 4}
    assert splits.train.classes == ("banded", "zigzagged")
    assert splits.train.names[0] == "banded/banded_0001.jpg"
    (folder / "images" / "banded" / "banded_0002.jpg").write_bytes(b"\xff\xd8 damaged")
    (folder / "images" / "banded" / "banded_0004.jpg").unlink()
    splits = opened("dtd", tmp_path)
    assert sizes(splits) == {"train": 3, "validation": 2, "test": 3}
    assert {skipped.name for skipped in splits.train.skipped} == {
        "banded/banded_0002.jpg",
        "banded/banded_0004.jpg",
    }
    write_coop(
        folder / "split_zhou_DescribableTextures.json",
        train=[["banded/banded_0001.jpg", 0, "banded"], ["zigzagged/zigzagged_0005.jpg", 1, "zigzagged"]],
        val=[],
        test=[["zigzagged/zigzagged_0001.jpg", 1, "zigzagged"]],
    )
    splits = opened("dtd", tmp_path)
    assert sizes(splits) == {"train": 2, "test": 1}
    assert any("split_zhou_DescribableTextures.json" in note for note in splits.notes)


def test_eurosat(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "eurosat"
    for label in ("AnnualCrop", "Forest"):
        for k in range(1, 11):
            save(folder / "2750" / label / f"{label}_{k}.jpg", k)
    splits = opened("eurosat", tmp_path)
    assert sizes(splits) == {"train": 16, "test": 4}
    write_coop(
        folder / "split_zhou_EuroSAT.json",
        train=[["AnnualCrop/AnnualCrop_1.jpg", 0, "Annual Crop Land"], ["Forest/Forest_2.jpg", 1, "Forest"]],
        val=[["Forest/Forest_3.jpg", 1, "Forest"]],
        test=[["Forest/Forest_4.jpg", 1, "Forest"]],
    )
    splits = opened("eurosat", tmp_path)
    assert sizes(splits) == {"train": 2, "validation": 1, "test": 1}
    assert splits.train.classes == ("Annual Crop Land", "Forest")


@pytest.mark.parametrize("folder_name", ["oxford_flowers", "flowers-102"])
def test_flowers102(tmp_path: Path, save: Save, folder_name: str) -> None:
    folder = tmp_path / folder_name
    for k in range(1, 9):
        save(folder / "jpg" / f"image_{k:05d}.jpg", k)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 1, 1, 1, 2, 2, 2, 2]], dtype=np.uint8)})
    ids = {"trnid": np.array([[1, 5]]), "valid": np.array([[2, 6]]), "tstid": np.array([[3, 4, 7, 8]])}
    savemat(folder / "setid.mat", ids)
    splits = opened("flowers102", tmp_path)
    assert sizes(splits) == {"train": 2, "validation": 2, "test": 4}
    assert splits.train.labels.tolist() == [0, 1]
    assert len(splits.train.classes) in (2, 102)
    write_lines(folder / "cat_to_name.json", ['{"1": "pink primrose", "2": "orchid"}'])
    assert opened("flowers102", tmp_path).train.classes == ("pink primrose", "orchid")
    (folder / "setid.mat").unlink()
    assert sizes(opened("flowers102", tmp_path)) == {"train": 6, "test": 2}
    write_coop(
        folder / "split_zhou_OxfordFlowers.json",
        train=[["image_00001.jpg", 0, "pink primrose"], ["image_00008.jpg", 1, "orchid"]],
        val=[],
        test=[["image_00002.jpg", 0, "pink primrose"]],
    )
    assert sizes(opened("flowers102", tmp_path)) == {"train": 2, "test": 1}


@pytest.mark.parametrize("folder_name", ["oxford_pets", "oxford-iiit-pet"])
def test_oxford_pets(tmp_path: Path, save: Save, folder_name: str) -> None:
    folder = tmp_path / folder_name
    for breed in ("Abyssinian", "american_bulldog"):
        for k in range(1, 4):
            save(folder / "images" / f"{breed}_{k}.jpg", k)
    (folder / "images" / "Abyssinian_1.mat").write_bytes(b"one of the files that do not belong there")
    write_lines(
        folder / "annotations" / "trainval.txt",
        ["Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "american_bulldog_1 2 2 1"],
    )
    write_lines(folder / "annotations" / "test.txt", ["Abyssinian_3 1 1 1", "american_bulldog_3 2 2 1"])
    splits = opened("oxford_pets", tmp_path)
    assert sizes(splits) == {"train": 3, "test": 2}
    assert splits.train.classes == ("abyssinian", "american bulldog")
    write_coop(
        folder / "split_zhou_OxfordPets.json",
        train=[["Abyssinian_1.jpg", 0, "abyssinian"], ["american_bulldog_1.jpg", 1, "american_bulldog"]],
        val=[],
        test=[["american_bulldog_3.jpg", 1, "american_bulldog"]],
    )
    assert opened("oxford_pets", tmp_path).train.classes == ("abyssinian", "american_bulldog")


def test_food101(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "food-101"
    for label in ("apple_pie", "waffles"):
        for k in (1005649, 7):
            save(folder / "images" / label / f"{k}.jpg", k % 9)
    write_lines(folder / "meta" / "train.txt", ["apple_pie/1005649", "waffles/1005649"])
    write_lines(folder / "meta" / "test.txt", ["apple_pie/7", "waffles/7"])
    splits = opened("food101", tmp_path)
    assert sizes(splits) == {"train": 2, "test": 2}
    assert splits.train.classes == ("apple pie", "waffles")


def test_sun397(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "sun397"
    names = [f"{scene}/sun_a{k}.jpg" for scene in ("a/abbey", "a/apse/indoor") for k in "abcde"]
    for k, name in enumerate(names):
        save(folder / "SUN397" / name, k)
    write_lines(folder / "SUN397" / "ClassName.txt", ["/a/abbey", "/a/apse/indoor"])
    splits = opened("sun397", tmp_path)
    assert sizes(splits) == {"train": 8, "test": 2}
    assert splits.train.classes == ("abbey", "apse indoor")
    write_lines(folder / "Training_01.txt", [f"/{name}" for name in names[:2] + names[5:7]])
    write_lines(folder / "Testing_01.txt", [f"/{names[3]}", f"/{names[9]}"])
    assert sizes(opened("sun397", tmp_path)) == {"train": 4, "test": 2}
    write_coop(
        folder / "split_zhou_SUN397.json",
        train=[[names[0], 0, "abbey"], [names[6], 1, "indoor_apse"]],
        val=[],
        test=[[names[9], 1, "indoor_apse"]],
    )
    write_coop(tmp_path / "wrong.json", train=[["a/abbey/sun_zz.jpg", 0, "abbey"]], val=[], test=[])
    with pytest.raises(DataError, match=r"names 'a/abbey/sun_zz\.jpg'"):
        opened("sun397", tmp_path, split_file=tmp_path / "wrong.json")
    assert opened("sun397", tmp_path).train.classes == ("abbey", "indoor_apse")


def test_ucf101_middle_frames(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "ucf101"
    actions = {"Apply_Eye_Makeup": "ApplyEyeMakeup", "Yo_Yo": "YoYo"}
    for place, action in actions.items():
        for group in range(1, 6):
            save(folder / "UCF-101-midframes" / place / f"v_{action}_g{group:02d}_c01.jpg", group)
    assert sizes(opened("ucf101", tmp_path)) == {"train": 8, "test": 2}
    lists = folder / "ucfTrainTestlist"
    write_lines(
        lists / "trainlist01.txt",
        [f"{a}/v_{a}_g0{g}_c01.avi {n}" for n, a in enumerate(actions.values(), 1) for g in (2, 3)],
    )
    write_lines(lists / "testlist01.txt", [f"{a}/v_{a}_g01_c01.avi" for a in actions.values()])
    splits = opened("ucf101", tmp_path)
    assert sizes(splits) == {"train": 4, "test": 2}
    assert splits.train.classes == ("Apply Eye Makeup", "Yo Yo")
    write_coop(
        folder / "split_zhou_UCF101.json",
        train=[
            ["Apply_Eye_Makeup/v_ApplyEyeMakeup_g02_c01.jpg", 0, "Apply_Eye_Makeup"],
            ["Yo_Yo/v_YoYo_g02_c01.jpg", 1, "Yo_Yo"],
        ],
        val=[],
        test=[["Yo_Yo/v_YoYo_g01_c01.jpg", 1, "Yo_Yo"]],
    )  # fmt: skip
    # A split file may name images that the official lists leave out: it chooses from all that are there.
    assert sizes(opened("ucf101", tmp_path)) == {"train": 2, "test": 1}


def test_a_subset_of_inaturalist(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "inaturalist"
    species = [
        "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
        "00012_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_merula",
        "00019_Plantae_Tracheophyta_Magnoliopsida_Rosales_Rosaceae_Rosa_canina",
    ]
    for place, count in (("train_mini", 3), ("val", 1)):
        for name in species:
            for k in range(count):
                save(folder / place / name / f"{k:08x}-1234.jpg", k)
    splits = opened("inaturalist", tmp_path)
    assert sizes(splits) == {"train": 9, "test": 3}
    assert splits.train.classes == ("Lumbricus terrestris", "Rosa canina", "Turdus merula")
    write_lines(folder / "subset.txt", species[:2])
    assert sizes(opened("inaturalist", tmp_path)) == {"train": 6, "test": 2}
    write_lines(folder / "subset.txt", ["00011_none"])
    with pytest.raises(DataError, match="00011_none"):
        opened("inaturalist", tmp_path)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_what_is_not_here_says_what_to_put_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / CATALOGUE[name].folders[0]) in message
    assert CATALOGUE[name].marker in message
    assert list(tmp_path.iterdir()) == []


def test_the_overview_knows_what_is_here(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.jpg", 0)
    monkeypatch.setenv("SELFMASK_DATA", str(tmp_path))
    rows = {row.name: row for row in overview()}
    assert set(rows) == {"digits", *CATALOGUE}
    assert {name for name, row in rows.items() if row.here} == {"digits", "eurosat"}
    assert rows["eurosat"].place == str(tmp_path / "eurosat")
    assert rows["sun397"].download == "on request"
    assert rows["ucf101"].download == "by hand"
    assert all(row.licence for row in rows.values())
    json.dumps([asdict(row) for row in rows.values()])


def test_names_come_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFMASK_OFFLINE", "1")
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        open_data("cifar1O")
    with pytest.raises(DataError, match="eurosat is not in"):
        open_data("eurosat", root=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "expected", "classes"),
    [
        ("cifar10", {"train": 10_000, "test": 2_000}, 10),
        ("clothing", {"train": 3_068, "validation": 341, "test": 372}, 10),
        ("dtd10", {"train": 800, "test": 400}, 10),
    ],
)
def test_real_images(shared: Path, folder: str, expected: dict[str, int], classes: int) -> None:
    splits = open_data(shared / "data" / folder)
    assert sizes(splits) == expected
    assert splits.train.skipped == ()
    assert len(splits.train.classes) == classes
    assert splits.train.subset(range(20)).resized(32).float().std() > 30
