"""What comes, changes, goes and breaks in a bank's folder: the right answer or our own error, and the others stay."""

from __future__ import annotations

import copy
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.bank.bank import Bank
from selfmask.errors import MaskFileError, RunError, SelfmaskError, SettingsError, WrongBaseError
from selfmask.maskfile import fingerprint
from selfmask.maskfile.loading import load

IMAGES = torch.randint(0, 256, (3, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))

Save = Callable[..., Path]


@pytest.fixture
def foreign(tmp_path: Path, model: nn.Module, save: Save) -> Path:
    """A mask of another base: the same network, one weight changed."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("conv3.weight")[0, 0, 0, 0] += 1
    return save(tmp_path / "foreign.mask.safetensors", other, 9)


def cut(path: Path) -> None:
    """Half of the file is lost, in place, as a full disk leaves it."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit in the middle, and a time that says nothing was written."""
    found, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_mask_of_another_base_is_refused_and_the_others_stay(
    backbone: Backbone, folder: Path, foreign: Path
) -> None:
    shutil.copy(foreign, folder / "f.mask.safetensors")
    (folder / "note.safetensors").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no mask")
    (folder / ".g.mask.safetensors.x.part").write_bytes(b"half")
    with Bank(backbone, folder) as bank:
        assert bank.names == ("a", "b", "c", "d", "e")
        assert set(bank.refused) == {str(folder / "f.mask.safetensors"), str(folder / "note.safetensors")}
        why = bank.refused[str(folder / "f.mask.safetensors")]
        assert "the first tensor that differs is 'conv3.weight'" in why
        assert "too short" in bank.refused[str(folder / "note.safetensors")]
        with pytest.raises(WrongBaseError) as caught:
            bank.add(foreign)
        assert str(caught.value).partition(":")[2] == why.partition(":")[2]
        with pytest.raises(WrongBaseError) as said:
            load(foreign).check(copy.deepcopy(backbone.module))
        assert str(said.value) == str(caught.value)
        assert bank.refresh().refused == {}  # told once, and not read again
        assert len(bank.embed(IMAGES, "e")) == 3
    with pytest.raises(WrongBaseError):
        Bank(backbone, [folder, foreign])
    with Bank(backbone, [folder]):  # whoever fails lets the model go
        pass


