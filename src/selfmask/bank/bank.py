"""`selfmask.Bank`: many masks over one backbone, each put on for as long as it is wanted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from selfmask._common.units import byte_count
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module, is_pooled, unpool_output
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build, recipe_of
from selfmask.bank.folder import Entry, checked_name, digest_of, is_folder_of_masks, name_of, stamp_of
from selfmask.bank.pictures import Picture, picture_set
from selfmask.bank.prediction import Prediction, no_head, predictions
from selfmask.bank.register import Changes, Register
from selfmask.bank.shelf import Shelf
from selfmask.bank.specialist import Card, Specialist
from selfmask.bank.switching import Switch
from selfmask.errors import MaskFileError, SettingsError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.container import read
from selfmask.maskfile.head import predicts
from selfmask.maskfile.loading import parse_mask

Path_ = str | os.PathLike[str]
REPLACED = 3
"""How often a question is asked anew because its mask was replaced in between."""
Names = str | None | Sequence[str | None]
"""The mask of all images, or one for each; None is the untouched backbone."""


class Bank:
    """Many masks over one backbone.

    Args:
        backbone: a `Backbone`, any network that gives features (see `from_module`), or what `build` takes.
        masks: a folder, a mask file, the folder of a run, or several of these. A folder is watched: `refresh` takes
            what is new in it. Files of another base in it are refused (`refused` says why) and the others taken; a
            file that is named itself raises.
        memory: of the decoded masks: bytes, or "1 GB". The least recently used are forgotten, and decoded again when
            they are wanted. The backbone's own weights are held twice, beside this.
        watch: seconds between two looks at the folders, in a thread of its own; None: only `refresh` looks.

    The bank has the model for itself until `close` (or the end of the `with` block), which makes it the base again, bit
    for bit. All methods may be called from several threads; the model is in one thread's hands at a time.

    >>> with selfmask.Bank("package:efficientnet_lite0", "masks/") as bank:
    ...     x = bank.embed(["new/a.png", "new/b.png"], ["north", "south"])
    ...     guesses = bank.predict(["new/a.png"], "north")
    ...     with bank.use("south") as model:
    ...         features = model(torch.zeros(1, 3, 32, 32))
    >>> x.shape, guesses[0].label in ("0", "1"), features.shape
    (torch.Size([2, 1280]), True, torch.Size([1, 1280]))

    Raises `WrongBaseError` where a named mask belongs to another base, or the model is held by a mask set or an applied
    mask.
    """

    def __init__(
        self,
        backbone: Backbone | nn.Module | str,
        masks: Path_ | Iterable[Path_] = (),
        *,
        memory: int | str = "1 GB",
        watch: float | None = None,
    ) -> None:
        if watch is not None and not watch > 0:
            raise SettingsError(f"watch is the seconds between two looks at the folders, got {watch}")
        self._shelf = Shelf(byte_count(memory, "memory", least=0))
        paths = _paths(masks)
        # A network of the user's own is pooled for as long as it is the bank's.
        self._pooled = isinstance(backbone, nn.Module) and not is_pooled(backbone)
        self.backbone = _backbone(backbone)
        self._channels_last = _channels_last(self.backbone.module)
        try:
            self._switch = Switch(self.backbone.module)
        except BaseException:
            self._unpool()
            raise
        self._model = threading.RLock()
        self._lent = False
        self._closed = False
        self._register = Register(self._checked, self._shelf.drop)
        self._stop = threading.Event()
        try:
            for path in paths:
                if is_folder_of_masks(path):
                    self._register.watch(path)
                else:
                    self.add(path)
            self.refresh()
        except BaseException:
            self.close()
            raise
        if watch is not None:
            threading.Thread(target=self._watch, args=(watch,), name="selfmask bank", daemon=True).start()

    # -- what is in it ------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The masks' names, in the order in which they were added."""
        return self._register.names

    @property
    def refused(self) -> dict[str, str]:
        """The files in the watched folders that were not taken, and why."""
        return self._register.refused

    def __len__(self) -> int:
        return len(self._register)

    def __contains__(self, name: object) -> bool:
        return name in self._register

    def card(self, name: str) -> Card:
        """What is known of a mask: classes, size, bytes, base. Raises `SettingsError` for an unknown name."""
        return self._specialist(self._register.entry(name)).card

    def preprocessing(self, name: str | None) -> Preprocessing:
        """What is done to an image before the mask `name` (None: the untouched backbone) sees it.

        Raises `SettingsError` for an unknown name.
        """
        specialist = self._wanted(name)
        return self.backbone.preprocessing if specialist is None else specialist.preprocessing

    def predicts(self, name: str) -> bool:
        """Whether a mask brings a head. Decodes nothing. Raises `SettingsError` for an unknown name."""
        return self._register.entry(name).predicts

    def version(self, name: str | None) -> bytes:
        """Of the file that the mask `name` is from now: another file has another. Empty for the untouched backbone."""
        return b"" if name is None else self._register.entry(name).digest

    def path(self, name: str) -> Path:
        """Where a mask's file lies. Raises `SettingsError` for an unknown name."""
        return self._register.entry(name).path

    def check(self, path: Path_) -> None:
        """Raises what `add` would for a mask file, and takes nothing."""
        self._check_open()
        self._checked(Path(path), None, None)

    def add(self, path: Path_, name: str | None = None) -> str:
        """Take a mask file, or that of a run's folder; returns its name (by default the file's, without endings).

        Raises `WrongBaseError` for a mask of another base, `MaskFileError` for a file that is damaged or none,
        `SettingsError` for a name that is taken or cannot be one.
        """
        self._check_open()
        return self._register.add(Path(path), name)

    def remove(self, name: str) -> None:
        """Forget a mask; its file stays, and who is using it may go on. Raises `SettingsError` for an unknown name."""
        self._register.remove(name)

    def refresh(self) -> Changes:
        """Look at the watched folders: take new files, files that changed, and forget those that are gone.

        A file that cannot be taken is refused (see `refused`) until it changes; where it replaces one that was taken,
        that one stays, as long as it is in memory. Raises `SettingsError` where a folder cannot be read, and nothing
        for a single file.
        """
        self._check_open()
        return self._register.refresh()

    def _checked(self, path: Path, name: str | None, folder: Path | None) -> Entry:
        """An entry for a file, after every check."""
        try:
            stamp, content = stamp_of(path), read(path)
        except OSError as error:
            raise MaskFileError(f"{path}: cannot be read: {error.strerror}") from None
        mask = parse_mask(content, path)
        mask.check_signed(self._switch.signed)
        mask.check_parts(self._switch.signed.tensors)
        recipe_of(mask)
        name = checked_name(name_of(path) if name is None else name)
        return Entry(name, path, stamp, digest_of(content), folder, predicts(mask.head))

    def _watch(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            # A folder that is away for a while, a file for which there is no memory: the next look may find it mended.
            with suppress(Exception):
                self.refresh()

    # -- what it does -------------------------------------------------------------------------------------------

    @contextmanager
    def use(self, name: str | None) -> Iterator[nn.Module]:
        """The model with the mask `name` on (None: the untouched backbone), in evaluation mode, for the block alone.

        Other threads wait. Raises `SettingsError` for an unknown name, and for a use inside of another in one thread;
        `MaskFileError` where the mask has to be read again and is not what was added.
        """
        specialist = self._wanted(name)
        with self._worn(specialist), self._switch.lending() as model:
            yield model

    def embed(
        self, images: Sequence[Picture] | Tensor | ImageSet, names: Names, *, batch_size: int = 256
    ) -> Tensor:
        """Features float32 (N, width), on the CPU, of N images, each by its own mask; not normalised.

        Args:
            images: paths, bytes of files, Pillow images, uint8 tensors (3, H, W) or arrays (H, W, 3); a tensor uint8
                (N, 3, H, W); or an image set.
            names: the mask of all, or a sequence of one for each image; None is the untouched backbone.
            batch_size: images a forward pass.

        The images of one mask make batches of their own, in their order, at its own size; so the result is, bit for bit
        on the CPU, that of `features` on each mask's images under `load(path).apply(model)`.

        Raises `SettingsError` for unknown names, `DataError` for an image that cannot be read.
        """
        pictures = picture_set(images)
        groups = self._groups(names, len(pictures))
        found = torch.empty(len(pictures), self.backbone.width, dtype=torch.float32)
        for name, places in groups:
            specialist = self._wanted(name)
            part = pictures if len(groups) == 1 else pictures.subset(places)
            found[places] = self._features(specialist, part, batch_size)
        return found

    def predict(
        self,
        images: Sequence[Picture] | Tensor | ImageSet,
        names: Names,
        *,
        top: int = 5,
        batch_size: int = 256,
    ) -> list[Prediction]:
        """The classes of N images, each by its own mask and the head that came with it; arguments as for `embed`.

        top: how many classes are told. Raises, besides what `embed` does, `SettingsError` for a mask without a head.
        """
        pictures = picture_set(images)
        asked = {name for name, _ in self._groups(names, len(pictures))}
        for _ in range(REPLACED):
            self._check_heads(self._groups(names, len(pictures)))
            before = {name: self.version(name) for name in asked}
            x = self.embed(pictures, names, batch_size=batch_size)
            found = self.predict_features(x, names, top=top)
            if before == {name: self.version(name) for name in asked}:
                return found
        raise SettingsError("a mask was replaced each time that it was asked: try again")

    def predict_features(self, x: Tensor, names: Names, *, top: int = 5) -> list[Prediction]:
        """The same from features (N, width) that `embed` gave for these names."""
        groups = self._groups(names, len(x))
        self._check_heads(groups)
        found: dict[int, Prediction] = {}
        for name, places in groups:
            specialist = self._wanted(name)
            assert specialist is not None  # `_check_heads` saw to it
            assert name is not None
            rows = predictions(x[places], specialist.head, specialist.card.classes, name, top)
            found |= dict(zip(places, rows, strict=True))
        return [found[place] for place in range(len(x))]

    # -- the ends -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for who has the model, make it the base again, bit for bit, and let it go. Later calls do nothing.

        Raises `SettingsError` inside of `use` in the same thread.
        """
        self._stop.set()
        with self._model:
            if self._lent:
                raise SettingsError("bank.close() inside of bank.use(...): end that block first")
            self._closed = True
            self._switch.close()
            self._unpool()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._shelf)} in {self._shelf.nbytes:,} bytes of memory"
        return f"Bank({len(self)} masks, {state})"

    # -- inside -------------------------------------------------------------------------------------------------

    def _wanted(self, name: str | None) -> Specialist | None:
        return None if name is None else self._specialist(self._register.entry(name))

    def _specialist(self, entry: Entry) -> Specialist:
        """From memory, or decoded anew; not under any lock, so that nobody waits for another's decoding."""
        found = self._shelf.get(entry)
        if found is not None:
            return found
        mask, switch = entry.read(), self._switch
        self._check_open()
        return self._shelf.put(
            entry,
            Specialist.of(
                mask,
                entry.name,
                self.backbone.preprocessing,
                switch.own_name,
                switch.in_memory_order,
                switch.signed.tensors,
            ),
        )

    @contextmanager
    def _worn(self, specialist: Specialist | None) -> Iterator[nn.Module]:
        with self._model:
            self._check_open()
            if self._lent:
                raise SettingsError(
                    "the model is in use by bank.use(...) in this very thread: end that block first"
                )
            self._switch.to(specialist)
            self._lent = True
            try:
                yield self.backbone.module
            finally:
                self._lent = False

    def _features(self, specialist: Specialist | None, images: ImageSet, batch_size: int) -> Tensor:
        backbone = self.backbone
        if specialist is not None:
            backbone = replace(backbone, preprocessing=specialist.preprocessing)
        recipe = backbone.preprocessing
        if len(images) <= batch_size:
            # The views are made before the model is taken, so that no other thread waits for a decoder; they are kept.
            images.resized(recipe.size, recipe.crop, recipe.interpolation)
        with self._worn(specialist):
            return features(backbone, images, batch_size=batch_size, channels_last=self._channels_last)

    def _groups(self, names: Names, count: int) -> list[tuple[str | None, list[int]]]:
        """The images of each mask, by their places; first those of the mask that is on."""
        each = [names] * count if names is None or isinstance(names, str) else list(names)
        if len(each) != count:
            raise SettingsError(f"{len(each)} names for {count} images: give one name, or one for each image")
        groups: dict[str | None, list[int]] = {}
        for place, name in enumerate(each):
            groups.setdefault(name, []).append(place)
        for name in groups:
            if name is not None:
                self._register.entry(name)
        worn = self._switch.worn
        on = None if worn is None else worn.card.name
        return sorted(groups.items(), key=lambda group: group[0] != on)

    def _check_heads(self, groups: list[tuple[str | None, list[int]]]) -> None:
        for name, _ in groups:
            if name is None:
                raise SettingsError(
                    "the untouched backbone has no head, so it cannot predict: name a mask that has one"
                )
            entry = self._register.entry(name)
            if not entry.predicts:
                raise no_head(name, entry.read().stored_head)

    def _unpool(self) -> None:
        if self._pooled:
            unpool_output(self.backbone.module)

    def _check_open(self) -> None:
        if self._closed:
            raise SettingsError("the bank is closed: make a new one")


def _paths(masks: Any) -> list[Path]:
    several = (
        [masks] if isinstance(masks, str | os.PathLike) or not isinstance(masks, Iterable) else list(masks)
    )
    for one in several:
        if not isinstance(one, str | os.PathLike):
            raise SettingsError(
                f"a bank reads its masks itself: give the paths of files and folders, got {type(one).__name__}"
            )
    return [Path(os.path.abspath(one)) for one in several]  # wherever the process goes meanwhile


def _backbone(given: Backbone | nn.Module | str) -> Backbone:
    if isinstance(given, Backbone):
        return given
    if isinstance(given, nn.Module):
        return from_module(given)
    backbone = build(given)
    backbone.lay_out()
    return backbone


def _channels_last(module: nn.Module) -> bool:
    """Whether the module's convolutions lie so, and its images should."""
    return any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in module.parameters()
    )
