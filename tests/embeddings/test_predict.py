"""`selfmask predict` says what the head, the class names or the neighbours say, computed here by hand."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import selfmask
from selfmask.cascades.settings import CascadeSettings
from selfmask.embeddings.embedder import Embedder
from selfmask.errors import DataError, MaskFileError, SettingsError
from selfmask.features import whitening
from selfmask.features.knn import knn, knn_shares
from selfmask.images.tables import read_labels
from selfmask.maskset import MaskSet
from selfmask.tasks.classifier import classifier_of
from selfmask.tasks.embedder import open_embedder

CLASSES = ("ant", "=bee", "cat & dog", "d\x1b[31mog", "elk", "fox", "gnu")


def with_head(used, path: Path, head: dict[str, Tensor], classes: tuple[str, ...] = CLASSES) -> Path:
    backbone = used.base()
    masks = MaskSet(backbone.module, norm_stats="frozen")
    random = torch.Generator().manual_seed(4)
    masks.set_scores({n: torch.rand(s.shape, generator=random) - 0.02 for n, s in masks.scores.items()})
    about = {"backbone": backbone.describe(), "preprocessing": backbone.preprocessing.describe()}
    masks.save(path, head=head, training={"classes": list(classes), "size": 32}, **about)
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def random_head(classes: int, scale: float = 1.0) -> dict[str, Tensor]:
    return {"weight": scale * torch.randn(classes, 96), "bias": torch.randn(classes)}


def embedded(used, network: Path) -> Tensor:
    return open_embedder(network, weights=used.weights).embed(used.images())[0]


def test_the_head_by_hand(used, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedder, "part", property(lambda self: 10))
    head = random_head(7)
    mask = with_head(used, tmp_path / "m.safetensors", head)
    made = selfmask.predict(str(mask), str(used.photos), out=tmp_path / "p.csv", weights=used.weights)
    expected = F.linear(embedded(used, mask), head["weight"], head["bias"]).softmax(dim=1)
    rows = table(tmp_path / "p.csv")
    assert [row["file"] for row in rows] == list(used.images().names)
    shown = ("ant", "'=bee", "cat & dog", r"d\x1b[31mog", "elk", "fox", "gnu")
    for row, probabilities in zip(rows, expected, strict=True):
        best = probabilities.argsort(descending=True)[:5].tolist()
        columns = ["", "_2", "_3", "_4", "_5"]
        assert [row[f"label{end}"] for end in columns] == [shown[k] for k in best]
        said = [float(row[f"probability{end}"]) for end in columns]
        assert said == pytest.approx(probabilities[best].tolist(), abs=2e-6)
    assert made.method == "head"
    assert sum(made.counts.values()) == len(rows) == made.record.rows == 48
    assert made.counts == {CLASSES[k]: n for k, n in enumerate(torch.bincount(expected.argmax(1))) if n}
    assert len(read_labels(tmp_path / "p.csv")) == 48  # a table of predictions is a list of labels
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "p.csv"}


def test_a_killed_one_goes_on(used, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = with_head(used, tmp_path / "m.safetensors", random_head(7))
    how: dict[str, Any] = {"out": tmp_path / "p.csv", "weights": used.weights}

    class Ended(BaseException):
        pass

    with monkeypatch.context() as patched:
        patched.setattr("selfmask.tasks.predict._write", lambda *_: (_ for _ in ()).throw(Ended))
        with pytest.raises(Ended):
            selfmask.predict(str(mask), str(used.photos), **how)
    monkeypatch.setattr(Embedder, "_embedded", lambda *_: pytest.fail("what is there is made again"))
    assert selfmask.predict(str(mask), str(used.photos), **how).record.rows == 48


def test_clip_s_own_head_by_hand(used, tmp_path: Path) -> None:
    head = {"text": F.normalize(torch.randn(3, 96), dim=1), "logit_scale": torch.tensor(20.0)}
    mask = with_head(used, tmp_path / "m.safetensors", head, ("a", "b", "c"))
    selfmask.predict(str(mask), str(used.photos), out=tmp_path / "p.csv", weights=used.weights)
    expected = (20 * F.normalize(embedded(used, mask), dim=1) @ head["text"].T).softmax(dim=1).max(dim=1)
    rows = table(tmp_path / "p.csv")
    assert [row["label"] for row in rows] == ["abc"[k] for k in expected.indices.tolist()]
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.values.tolist(), abs=2e-6)
    assert "label_4" not in rows[0]


class Tower:
    """What reads: each text's embedding is drawn by its length."""

    logit_scale = 30.0

    def embed(self, texts: list[str]) -> Tensor:
        rows = [torch.randn(96, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return F.normalize(torch.stack(rows), dim=1)


def test_names_of_classes_for_a_backbone_that_reads(used) -> None:
    plain = open_embedder(used.mask, weights=used.weights)
    how: dict[str, Any] = {"network": used.mask, "data": None, "k": None}
    with pytest.raises(SettingsError, match="a backbone that reads, a CLIP"):
        classifier_of(plain, None, classes=("cat", "sheep"), **how)
    embedder = replace(plain, backbone=replace(plain.backbone, text=Tower()))
    found = classifier_of(embedder, None, classes=("cat", "sheep_dog"), **how)
    x, _ = embedder.embed(used.images())
    texts = Tower().embed(["a photo of a cat.", "a photo of a sheep dog."])
    assert torch.allclose(found(x), (30 * F.normalize(x, dim=1) @ texts.T).softmax(dim=1), atol=1e-5)
    assert (found.method, found.classes) == ("text", ("cat", "sheep_dog"))
    with pytest.raises(SettingsError, match="two classes or more"):
        classifier_of(embedder, "text", classes=("cat",), **how)


@pytest.fixture(scope="module")
def run(used, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without labels, whose images have some: a mask without a head."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    selfmask.adapt(
        str(used.photos), out=folder, backbone="timm:test_resnet", weights=used.weights, objective="contrast", size=32,
        batch=16, steps=2, evaluate=False, threads=1,
    )  # fmt: skip
    return folder


def test_neighbours_are_those_of_the_features(used, run: Path, tmp_path: Path) -> None:
    from selfmask.run.folder import RunFolder
    from selfmask.run.split import open_as_recorded

    labelled = open_as_recorded(RunFolder(run)).labelled
    embedder = open_embedder(run, weights=used.weights)
    made = selfmask.predict(
        str(run), f"flat:{used.photos}", out=tmp_path / "p.csv", weights=used.weights, k=9
    )
    expected = knn(embedder.embed(labelled)[0], labelled.labels, embedder.embed(used.images())[0], k=9)
    rows = table(tmp_path / "p.csv")
    assert [row["label"] for row in rows] == [labelled.classes[k] for k in expected.tolist()]
    assert (made.method, made.classes, made.labelled) == ("knn", ("cat", "dog"), len(labelled))
    assert 0 < len(labelled) < 48
    assert all(float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1) for row in rows)
    alone = selfmask.predict(
        str(used.photos), backbone="timm:test_resnet", weights=used.weights, data=str(used.photos), size=32, k=1,
        out=tmp_path / "a.csv",
    )  # fmt: skip
    assert alone.labelled == 48
    assert all(row["label"] == row["file"][:3] for row in table(tmp_path / "a.csv"))


def test_neighbours_by_whitened_features_where_that_helps(
    used, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfmask.run.folder import RunFolder
    from selfmask.run.split import open_as_recorded

    labelled = open_as_recorded(RunFolder(run)).labelled
    embedder = open_embedder(run, weights=used.weights)
    x, y = embedder.embed(labelled)[0], embedder.embed(used.images())[0]
    white = whitening.Whitening.of(x)
    shares = {
        True: knn_shares(white.apply(x), labelled.labels, white.apply(y), 2, 9),
        False: knn_shares(x, labelled.labels, y, 2, 9),
    }
    assert not torch.allclose(shares[True], shares[False])
    how: dict[str, Any] = {"network": run, "data": None, "classes": (), "k": 9}
    monkeypatch.setattr(whitening, "FEWEST", 5)
    for asked, uneven, wanted in (
        (True, 1.0, True),
        (False, 0.0, False),
        (None, 0.0, True),
        (None, 1.0, False),
    ):
        monkeypatch.setattr(whitening, "UNEVEN", uneven)
        found = classifier_of(embedder, "knn", whiten=asked, **how)
        assert found.whitened == wanted
        assert torch.allclose(found(y), shares[wanted])


def test_a_cascade_by_its_run_s_labels(used, tmp_path: Path) -> None:
    settings = CascadeSettings(str(used.photos), experts=2, backbone="timm:test_resnet", weights=used.weights)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "settings.json").write_text(json.dumps(settings.recorded()))
    shutil.copy(used.cascade, tmp_path / "c" / "cascade.safetensors")
    made = selfmask.predict(
        str(tmp_path / "c"), str(used.photos), out=tmp_path / "p.csv", weights=used.weights, k=1
    )
    assert made.method == "knn"
    assert made.record.made_by.kind == "cascade"
    seen = [row["label"] == row["file"][:3] for row in table(tmp_path / "p.csv")]
    assert sum(seen) >= made.labelled  # each labelled image is its own nearest


def test_nothing_to_predict_by(used, run: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"out": tmp_path / "p.csv", "weights": used.weights}
    with pytest.raises(
        SettingsError, match=r"name labelled images by --data.*selfmask embed, then selfmask search"
    ):
        selfmask.predict(str(used.mask), str(used.photos), **how)
    with pytest.raises(SettingsError, match="brings no head"):
        selfmask.predict(str(used.mask), str(used.photos), method="head", **how)
    no_labels = (
        "has no labels, and the network no head.*selfmask adapt FOLDER.*selfmask embed, then selfmask search"
    )
    with pytest.raises(DataError, match=no_labels):
        selfmask.predict(str(used.mask), str(used.photos), data=f"flat:{used.photos}", **how)
    with pytest.raises(SettingsError, match="--k is how many"):
        selfmask.predict(str(run), str(used.photos), k=0, **how)
    mask = with_head(used, tmp_path / "m.safetensors", random_head(7))
    with pytest.raises(SettingsError, match="--k is for --method knn, not head"):
        selfmask.predict(str(mask), str(used.photos), k=5, **how)
    mask.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"out": Path("p.txt")}, r"ends in \.csv"),
        ({"classes": ("a", "b"), "method": "knn"}, "--classes is for"),
        ({"data": "x", "method": "head"}, "--data is for"),
        ({"data": "x", "classes": ("a", "b")}, "not both"),
        ({"images": None}, "name the images"),
    ],
)
def test_settings_that_are_off(more: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        selfmask.predict(**{"run": "m", "images": "photos", **more})


@pytest.mark.parametrize(
    "head",
    [
        {"weight": torch.ones(7, 95), "bias": torch.ones(7)},
        {"weight": torch.ones(7, 96), "bias": torch.ones(6)},
        {"weight": torch.full((7, 96), torch.nan), "bias": torch.ones(7)},
        {"text": torch.ones(7, 96), "logit_scale": torch.ones(2)},
    ],
)
def test_a_head_that_is_damaged(used, tmp_path: Path, head: dict[str, Tensor]) -> None:
    mask = with_head(used, tmp_path / "m.safetensors", head)
    with pytest.raises(MaskFileError):
        selfmask.predict(str(mask), str(used.photos), out=tmp_path / "p.csv", weights=used.weights)
    assert not (tmp_path / "p.csv").exists()
