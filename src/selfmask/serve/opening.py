"""From settings to the bank that is served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import backbone_of, build, recipe_of
from selfmask.bank.bank import Bank
from selfmask.bank.folder import Entry, is_folder_of_masks, masks_in
from selfmask.errors import SelfmaskError, SettingsError
from selfmask.maskfile.mask import Mask
from selfmask.run.process import device_named
from selfmask.serve.settings import BASE, ServeSettings
from selfmask.tasks.opening import open_mask


@contextmanager
def open_bank(settings: ServeSettings, device: str) -> Iterator[Bank]:
    """The masks that are to be served, over their backbone. Raises what `Bank` does, and `SettingsError`."""
    backbone = _backbone(settings)
    backbone.module.to(device_named(device))
    backbone.lay_out()
    with _Served(backbone, settings.masks, memory=settings.memory, watch=settings.watch) as bank:
        yield bank


class _Served(Bank):
    """A bank in which no mask is called as the untouched backbone is in addresses."""

    def _checked(self, path: Path, name: str | None, folder: Path | None) -> Entry:
        entry = super()._checked(path, name, folder)
        if entry.name == BASE:
            raise SettingsError(
                f"a mask is called {BASE!r}, which means the untouched backbone here: rename its file"
            )
        return entry


def _backbone(settings: ServeSettings) -> Backbone:
    path: Path = settings.masks
    if settings.backbone is not None:
        return _named(settings.backbone, settings, masks_in(path) if is_folder_of_masks(path) else [path])
    if not is_folder_of_masks(path):
        return backbone_of(open_mask(path), None, settings.weights, download=settings.download)
    refused: list[str] = []
    for file in masks_in(path):
        try:
            return backbone_of(open_mask(file), None, settings.weights, download=settings.download)
        except SelfmaskError as error:  # a damaged file is left out, and the next may say which backbone
            refused.append(f"{file.name}: {error}")
    why = refused[0] if refused else "it holds no mask yet"
    raise SettingsError(f"{path}: the backbone is not known ({why}): name it by --backbone")


def _named(spec: str, settings: ServeSettings, files: Iterable[Path]) -> Backbone:
    """The backbone that was asked for, as the first mask that fits had it: of its image size, with its recipe."""
    # Once for all masks of a size.
    built = cache(lambda side: build(spec, weights=settings.weights, image_size=side))
    for mask in _readable(files):
        described = mask.metadata.get("backbone")
        side = described.get("image_size") if isinstance(described, dict) else None
        with suppress(SelfmaskError):
            found = built(side if type(side) is int else None)
            mask.check(found.module)
            found.preprocessing = recipe_of(mask) or found.preprocessing
            return found
    return build(spec, weights=settings.weights)


def _readable(files: Iterable[Path]) -> Iterator[Mask]:
    for file in files:
        with suppress(SelfmaskError, OSError):  # what cannot be served is left out later, with a word
            yield open_mask(file)
