"""Folders, lists, labels and split files: the layouts that people have, and their mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfmask._common.table import csv_lines
from selfmask.errors import DataError, SettingsError
from selfmask.images.every import find_images
from selfmask.images.opening import open_data
from selfmask.images.sources import Reading
from selfmask.images.tables import read_labels

Folder = Callable[..., Path]


def test_class_folders(class_folder: Folder) -> None:
    root = class_folder({"dog": 10, "cat": 10})
    (root / "cat" / "more").mkdir()
    (root / "cat" / "000.png").rename(root / "cat" / "more" / "A.PNG")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    (root / "cat" / "._000.png").write_text("left by another system")
    splits = open_data(root)
    assert splits.train.classes == ("cat", "dog")
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (16, 4)
    whole = open_data(root, test_share=0)
    assert whole.test is None
    assert whole.train.names[-1] == "dog/009.png"
    assert "cat/more/A.PNG" in whole.train.names
    assert whole.train.labels.tolist() == [0] * 10 + [1] * 10
    assert open_data(f"imagefolder:{root}").train.fingerprint() == splits.train.fingerprint()


@pytest.mark.parametrize(
    ("validation", "test"), [("val", "test"), ("valid", "Test"), ("validation", "testing")]
)
def test_split_folders(class_folder: Folder, validation: str, test: str) -> None:
    for split, count in (("train", 3), (validation, 2), (test, 1)):
        root = class_folder({"cat": count, "dog": count}, split=split)
    splits = open_data(root)
    assert [len(part) for part in splits.parts().values()] == [6, 4, 2]
    assert splits.train.names[0] == "train/cat/000.png"


def test_a_class_may_be_called_train(class_folder: Folder) -> None:
    splits = open_data(class_folder({"bus": 3, "car": 3, "train": 3}), test_share=0)
    assert splits.train.classes == ("bus", "car", "train")


def test_only_a_train_folder_is_split_like_any_other(class_folder: Folder) -> None:
    splits = open_data(class_folder({"cat": 10, "dog": 10}, split="train"))
    assert {split: len(part) for split, part in splits.parts().items()} == {"train": 16, "test": 4}
    assert splits.train.classes == ("cat", "dog")


def test_folders_beside_the_splits_are_mentioned(class_folder: Folder) -> None:
    class_folder({"cat": 2, "dog": 2}, split="train")
    class_folder({"cat": 2, "dog": 2}, split="extra")
    root = class_folder({"cat": 1, "dog": 1}, split="test")
    splits = open_data(root)
    assert len(splits.train) == 4
    assert any("extra/" in note for note in splits.notes)
    class_folder({"cat": 1}, split="testing")
    with pytest.raises(DataError, match=r"both test/ and testing/"):
        open_data(root)


def test_validation_stands_in_for_a_missing_test_set(class_folder: Folder) -> None:
    class_folder({"cat": 3, "dog": 3}, split="train")
    splits = open_data(class_folder({"cat": 2, "dog": 2}, split="val"))
    assert splits.validation is None
    assert splits.test is not None
    assert len(splits.test) == 4
    assert any("used as one" in note for note in splits.notes)


def test_flat_folders_have_no_labels(paint: Any, tmp_path: Path, class_folder: Folder) -> None:
    for k in range(3):
        paint(k).save(tmp_path / f"{k}.jpg")
    splits = open_data(tmp_path)
    assert splits.train.labels.tolist() == [-1] * 3
    assert splits.train.classes == ()
    assert splits.test is None
    root = class_folder({"only": 4})
    assert open_data(f"flat:{root}").train.names == tuple(f"only/{k:03d}.png" for k in range(4))


def test_unlabelled_training_images_and_a_labelled_test_set(paint: Any, class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2}, split="test")
    (root / "train").mkdir()
    paint().save(root / "train" / "x.png")
    splits = open_data(root)
    assert splits.train.labels.tolist() == [-1]
    assert splits.notes == ()
    assert splits.test is not None
    assert splits.test.labels.tolist() == [0, 0, 1, 1]


def test_images_beside_class_folders_are_unlabelled(paint: Any, class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    paint().save(root / "x.png")
    splits = open_data(root, test_share=0)
    assert splits.train.labels.tolist() == [-1, 0, 0, 1, 1]
    assert splits.notes[0] == "1 image lies beside the class folders, and so without a label: x.png, say."


@pytest.mark.parametrize("count", [2, 5])
def test_images_beside_the_classes_of_a_split_are_told(paint: Any, class_folder: Folder, count: int) -> None:
    class_folder({"cat": 2, "dog": 2}, split="train")
    root = class_folder({"cat": 2, "dog": 2}, split="test")
    for number in range(count):
        paint().save(root / "test" / f"{number}.png")
    told = f"{count} images lie beside the class folders, and so without a label: test/0.png, say."
    assert told in open_data(root).notes


def test_linked_folders_are_read_once(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    assert len(open_data(root, test_share=0).train) == 4


def test_some_unreadable_images_are_skipped_and_listed(class_folder: Folder) -> None:
    root = class_folder({"cat": 30, "dog": 30})
    (root / "cat" / "005.png").write_bytes(b"")
    (root / "dog" / "007.png").write_text("hello")
    splits = open_data(root, test_share=0)
    assert len(splits.train) == 58
    assert [skipped.name for skipped in splits.train.skipped] == ["cat/005.png", "dog/007.png"]
    assert splits.train.skipped[0].reason == "the file is empty"
    assert "2 of 60 images were skipped" in splits.notes[0]
    assert splits.train.names[5] == "cat/006.png"
    assert open_data(root, test_share=0, reading=Reading(cache_bytes=0)).train.skipped == splits.train.skipped
    with pytest.raises(DataError, match=r"2 of the 60 .*cat/005\.png.*skip_limit"):
        open_data(root, reading=Reading(skip_limit=0.03))
    for number in range(8, 14):
        (root / "dog" / f"{number:03}.png").write_text("hello")
    with pytest.raises(DataError, match=r"cat/005\.png.*dog/013\.png"):  # all, to be mended at once
        open_data(root)


def test_a_folder_of_nothing_but_damage(class_folder: Folder) -> None:
    root = class_folder({"cat": 1, "dog": 1})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(root, reading=Reading(skip_limit=1))


def test_mistakes_are_named(class_folder: Folder, tmp_path: Path) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="did you mean 'photos'"):
        open_data(tmp_path / "fotos")
    with pytest.raises(DataError, match="has no 'there'"):
        open_data(tmp_path / "there" / "is" / "nothing")
    with pytest.raises(DataError, match="is a file"):
        open_data(root / "cat" / "000.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        open_data(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"1 other files, such as 'a\.txt'"):
        open_data(tmp_path / "empty")
    with pytest.raises(DataError, match=r"only one class, 'only'.*flat:"):
        open_data(class_folder({"only": 3}, root="single"))
    (root / "bird").mkdir()
    with pytest.raises(DataError, match="class folder 'bird'"):
        open_data(root)
    with pytest.raises(DataError, match="no data was given"):
        open_data("")
    with pytest.raises(SettingsError, match="test_share"):
        open_data(root, test_share=1.0)


def test_a_class_that_training_lacks(class_folder: Folder) -> None:
    class_folder({"cat": 2, "dog": 2}, split="train")
    root = class_folder({"cat": 1, "dgo": 1}, split="test")
    with pytest.raises(DataError, match=r"'dgo'.*did you mean 'dog'"):
        open_data(root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.csv",
            "file,label,split\n./cat/000.png,cat,train\ndog/000.png,dog,train\ndog/001.png,dog,test\n",
        ),
        ("list.csv", "cat/000.png,cat,train\ndog/000.png,dog,train\ndog/001.png,dog,test\n"),
        (
            "list.csv",
            '"file", "label", "split"\n"cat/000.png", "cat, big", "train"\n'
            '"dog/000.png", "dog","train"\ndog/001.png, dog, test\n',
        ),
        (
            "list.csv",
            "\ufeffLabel;Split;Path\ncat;train;cat/000.png\ndog;train;dog/000.png\ndog;test;dog/001.png",
        ),
        (
            "list.tsv",
            "image\tclass\tsubset\ncat/000.png\tcat\ttrain\ndog/000.png\tdog\ttrain\ndog/001.png\tdog\ttest",
        ),
        (
            "list.csv",
            "\n\nfile;label;split\ncat/000.png;cat;train\ndog/000.png;dog;train\ndog/001.png;dog;test",
        ),
        (
            "list.tsv",
            "cat/000.png\tcat, big, old\ttrain\ndog/000.png\tdog\ttrain\ndog/001.png\tdog\ttest",
        ),
        (
            "list.jsonl",
            '{"file": "cat/000.png", "label": "cat"}\n\n{"file": "dog/000.png", "label": "dog", "split": "train"}\n'
            '{"file": "dog/001.png", "label": "dog", "split": "test"}',
        ),
    ],
)
def test_lists(class_folder: Folder, name: str, text: str) -> None:
    path = class_folder({"cat": 2, "dog": 2}) / name
    path.write_text(text, "utf-8")
    for spec in (path, f"list:{path}"):
        splits = open_data(spec)
        assert splits.train.names == ("cat/000.png", "dog/000.png")
        assert splits.train.labels.tolist() == [0, 1]
        assert splits.test is not None
        assert splits.test.names == ("dog/001.png",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\ncat/00.png,cat\n", r"line 2: there is no file 'cat/00.png'.*did you mean"),
        ("label,split\ncat,train\n", "names no column for the file"),
        ("file,label\n", "lists no images"),
        ("", "lists no images"),
        ("file,label,split\ncat/000.png,cat,tain\n", "'tain'"),
        ("file,label\n,cat\n", "line 2: no file"),
        ("file,label\ncat/000.png,cat\ncat/000.png,cat\n", "twice"),
        ('file,label\ncat/000.png,cat\ndog/000.png,"dog\ndog/001.png,dog\n', "line 3: not a table"),
    ],
)
def test_mistakes_in_lists(class_folder: Folder, text: str, message: str) -> None:
    path = class_folder({"cat": 2, "dog": 2}) / "list.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(path)


def test_lists_that_are_no_text(class_folder: Folder) -> None:
    path = class_folder({"cat": 2, "dog": 2}) / "list.csv"
    path.write_bytes(b"file,label\ncat/000.png,\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        open_data(path)
    path.write_text('file,label\n"' + "a" * 200_000 + '",cat\n')
    with pytest.raises(DataError, match="not a table"):
        open_data(path)


def test_mistakes_in_jsonl(class_folder: Folder) -> None:
    path = class_folder({"cat": 2, "dog": 2}) / "list.jsonl"
    for text, message in (
        ("{", "line 1 is not valid JSON"),
        ("[1]", "expected an object"),
        ('{"file": "cat/000.png", "label": [1, 2]}', r"line 1: expected one name or number, got \[1, 2\]"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            open_data(path)


def test_jsonl_has_empty_labels_as_csv_has(class_folder: Folder) -> None:
    root = class_folder({"cat": 3, "dog": 3})
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    labels = ['"cat"', '"dog"', '" "', '""', "NaN", "null"]
    lines = [
        f'{{"file": "{name}", "label": {label}, "category": "outdoor"}}'
        for name, label in zip(names, labels, strict=True)
    ]
    (root / "list.jsonl").write_text("\n".join(lines))
    train = open_data(root / "list.jsonl").train
    assert train.classes == ("cat", "dog")
    assert len(train.labelled()) < len(train)


def test_validation_and_test_without_training_are_no_classes(class_folder: Folder) -> None:
    root = class_folder({"val/cat": 2, "val/dog": 2, "test/cat": 2, "test/dog": 2})
    with pytest.raises(DataError, match="has no training images"):
        open_data(root)


def test_few_labels(class_folder: Folder) -> None:
    root = class_folder({"cat": 5, "dog": 5})
    labels = root / "few.csv"
    labels.write_text("file,label\ncat/001.png,cat\ndog/002.png,dog\ndog/003.png,dog\n")
    train = open_data(root, labels=labels, test_share=0).train
    assert len(train) == 10
    assert len(train.labelled()) == 3
    assert train.classes == ("cat", "dog")
    labels.write_text("file,label\ncat/001.pmg,cat\n")
    with pytest.raises(DataError, match=r"'cat/001.pmg'.*did you mean 'cat/001.png'"):
        open_data(root, labels=labels)
    labels.write_text("file,label\ncat/001.png,cat\ncat/001.png,dog\n")
    with pytest.raises(DataError, match="was 'cat'"):
        open_data(root, labels=labels)
    labels.write_text("file\ncat/001.png\n")
    with pytest.raises(DataError, match="no label"):
        open_data(root, labels=labels)
    with pytest.raises(DataError, match="there is no file"):
        open_data(root, labels=root / "fewer.csv")


def test_few_labels_are_for_training_and_the_test_set_has_its_own(class_folder: Folder) -> None:
    root = class_folder({"cat": 10, "dog": 10})
    labels = root / "few.csv"
    labels.write_text("file,label\ncat/001.png,cat\ndog/002.png,dog\n")
    splits = open_data(root, labels=labels)
    assert splits.test is not None
    assert len(splits.test) == 4
    assert (splits.test.labels >= 0).all()
    assert len(splits.train) == 16
    assert splits.train.labelled().names == ("cat/001.png", "dog/002.png")
    labels.write_text("file,label\ncat/001.png,bird\n")
    with pytest.raises(DataError, match="the class 'bird'"):
        open_data(root, labels=labels)


def test_few_labels_for_a_flat_folder(paint: Any, tmp_path: Path) -> None:
    for k in range(10):
        paint(k).save(tmp_path / f"{k}.png")
    (tmp_path / "few.csv").write_text("".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(4)))
    splits = open_data(tmp_path, labels=tmp_path / "few.csv", test_share=0.5)
    assert {split: len(part) for split, part in splits.parts().items()} == {"train": 8, "test": 2}
    assert splits.train.classes == ("a", "b")
    assert len(splits.train.labelled()) == 2


def test_few_labels_leave_the_test_set_its_own(class_folder: Folder) -> None:
    class_folder({"cat": 3, "dog": 3}, split="train")
    root = class_folder({"cat": 2, "dog": 2}, split="test")
    labels = root / "few.csv"
    labels.write_text("cat/001.png,cat\ndog/002.png,dog\n")
    splits = open_data(root, labels=labels)
    assert splits.train.labels.tolist() == [-1, 0, -1, -1, -1, 1]
    assert splits.test is not None
    assert splits.test.labels.tolist() == [0, 0, 1, 1]


def test_split_files(class_folder: Folder) -> None:
    root = class_folder({"cat": 3, "dog": 3})
    coop = {
        "train": [["cat/000.png", 0, "cat"], ["dog/000.png", 1, "dog"]],
        "val": [["cat/001.png", 0, "cat"]],
        "test": [["dog/001.png", 1, "dog"]],
    }
    plain = {split: [member[0] for member in members] for split, members in coop.items()}
    table = "file,split\n" + "".join(f"{m[0]},{split}\n" for split, members in coop.items() for m in members)
    for name, text in (("a.json", json.dumps(coop)), ("b.json", json.dumps(plain)), ("c.csv", table)):
        (root / name).write_text(text)
        splits = open_data(root, split_file=root / name)
        assert [part.names for part in splits.parts().values()] == [
            ("cat/000.png", "dog/000.png"),
            ("cat/001.png",),
            ("dog/001.png",),
        ]
        assert "2 images that the split file does not name are left out" in splits.notes[0]


def test_an_image_in_two_parts_is_a_mistake_in_a_table_too(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    lines = ["file,split", "cat/000.png,train", "dog/000.png,train", "cat/000.png,test"]
    (root / "split.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 4: 'cat/000\.png' stands in it twice"):
        open_data(root, split_file=root / "split.csv")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "keys train, val and test"),
        ('{"trian": []}', "'trian' is not a split"),
        ('{"train": [["cat/000.png", 0]]}', "an image must be"),
        ('{"train": ["cat/000.png"], "test": ["cat/000.png"]}', "twice"),
        ('{"train": ["cat/000.pgn"]}', "did you mean 'cat/000.png'"),
        ('{"test": ["cat/000.png", "dog/000.png"]}', "no training images"),
    ],
)
def test_mistakes_in_split_files(class_folder: Folder, document: str, message: str) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    (root / "split.json").write_text(document)
    with pytest.raises(DataError, match=message):
        open_data(root, split_file=root / "split.json")


def test_digits_take_no_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="own labels"):
        open_data("digits", labels=tmp_path / "few.csv")


def test_a_link_that_leads_nowhere_is_counted(class_folder: Folder, tmp_path: Path) -> None:
    folder = class_folder({"cat": 30, "dog": 30})
    (folder / "cat" / "dead.jpg").symlink_to(tmp_path / "nothing.jpg")
    splits = open_data(folder)
    assert any("dead.jpg: the file does not exist" in note for note in splits.notes)
    (folder / "fox").symlink_to(tmp_path / "no such folder")
    with pytest.raises(DataError, match="fox is a link that leads nowhere"):
        open_data(folder)


def test_the_folder_that_one_is_in_has_its_name(
    class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder({"cat": 4, "dog": 4})
    monkeypatch.chdir(folder)
    assert open_data(".").train.name == open_data(folder).train.name


def test_names_that_no_file_can_have(class_folder: Folder) -> None:
    folder = class_folder({"cat": 4, "dog": 4})
    (folder / "list.csv").write_text(f"file,label\n{'x' * 300}.png,cat\n")
    with pytest.raises(DataError, match="there is no file"):
        open_data(folder / "list.csv")
    assert find_images(folder, ["y" * 300 + ".png"], download=False) == {}


def test_what_a_run_wrote_is_none_of_the_data(class_folder: Folder, paint: Any) -> None:
    """`adapt .` writes below the folder that it reads."""
    folder = class_folder({"cat": 4, "dog": 4})
    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    (run / "settings.json").write_text('{"data": ".", "backbone": "x", "objective": "auto", "images": null}')
    paint(1).save(run / "curves.png")
    splits = open_data(folder, test_share=0.25)
    assert splits.train.classes == ("cat", "dog")
    assert len(open_data(f"flat:{folder}").train) == 8


def test_settings_of_somebody_else_make_no_run(class_folder: Folder) -> None:
    folder = class_folder({"cat": 4, "dog": 4})
    (folder / "cat" / "settings.json").write_text('{"data": 1}')
    (folder / "dog" / "settings.json").write_bytes(b"\xff[")
    assert len(open_data(folder, test_share=0.25).train) == 6


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_columns_that_nobody_reads_are_told(class_folder: Folder, suffix: str) -> None:
    folder = class_folder({"cat": 3, "dog": 3})
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    rows = {"csv": "file,species,fold\n" + "".join(f"{name},x,1\n" for name in names),
            "jsonl": "".join(f'{{"file": "{name}", "species": "x", "fold": 1}}\n' for name in names)}  # fmt: skip
    (folder / f"list.{suffix}").write_text(rows[suffix])
    splits = open_data(folder / f"list.{suffix}")
    told = (
        f"list.{suffix}: species, fold are not read: where that is what is meant, call it 'label' or 'split'."
    )
    assert told in splits.notes
    (folder / "whole.csv").write_text(
        "file,label,split,camera\n" + "".join(f"{n},{n[:3]},train,3\n" for n in names)
    )
    assert not any("camera" in note for note in open_data(folder / "whole.csv").notes)


def listed(folder: Path, paint: Any) -> Path:
    """Two images to train on in s1, one to train on and one to test on in s2, of the same names."""
    lines = ["file,label,split"]
    for k, (name, label, split) in enumerate(
        [
            ("s1/0.png", "", "train"),
            ("s1/1.png", "", "train"),
            ("s2/0.png", "", "train"),
            ("s2/1.png", "b", "test"),
        ]
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        paint(k).save(folder / name)
        lines.append(f"{name},{label},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0.png,a", "the labels name '0.png'"),  # s1 is no split, so this is no image's name
        (
            "s1/0.png,a\ns2/1.png,a",
            "the labels call 's2/1.png' 'a', but it is an image of test that the data set",
        ),
    ],
)
def test_labels_reach_no_other_image(tmp_path: Path, paint: Any, labels: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(f"file,label\n{labels}\n")
    with pytest.raises(DataError, match=message):
        open_data(listed(tmp_path, paint), labels=tmp_path / "labels.csv")


def test_a_short_name_is_of_one_image(tmp_path: Path, paint: Any) -> None:
    for split in ("train", "test"):
        for kind in "ab":
            (tmp_path / "set" / split / kind).mkdir(parents=True)
            paint(1).save(tmp_path / "set" / split / kind / "0.png")

    def labels(*lines: str) -> Path:
        (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
        return tmp_path / "labels.csv"

    found = open_data(tmp_path / "set", labels=labels("a/0.png,b", "train/b/0.png,a"))
    assert found.train.labels.tolist() == [1, 0]
    with pytest.raises(
        DataError, match=r"the labels name 'train/a/0\.png' twice, as 'a' and, by 'a/0\.png', as 'b'"
    ):
        open_data(tmp_path / "set", labels=labels("train/a/0.png,a", "a/0.png,b", "b/0.png,b"))


def test_a_table_of_predictions_is_a_list_of_labels_whatever_the_names(tmp_path: Path) -> None:
    rows = [("-a.jpg", "+1"), ("b.jpg", "-1"), ("@d/e.jpg", "=x"), ("'tis.jpg", "'n")]
    (tmp_path / "p.csv").write_text(csv_lines([("file", "label"), *rows]))
    assert read_labels(tmp_path / "p.csv") == dict(rows)


def test_images_that_name_no_split_beside_others_that_do_are_told(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    (root / "list.csv").write_text(
        "file,label,split\ncat/000.png,cat,train\ndog/000.png,dog,\ndog/001.png,dog,test\n"
    )
    splits = open_data(root / "list.csv")
    assert "1 image without a split, beside others that have one: trained on." in splits.notes
    assert len(splits.train) == 2
