"""The service finds what is nearest by the mask that was asked, and refuses another network's embeddings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError


def test_search_is_exact_and_by_the_mask_that_made_it(
    serving: Callable[..., Any], masks: Path, backbone: Backbone, picture: Callable[..., bytes], tmp_path: Path,
    write_mask: Callable[..., Path], model: nn.Module, embedded: Callable[..., Path],
) -> None:  # fmt: skip
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [f"{k:02d}.png" for k in range(12)]
    for k, name in enumerate(names):
        (photos / name).write_bytes(picture(k))
    files = (
        embedded(backbone, masks / "a.mask.safetensors", photos, tmp_path / "a.parquet"),
        embedded(backbone, None, photos, tmp_path / "base.parquet"),
    )
    contents = [picture(k) for k in range(12)]
    with serving(gallery=files, watch=1000.0) as running:
        for name in ("a", "base"):
            answer = running.post(
                f"/masks/{name}/search?k=3", [("x", picture(4)), ("bad", b""), ("y", picture(50))]
            )
            assert answer.status == 200, answer
            first, bad, last = answer.json["results"]
            assert "error" in bad
            assert first["found"][0]["path"] == "04.png"
            assert first["found"][0]["similarity"] == pytest.approx(1, abs=1e-5)
            own = None if name == "base" else name
            x = F.normalize(running.bank.embed([*contents, picture(50)], own), dim=1)
            best = (x[:12] @ x[12]).sort(descending=True)
            assert [one["path"] for one in last["found"]] == [names[int(k)] for k in best.indices[:3]]
            assert [one["similarity"] for one in last["found"]] == pytest.approx(
                best.values[:3].tolist(), abs=1e-5
            )
            assert running.ask("GET", f"/masks/{name}").json["searches"] is True
        assert running.ask("GET", "/masks/b").json["searches"] is False
        assert running.post("/masks/b/search", [("x", picture(1))]).status == 422
        assert running.post("/masks/a/search?k=0", [("x", picture(1))]).status == 422
        write_mask(masks / "a.mask.safetensors", model, 77)  # another mask of that name
        # One that is answered before the bank has looked: what was found then says nothing of the new one.
        assert running.post("/masks/a/search", [("x", picture(4))]).status == 200
        running.bank.refresh()
        refused = running.post("/masks/a/search", [("x", picture(4))])
        assert refused.status == 422
        assert "made by another network" in refused.json["error"]
        assert running.post("/masks/base/search", [("x", picture(4))]).status == 200


def test_galleries_that_cannot_be(
    masks: Path,
    backbone: Backbone,
    picture: Callable[..., bytes],
    tmp_path: Path,
    embedded: Callable[..., Path],
) -> None:
    from selfmask.bank.bank import Bank
    from selfmask.serve.gallery import Gallery

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "x.png").write_bytes(picture(1))
    one = embedded(backbone, masks / "a.mask.safetensors", photos, tmp_path / "a.parquet")
    with Bank(replace(backbone), masks) as bank:
        with pytest.raises(SettingsError, match="are both of a"):
            Gallery(bank, [one, one])
        bank.remove("a")
        with pytest.raises(SettingsError, match="none of the masks that are served"):
            Gallery(bank, [one])


def test_an_answer_is_of_one_mask(
    serving: Callable[..., Any], masks: Path, backbone: Backbone, picture: Callable[..., bytes], tmp_path: Path,
    write_mask: Callable[..., Path], model: nn.Module, embedded: Callable[..., Path],
) -> None:  # fmt: skip
    """Where a mask is replaced while it is asked, neither its classes nor its neighbours are another one's."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(4):
        (photos / f"{k}.png").write_bytes(picture(k))
    gallery = embedded(backbone, masks / "b.mask.safetensors", photos, tmp_path / "b.parquet")
    own = (masks / "b.mask.safetensors").read_bytes()
    # Made before: a bank's network wears masks while it is asked.
    others = [write_mask(tmp_path / f"{seed}", model, seed, head=True).read_bytes() for seed in (77, 78, 79)]
    now = others[:2]
    with serving(gallery=(gallery,), watch=1000.0) as running:
        whole = running.service._embed

        async def embed(*given: Any) -> Any:
            found = await whole(*given)
            if now:
                (masks / "b.mask.safetensors").write_bytes(now.pop())
                assert running.bank.refresh().changed == ("b",)
            return found

        first = running.post("/masks/b/search", [("x", picture(1))])
        assert first.status == 200
        running.service._embed = embed
        answer = running.post("/masks/b/predict", [("x", picture(1))])
        assert not now
        assert (answer.status, answer.json) == (
            200,
            running.post("/masks/b/predict", [("x", picture(1))]).json,
        )
        (masks / "b.mask.safetensors").write_bytes(own)
        running.bank.refresh()
        now.append(others[2])
        found = running.post("/masks/b/search", [("x", picture(1))])
        assert found.status == 422
        assert "made by another network" in found.json["error"]


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_a_gallery_that_is_written_anew_is_searched_as_it_is(
    ending: str, serving: Callable[..., Any], masks: Path, backbone: Backbone, picture: Callable[..., bytes],
    tmp_path: Path, write_mask: Callable[..., Path], model: nn.Module, embedded: Callable[..., Path],
) -> None:  # fmt: skip
    """Another mask of that name, and other images: the server needs no new start."""
    photos, out = tmp_path / "photos", tmp_path / f"a.{ending}"
    photos.mkdir()
    for k in range(3):
        (photos / f"old{k}.png").write_bytes(picture(k))
    own = masks / "a.mask.safetensors"
    gallery = embedded(backbone, own, photos, out)
    write_mask(tmp_path / "other", model, 77)
    aside = replace(backbone, module=copy.deepcopy(backbone.module))  # the bank holds the first
    with serving(gallery=(gallery,), watch=1000.0) as running:
        assert running.post("/masks/a/search", [("x", picture(1))]).status == 200
        own.write_bytes((tmp_path / "other").read_bytes())
        running.bank.refresh()
        assert running.post("/masks/a/search", [("x", picture(1))]).status == 422
        for k in range(3):
            (photos / f"old{k}.png").rename(photos / f"new{k}.png")
        embedded(aside, own, photos, out)
        answer = running.post("/masks/a/search?k=1", [("x", picture(1))])
        assert answer.status == 200, answer
        assert answer.json["results"][0]["found"][0]["path"] == "new1.png"
        gallery.unlink()
        gone = running.post("/masks/a/search", [("x", picture(1))])
        assert gone.status == 422
        assert "there is no file" in gone.json["error"]
