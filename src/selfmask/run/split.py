"""Which images a run trains on and measures on, and the record of it: so that nobody measures on what it learnt from.

The rule that split them (seed, shares, files) opens the same parts again; a hash of each training image's pixels tells
whether images from anywhere are among those that the mask was learnt on.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from selfmask.errors import DataError, RunError, SettingsError
from selfmask.features.passes import passing
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.opening import open_data
from selfmask.images.place import same_data
from selfmask.images.sources import Reading
from selfmask.images.splits import Splits, at_most, in_proportion, label_budget, stratified
from selfmask.maskfile.mask import Mask
from selfmask.objectives.registry import AUTO, SWAV, WITH_LABELS, WITHOUT_LABELS, objective_class
from selfmask.run.checkpoint import read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.settings import AdaptSettings

_MOST, _FEWEST, _A_CLASS = 1000, 50, 20
"""Of the images held out the most, and the fewest that tell anything; and how many a class must remain."""

_RULE = ("seed", "test_share", "split_file", "labels", "budget", "images", "held_out", "objective")
"""The settings that say which image is in which part; with the data, they make the split."""


_INSTEAD = {"test_share": ("split_file",), "labels": ("budget",)}
"""What is recorded and does not hold where another setting is given in its place."""


@dataclass(frozen=True)
class RunImages:
    """The images of a run: what `open_images` returns.

    objective: its name; what it needs decides which images are trained on.
    splits: the parts; of the training part as many images, and of its labels as many, as were asked for.
    train: those that are trained on. labelled: those that k-NN and probe may know: none that is held out.
    seed: what they were drawn by. held_out: labelled images that the mask is checked on; None where it is not.
    """

    objective: str
    splits: Splits
    train: ImageSet
    labelled: ImageSet
    seed: int
    held_out: ImageSet | None = None


def open_images(settings: AdaptSettings, *, as_recorded: bool = False) -> RunImages:
    """The images that `settings` name, in their parts. Raises `DataError` or `SettingsError` where there are none.

    as_recorded: the objective is that of a run which these images need not have been learnt with: it asks no labels.
    """
    splits = open_data(
        settings.data,
        split_file=settings.split_file,
        labels=settings.labels,
        seed=settings.seed,
        test_share=settings.test_share,
    )
    images = splits.train
    for part in (images, splits.test, splits.validation):
        if part is not None:
            part.flips = part.flips and settings.mirror
    if settings.images is not None:
        images = _some(images, settings.images, settings.seed)
    if settings.budget is not None:
        images = label_budget(images, settings.budget, settings.seed)
    labelled = images.labelled()
    objective = _objective(settings, images, labelled, as_recorded)
    needed = objective_class(objective).labels == "needed"
    held_out = None
    if needed:
        labelled, held_out = _hold_out(splits.validation, labelled, settings)
    splits = replace(splits, train=images)
    return RunImages(objective, splits, labelled if needed else images, labelled, settings.seed, held_out)


def open_as_recorded(source: RunFolder | Mask, data: str | None = None, **given: Any) -> RunImages:
    """The images of a run in the parts that it had: measured on `splits.test`, its figures come out again.

    source: the run's folder; or a mask, whose metadata has the rule but neither the data's place nor a path, so that
    `data`, and the `split_file` or `labels` where the run had them, must be given. What is `given` stands in place of
    what is recorded, each setting alone; of a run on other data its files and budgets are left out. Raises `RunError`
    for a folder without a run and `SettingsError` for a mask that does not say.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    if isinstance(source, RunFolder):
        recorded = {"held_out": 0.0, **source.recorded()}
        replaced = {other for name in given for other in _INSTEAD.get(name, ())}
        elsewhere = data is not None and not same_data(data, str(recorded.get("data")))
        if elsewhere:  # files and budgets are of the images that they name
            replaced |= {"split_file", "labels", "budget", "images"}
        kept = {name: value for name, value in recorded.items() if name not in replaced}
        settings = AdaptSettings.read(kept, **given, **({} if data is None else {"data": data}))
        return open_images(settings, as_recorded=elsewhere)
    rule = recorded_rule(source)
    if rule is None:
        raise SettingsError(
            f"{source.path.name} does not record how its run split the images; say how by a seed and a test share"
        )
    if data is None:
        raise SettingsError(f"a mask file does not say where its images lie: give the data that {source.path.name} "
                            "was learnt on, or name its run's folder")  # fmt: skip
    own = {name: rule[name] for name in _RULE if name in rule and name not in ("split_file", "labels")}
    if "labels" in rule and "labels" not in given:
        raise SettingsError(
            "the run took its labels from a file, which a mask does not hold: name the run's folder"
        )
    if "split_file" in rule and "split_file" not in given:
        raise SettingsError(
            f"the run split its images by a file, {rule['split_file']}: give it as the split file"
        )
    return open_images(AdaptSettings.read({"held_out": 0.0, **own, "data": data}, **given), as_recorded=True)