def test_the_base_is_hashed_once(backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = fingerprint.signature

    def counting(tensor: Tensor) -> fingerprint.Signature:
        hashed.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr(fingerprint, "signature", counting)
    with Bank(backbone, folder) as bank:
        assert len(bank) == 5
        assert len(hashed) == len(fingerprint.base_tensors(backbone.module))
        bank.embed(IMAGES, ["a", "b", "c"])
        assert len(hashed) == len(fingerprint.base_tensors(backbone.module))


def test_files_that_come_change_and_go(
    backbone: Backbone, folder: Path, model: nn.Module, save: Save
) -> None:
    fresh = save(folder.parent / "fresh.mask.safetensors", copy.deepcopy(model), 77)
    with Bank(backbone, folder) as bank:
        before = bank.embed(IMAGES, "a")
        shutil.copy(fresh, folder / "z.mask.safetensors")
        os.replace(shutil.copy(fresh, folder.parent / "other"), folder / "a.mask.safetensors")
        (folder / "b.mask.safetensors").unlink()
        assert bank.names == ("a", "b", "c", "d", "e")
        changes = bank.refresh()
        assert (changes.added, changes.changed, changes.removed) == (("z",), ("a",), ("b",))
        assert set(bank.names) == {"a", "c", "d", "e", "z"}
        assert torch.equal(bank.embed(IMAGES, "a"), bank.embed(IMAGES, "z"))
        assert not torch.equal(bank.embed(IMAGES, "a"), before)
        with pytest.raises(SettingsError, match="no mask 'b'"):
            bank.embed(IMAGES, "b")
        bank.remove("z")
        assert bank.refresh().added == ()  # it was removed, so it stays away
        assert bank.refused[str(folder / "z.mask.safetensors")] == "it was removed from the bank"
        assert bank.add(folder / "z.mask.safetensors", "zed") == "zed"
        assert bank.refused == {}
        with pytest.raises(SettingsError, match="has a mask 'zed' already"):
            bank.add(fresh, "zed")
        os.rename(folder, folder.parent / "away")
        with pytest.raises(SettingsError, match="cannot be read"):
            bank.refresh()
        assert len(bank) == 5


def test_a_file_by_itself_is_taken_again_too(
    backbone: Backbone, folder: Path, model: nn.Module, save: Save
) -> None:
    fresh = save(folder.parent / "fresh.mask.safetensors", copy.deepcopy(model), 77)
    own = folder / "a.mask.safetensors"
    with Bank(backbone, own) as bank:
        before, content = bank.embed(IMAGES, "a"), own.read_bytes()
        os.replace(shutil.copy(fresh, folder.parent / "other"), own)
        assert bank.refresh().changed == ("a",)
        assert not torch.equal(bank.embed(IMAGES, "a"), before)
        stamp = own.stat()
        cut(own)
        assert str(own) in bank.refresh().refused
        own.write_bytes(fresh.read_bytes())  # the very file again
        os.utime(own, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        bank.refresh()
        assert bank.refused == {}
        own.write_bytes(content)
        bank.refresh()
        assert torch.equal(bank.embed(IMAGES, "a"), before)


def test_a_run_whose_mask_was_rejected_is_told_until_it_has_another(
    backbone: Backbone, folder: Path, model: nn.Module, save: Save
) -> None:
    run = folder / "site-9"
    run.mkdir()
    rejected = save(run / "rejected.mask.safetensors", copy.deepcopy(model), 77)
    with Bank(backbone, folder) as bank:
        assert "site-9" not in bank
        why = bank.refused[str(rejected)]
        assert "was worse than the untouched network on images held out: keep that network" in why
        with pytest.raises(RunError, match="was worse than the untouched network"):
            bank.add(run)
        assert bank.add(rejected, "asked-for") == "asked-for"
        rejected.rename(run / "mask.safetensors")
        assert bank.refresh().added == ("site-9",)
        assert bank.refused.keys() == {str(rejected)}  # what was asked for by name is gone
    shutil.copy(
        run / "mask.safetensors", folder / "rejected.mask.safetensors"
    )  # beside no run: a name as any other
    with Bank(backbone, folder) as bank:
        assert {"rejected", "site-9"} <= set(bank.names)


def test_what_cannot_be_looked_at_costs_the_others_nothing(backbone: Backbone, folder: Path) -> None:
    circle = folder / "circle.safetensors"
    circle.symlink_to(circle)
    with Bank(backbone, folder) as bank:
        assert bank.names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("memory", ["1 GB", 0])
def test_a_file_that_breaks_while_it_is_served(
    backbone: Backbone, folder: Path, damage: Callable[[Path], None], memory: str | int
) -> None:
    path = folder / "a.mask.safetensors"
    stored = path.read_bytes()
    with Bank(backbone, folder, memory=memory) as bank:
        wanted = bank.embed(IMAGES, "a")
        others = bank.embed(IMAGES, "b")
        damage(path)
        if memory:
            assert torch.equal(bank.embed(IMAGES, "a"), wanted)  # from memory
        else:
            with pytest.raises(MaskFileError, match=r"has changed since|cannot be read"):
                bank.embed(IMAGES, ["b", "a", "b"])
        assert torch.equal(bank.embed(IMAGES, "b"), others)
        bank.refresh()
        if path.exists() and memory:
            assert torch.equal(bank.embed(IMAGES, "a"), wanted)
        path.write_bytes(stored)
        bank.refresh()
        assert torch.equal(bank.embed(IMAGES, "a"), wanted)
        assert bank.refused == {}


def test_what_is_least_recently_used_goes_first_and_comes_back_the_same(
    backbone: Backbone, folder: Path
) -> None:
    with Bank(backbone, folder) as bank:
        all_of_them = {name: bank.embed(IMAGES, name) for name in bank.names}
        sizes = {name: bank._specialist(bank._register.entry(name)).nbytes for name in bank.names}
        assert bank._shelf.nbytes == sum(sizes.values())
    with Bank(backbone, folder, memory=sizes["a"] + sizes["b"] + sizes["e"]) as bank:
        held = [name for name in bank.names if bank._shelf.get(bank._register.entry(name))]
        assert held == []
        for name in ("a", "b", "a", "e", "a", "c"):
            assert torch.equal(bank.embed(IMAGES, name), all_of_them[name])
            assert bank._shelf.nbytes <= bank._shelf.memory
        held = [name for name in bank.names if bank._shelf.get(bank._register.entry(name))]
        assert "b" not in held
        assert {"a", "c"} <= set(held)
        bank.remove("a")
        assert torch.equal(bank.embed(IMAGES, "b"), all_of_them["b"])


def test_names_are_files_without_endings_and_nobody_s_path(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    run = folder / "lesions"
    run.mkdir()
    shutil.copy(folder / "a.mask.safetensors", run / "mask.safetensors")
    shutil.copy(folder / "b.mask.safetensors", run / "rejected.mask.safetensors")
    shutil.copy(folder / "c.mask.safetensors", folder / "c.safetensors")
    shutil.copy(folder / "c.mask.safetensors", folder / "odd\x1b[31m.mask.safetensors")
    with Bank(backbone, folder) as bank:
        assert bank.names == ("a", "b", "c", "d", "e", "lesions")
        assert "'c' is taken by" in bank.refused[str(folder / "c.safetensors")]
        assert "cannot be called 'odd\\x1b[31m'" in bank.refused[str(folder / "odd\x1b[31m.mask.safetensors")]
        for name in ("", ".", "..", "a/b", "a\\b", "a\0", "a\n", "\u202ea", "x" * 256, "\udc80"):
            with pytest.raises(SettingsError, match="cannot be called"):
                bank.add(folder / "a.mask.safetensors", name)
        assert bank.add(run, "again") == "again"
        bank.remove("c")
        assert bank.refresh().added == ("c",)  # the other file of that name
    (run / "settings.json").write_text("{}")
    with Bank(backbone, run) as bank:
        assert bank.names == ("lesions",)
    with pytest.raises(RunError, match=r"holds no mask\.safetensors"), Bank(backbone) as bank:
        bank.add(tmp_path)
    with pytest.raises(SettingsError, match="there is no"):
        Bank(backbone, tmp_path / "none")


def test_a_watched_folder_is_looked_at(backbone: Backbone, folder: Path) -> None:
    new = folder.parent / "new"
    shutil.copy(folder / "a.mask.safetensors", new)
    with Bank(backbone, folder, watch=0.01) as bank:
        os.replace(new, folder / "new.mask.safetensors")
        until = time.monotonic() + 20
        while "new" not in bank and time.monotonic() < until:
            time.sleep(0.01)
        assert torch.equal(bank.embed(IMAGES, "new"), bank.embed(IMAGES, "a"))


def test_damaged_words_in_a_file_are_told_when_it_is_added(
    backbone: Backbone, tmp_path: Path, model: nn.Module, save: Save
) -> None:
    one = save(tmp_path / "one.safetensors", model, 1, preprocessing={"size": -1})
    two = save(
        tmp_path / "two.safetensors", model, 1, head={"weight": torch.ones(2, 7), "bias": torch.ones(2)}
    )
    with Bank(backbone) as bank:
        with pytest.raises(SelfmaskError, match="preprocessing"):
            bank.add(one)
        bank.add(two)
        with pytest.raises(MaskFileError, match="width 10"):
            bank.predict(IMAGES, "two")


def test_a_linked_mask_is_called_by_the_run_that_links_it(backbone: Backbone, folder: Path) -> None:
    """Into a store, DVC's or the hub's say, where files are called by their digests."""
    (folder.parent / "store" / "ab").mkdir(parents=True)
    sites = folder.parent / "sites"
    for name in "ab":
        stored = folder.parent / "store" / "ab" / f"{name}123"
        shutil.copy(folder / f"{name}.mask.safetensors", stored)
        (sites / f"site-{name}").mkdir(parents=True)
        (sites / f"site-{name}" / "mask.safetensors").symlink_to(stored)
    with Bank(backbone, sites) as bank:
        assert bank.names == ("site-a", "site-b")


def test_a_look_that_fails_in_whatever_way_is_not_the_last(
    backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    with Bank(backbone, folder, watch=0.01) as bank:
        whole = bank.refresh

        def no_memory() -> Any:
            if not failed.is_set():
                failed.set()
                raise MemoryError
            return whole()

        monkeypatch.setattr(bank, "refresh", no_memory)
        assert failed.wait(20)
        shutil.copy(folder / "a.mask.safetensors", folder.parent / "new")
        os.replace(folder.parent / "new", folder / "new.mask.safetensors")
        until = time.monotonic() + 20
        while "new" not in bank and time.monotonic() < until:
            time.sleep(0.01)
        assert "new" in bank


def test_a_linked_run_is_called_by_its_link_wherever_that_leads(
    backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As "prod" is that leads to the run of the week; and paths are those of the start, wherever the process goes."""
    sites, store = folder.parent / "sites", folder.parent / "store"
    sites.mkdir()
    for name in "ab":
        (store / f"run-{name}").mkdir(parents=True)
        shutil.copy(folder / f"{name}.mask.safetensors", store / f"run-{name}" / "mask.safetensors")
    (sites / "prod").symlink_to(store / "run-a")
    monkeypatch.chdir(folder.parent)
    with Bank(backbone, "sites", memory=0) as bank:
        before = bank.embed(IMAGES, "prod")
        monkeypatch.chdir("/")
        (sites / "prod").unlink()
        (sites / "prod").symlink_to(store / "run-b")
        assert bank.refresh().changed == ("prod",)
        assert not torch.equal(bank.embed(IMAGES, "prod"), before)
