"""What the commands on masks share: the mask that a path means, and where a result may be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import weight_places
from selfmask.errors import SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import RunImages, open_as_recorded, open_images, recorded_rule, seen_in_training


def open_mask(path: Path, *, rejected: bool = False) -> Mask:
    """The mask in a file, or that of a run's folder, one that it `rejected` too where that may be looked at.

    Raises `RunError` for a folder without one (and says whether a checkpoint lies there), `MaskFileError` for a file
    that is none, `SettingsError` where there is nothing.
    """
    if not path.exists():
        raise SettingsError(f"there is no {path}: name a mask file, or the folder of a run")
    return RunFolder(path).mask(rejected=rejected) if path.is_dir() else load(path)


def open_images_of(path: Path, mask: Mask, data: str | None, **given: Any) -> RunImages:
    """The images that `mask`, opened from `path`, is to be measured on.

    They are split as the run split them, but for what is `given` (labels, budget, split_file, test_share, seed), so
    that nobody measures unasked on what the mask has seen; a run's folder also knows its data.
    """
    given = {name: value for name, value in given.items() if value is not None}
    folder = RunFolder(path)
    if path.is_dir() and folder.settings.is_file():
        return open_as_recorded(folder, data, **given)
    if data is None:
        raise SettingsError(f"{path}: name the images to measure on with --data")
    rule = recorded_rule(mask)
    if rule is not None and not ({"labels", "split_file"} & set(rule)) - set(given):
        return open_as_recorded(mask, data, **given)
    return open_images(AdaptSettings(data, held_out=0.0, **given))


def seen_by(path: Path, mask: Mask, images: ImageSet, opened: RunImages) -> int | None:
    """How many of `images` the mask, opened from `path`, was learnt on; None: not known. See `seen_in_training`."""
    return seen_in_training(RunFolder(path) if path.is_dir() else mask, images, opened)


def seen_note(seen: int | None, images: int, what: str = "test images") -> str | None:
    """What a reader of figures on so many images must know where the mask was learnt on `seen` of them; None: nothing.

    seen: as `seen_by` has it; None: it is not known.
    """
    if seen is None:
        return (
            f"it is not known which of these {images} {what} the mask was learnt on, and on such it looks better than "
            "on new ones: name the folder of its run, which knows"
        )
    if seen == 0:
        return None
    return f"the mask was learnt on {seen} of these {images} {what}, so it looks better here than on new ones"


def check_own_size(backbone: Backbone, *asked: int, what: str = "mask") -> None:
    """Raise `SettingsError` where views of another size than its own are asked of a transformer that wears a mask."""
    own = backbone.preprocessing.size
    if backbone.is_transformer and set(asked) - {own}:
        raise SettingsError(
            f"--size {','.join(map(str, asked))}: the {what} was learnt on a transformer of {own} px, whose position "
            f"embeddings are those of that size: leave --size out"
        )


def check_out(out: Path, **inputs: Path | None) -> None:
    """Raise `SettingsError` where `out` is a folder, or one of `inputs` by whatever path or link.

    Of a run's folder all that it has learnt is meant. The inputs' keywords are what the message calls them, with _ for
    a space; None is one that was not given.
    """
    for what, path in inputs.items():
        if path is None:
            continue
        folder = RunFolder(path)
        own = (
            (path, folder.mask_file, folder.rejected_file, folder.cascade_file) if path.is_dir() else (path,)
        )
        if any(_same(out, one) for one in own):
            link = "" if out in own else f" (it is {path})"
            raise SettingsError(
                f"{out}{link}: out is the {what.replace('_', ' ')} itself: name another, so that the old one stays"
            )
    if out.is_dir():
        raise SettingsError(f"{out}: out is a folder: name a file in it, {out / 'NAME'} say")


def file_of(images: str | None) -> Path | None:
    """The file or folder that a word for images means, whether it is there or not."""
    if images is None:
        return None
    kind, _, rest = images.partition(":")
    path = Path(rest if kind in ("list", "flat", "imagefolder", "webdataset") and rest else images)
    try:
        return path.expanduser()
    except RuntimeError:  # ~NOBODY, which is told where it is opened
        return path


def check_recorded_weights(out: Path, mask: Mask) -> None:
    """Raise `SettingsError` where `out` is a file that the backbone's weights may be read from because `mask` names it:
    its name in each folder of SELFMASK_WEIGHTS."""
    described = mask.metadata.get("backbone")
    name = described.get("weights") if isinstance(described, dict) else None
    for path in weight_places(name) if isinstance(name, str) else []:
        check_out(out, file_of_weights=path)


def check_size(size: int | None) -> None:
    """Raise `SettingsError` where `size`, the side in pixels, is no size; None is the one a mask was learnt at."""
    if size is not None and size < 1:
        raise SettingsError(f"size is the side of the images in pixels, 1 or more, got {size}")


def learnt_at(mask: Mask) -> int | None:
    """The side of the images that the mask was learnt at, in pixels, where the file says it."""
    training = mask.metadata.get("training")
    size = training.get("size") if isinstance(training, dict) else None
    return size if type(size) is int and size > 0 else None


def _same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    try:
        return os.path.realpath(a) == os.path.realpath(b)
    except (
        ValueError
    ):  # a name that no file can have, of half a character or with a NUL; who opens it says so
        return False