@dataclass(frozen=True)
class Trained:
    """The images that a mask was learnt on: `hashes` of their pixels, int64 (N,), ascending."""

    hashes: Tensor

    @classmethod
    def on(cls, images: ImageSet) -> Trained:
        """Those of `images`, each of which is decoded for it."""
        return cls(pixel_hashes(images).sort().values)

    @classmethod
    def read(cls, path: Path) -> Trained:
        """What `put_on_record` wrote. Raises `RunError` where it is missing or damaged."""
        found = read_checkpoint(path).get("trained")
        if not isinstance(found, Tensor) or found.dtype != torch.int64 or found.dim() != 1:
            raise RunError(f"{path} is damaged: it does not say which images were trained on")
        return cls(found)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits: equal for equal images, in whatever order they come."""
        return xxhash.xxh3_64_hexdigest(self.hashes.numpy().tobytes())

    def count(self, images: ImageSet) -> int:
        """How many of `images` are among them."""
        return int(torch.isin(pixel_hashes(images), self.hashes).sum())


def rule_of(settings: AdaptSettings, trained: Trained, *, held_out: bool) -> dict[str, Any]:
    """What a mask's metadata keeps of the split, beside the data's name: files by their names alone.

    held_out: whether images were; where they were too few to, no share of them is told.
    """
    share = settings.share_held_out() if held_out else None
    rule = {name: getattr(settings, name) for name in _RULE} | {"held_out": share}
    short = {k: v.name if isinstance(v, Path) else v for k, v in rule.items() if v is not None}
    return {**short, "digest": trained.digest}


def recorded_rule(mask: Mask) -> dict[str, Any] | None:
    """`rule_of` the run that made `mask`; None where its metadata has none."""
    training = mask.metadata.get("training")
    rule = training.get("split") if isinstance(training, dict) else None
    return dict(rule) if isinstance(rule, dict) else None


def seen_in_training(
    source: RunFolder | Mask, images: ImageSet, opened: RunImages | None = None
) -> int | None:
    """How many of `images` the mask was learnt on, by their pixels; None where that is not known.

    A run's folder knows, and so does a mask that lies in one. Of a mask by itself only a digest is known: it is
    enough where `opened`, the images of `open_as_recorded`, are still those of the run.
    """
    if isinstance(source, RunFolder):
        trained = _of_folder(source)
    else:
        digest = (recorded_rule(source) or {}).get("digest")
        trained = _of_folder(RunFolder(source.path.parent))
        if trained is None or trained.digest != digest:
            trained = None if opened is None else Trained.on(opened.train)
        if trained is not None and trained.digest != digest:
            trained = None
    return None if trained is None else trained.count(images)


def put_on_record(folder: RunFolder, training_images: ImageSet, **others: ImageSet | None) -> Trained:
    """Write into `folder` which images are trained on, or read it of a run that was stopped.

    Raises `RunError` where that run had other images or labels, here or in the `others`, whose keywords are what the
    message calls them: it would go on in another order, and perhaps train on images that it is to be tested on.
    """
    parts = {"training_images": training_images, **others}
    now = {name: None if part is None else part.fingerprint() for name, part in parts.items()}
    if not folder.split_file.is_file():
        trained = Trained.on(training_images)
        write_checkpoint(folder.split_file, {"trained": trained.hashes, "parts": now})
        return trained
    before = read_checkpoint(folder.split_file).get("parts")
    # Runs of earlier versions have no such record.
    if isinstance(before, dict) and (other := [name for name in now if before.get(name) != now[name]]):
        named = " and ".join(name.replace("_", " ") for name in other)
        raise RunError(
            f"--resume: the {named} of the run in {folder.path} were others, or had other labels: "
            f"{training_images.name} has changed since. Bring it back as it was, or start anew in another folder, by "
            "--out"
        )
    return Trained.read(folder.split_file)


def _of_folder(folder: RunFolder) -> Trained | None:
    for path in (folder.split_file, folder.dispatcher.split_file):
        if path.is_file():
            return Trained.read(path)
    return None


_PART = 256


def pixel_hashes(images: ImageSet) -> Tensor:
    """A 64-bit hash of each image's decoded pixels, int64 (N,), in the set's order. Decoding goes on in threads."""

    def one(index: int) -> int:
        pixels = images.image(index).permute(1, 2, 0).contiguous().numpy()
        # The seed, because two shapes may have the same bytes.
        found = xxhash.xxh3_64_intdigest(pixels.data, seed=pixels.shape[0])
        return found - 2**64 if found >= 2**63 else found

    def parts() -> Iterator[Tensor]:
        with ThreadPoolExecutor(Reading().threads) as pool:
            for start in range(0, len(images), _PART):
                some = range(start, min(start + _PART, len(images)))
                yield torch.tensor(list(pool.map(one, some)), dtype=torch.int64)

    found = list(passing(parts(), len(images), "which images these are"))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _objective(settings: AdaptSettings, images: ImageSet, labelled: ImageSet, as_recorded: bool) -> str:
    if settings.objective == AUTO:
        if 2 * len(labelled) >= len(images) and len(labelled):
            return WITH_LABELS
        return WITHOUT_LABELS if settings.preset == "default" else SWAV  # the paper knows no contrast
    if objective_class(settings.objective).labels == "needed" and len(labelled) == 0:
        if as_recorded:
            return WITHOUT_LABELS
        raise DataError(
            f"--objective {settings.objective} needs labels, and none of the {len(images)} images of {images.name} "
            "has one: put them into class folders, give --labels FILE, or leave --objective out to adapt without labels"
        )
    return settings.objective


def _hold_out(
    validation: ImageSet | None, labelled: ImageSet, settings: AdaptSettings
) -> tuple[ImageSet, ImageSet | None]:
    """The images to train on, and those to check the mask on: the data's own validation part, else a stratified share
    of `labelled`, where enough remain."""
    share = settings.share_held_out()
    if share == 0:
        return labelled, None
    own = validation.labelled() if validation is not None else None
    if own is not None and len(own) >= _FEWEST and own.classes == labelled.classes:
        return labelled, _some(own, _MOST, settings.seed)
    share = min(share, _MOST / max(len(labelled), 1))
    rest, held = stratified(labelled.labels, share, settings.seed)
    if len(held) < _FEWEST or len(rest) < _A_CLASS * len(labelled.labels.unique()):
        return labelled, None
    return labelled.subset(rest), labelled.subset(held)


def _some(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`count` of the images: in proportion to the classes where all have one, else drawn evenly."""
    if count < len(images) and bool((images.labels != UNLABELLED).all()):
        return images.subset(in_proportion(images.labels, count, seed))
    return at_most(images, count, seed)
