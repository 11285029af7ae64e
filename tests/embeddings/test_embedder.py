"""An embedder's numbers are those of `features` and of the cascade; its digest knows the network and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from selfmask.cascades.cascade_file import load_cascade
from selfmask.embeddings.embedder import Embedder, in_parts
from selfmask.errors import DataError, SettingsError, WrongBaseError
from selfmask.features.features import features
from selfmask.images.every import every_image
from selfmask.images.listing import Entry
from selfmask.maskfile.loading import load
from selfmask.tasks.embedder import open_embedder


def opened(used, network: Path | None, **more) -> Embedder:
    return open_embedder(network, weights=used.weights, **more)


def test_a_mask_s_embeddings_are_its_features(used) -> None:
    embedder, backbone, images = opened(used, used.mask), used.base(), used.images()
    with load(used.mask).apply(backbone.module) as module:
        module.to(memory_format=torch.channels_last)
        expected = features(backbone, images, channels_last=True)
    found = embedder.embed_entries(list(every_image(used.photos)))
    assert found.names == images.names
    assert torch.equal(found.x, expected)
    assert found.experts is None
    assert not torch.equal(found.x, opened(used, None, backbone="timm:test_resnet", size=32).embed(images)[0])


@pytest.mark.parametrize("mode", ["conditional", "unconditional", None])
def test_a_cascade_s_embeddings_and_experts(used, mode) -> None:
    cascade, images = load_cascade(used.cascade), used.images()
    embedder = opened(used, used.cascade, mode=mode)
    expected = cascade.embed(images, used.base(), mode=mode or "conditional")
    x, experts = embedder.embed(images)
    assert torch.allclose(x, expected, atol=1e-5)
    first, _, assignment = cascade.member_features(images, used.base(), everything=False, nothing=True)
    assert experts is not None
    assert experts.tolist() == [1 + expert for expert in cascade.router.assign(first).tolist()]
    assert set(assignment.tolist()) == {0, 1}
    assert x.shape[1] == embedder.width == 10


def test_parts_are_the_whole_and_are_asked_for_one_ahead(used) -> None:
    embedder, entries = opened(used, used.mask), list(every_image(used.photos))
    entries[3:3] = [Entry("gone.png", used.photos / "gone.png")]
    asked: list[int] = []

    def parts() -> Iterator[tuple[Entry, ...]]:
        for part in in_parts(entries, 10):
            asked.append(len(part))
            yield part

    whole, found = embedder.embed_entries(entries), []
    for number, part in enumerate(embedder.embed_parts(parts())):
        found.append(part)
        assert len(asked) <= number + 2  # nobody holds more than what is at work and what comes next
    assert asked == [10, 10, 10, 10, 9]
    assert [len(part) for part in found] == asked
    assert [name for part in found for name in part.names] == list(whole.names)
    assert torch.allclose(torch.cat([part.x for part in found]), whole.x, atol=1e-5)
    assert [one.name for part in found for one in part.skipped] == ["gone.png"]


def test_nothing_but_what_cannot_be_read(used) -> None:
    for network, experts in ((used.mask, None), (used.cascade, 0)):
        found = opened(used, network).embed_entries([Entry("x", Path("none.png"))])
        assert found.x.shape == (0, opened(used, network).width)
        assert (None if found.experts is None else len(found.experts)) == experts


def test_the_digest_is_the_network_s(used, tmp_path: Path) -> None:
    copy = tmp_path / "other-name.safetensors"
    copy.write_bytes(used.mask.read_bytes())
    same = {opened(used, path).made_by.digest for path in (used.mask, copy)}
    others = {
        opened(used, used.root / "expert-0.safetensors").made_by.digest,
        opened(used, None, backbone="timm:test_resnet", size=32).made_by.digest,
        opened(used, None, backbone="timm:test_resnet").made_by.digest,
        opened(used, used.mask, size=48).made_by.digest,
        opened(used, used.cascade).made_by.digest,
        opened(used, used.cascade, mode="unconditional").made_by.digest,
    }
    assert len(same) == 1
    assert len(same | others) == 7


def test_a_network_that_has_gone_wrong_is_told(used) -> None:
    embedder = opened(used, used.mask)
    with torch.no_grad():
        next(embedder.backbone.module.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="not finite"):
        embedder.embed(used.images())


def test_what_does_not_go_together(used, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--mode conditional is a way to use a cascade"):
        opened(used, used.mask, mode="conditional")
    with pytest.raises(SettingsError, match="--size 64"):
        opened(used, used.cascade, size=64)
    with pytest.raises(SettingsError, match="or a backbone by --backbone"):
        opened(used, None)
    with pytest.raises(SettingsError, match="there is no"):
        opened(used, tmp_path / "none")
    other = tmp_path / used.weights.name
    save_file({name: t + 1 for name, t in load_file(used.weights).items()}, other)
    for network in (used.mask, used.cascade):
        with pytest.raises(WrongBaseError):
            open_embedder(network, weights=other)


@given(st.integers(0, 40), st.integers(1, 9))
def test_parts_lose_and_double_nothing(count: int, size: int) -> None:
    entries = [Entry(str(number), Path("x")) for number in range(count)]
    parts = list(in_parts(iter(entries), size))
    assert [entry for part in parts for entry in part] == entries
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)


@pytest.mark.parametrize(("side", "part"), [(32, 1024), (224, 1024), (518, 333), (4096, 64)])
def test_the_views_of_a_part_are_bounded(used, side: int, part: int) -> None:
    embedder = opened(used, used.mask)
    embedder.backbone.preprocessing = replace(embedder.backbone.preprocessing, size=side)
    assert embedder.part == part
