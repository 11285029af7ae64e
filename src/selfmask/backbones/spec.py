"""A backbone from one string, or again from what a mask file records.

Each library is imported when a network of it is asked for: timm alone takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, weights_name
from selfmask.backbones.catalogue import ALIASES, PUBLISHED
from selfmask.backbones.hub import fetched, local_only
from selfmask.backbones.preprocessing import MOST_PIXELS, Preprocessing
from selfmask.errors import BackboneError, SettingsError
from selfmask.maskfile.mask import Mask

KINDS = ("timm", "package", "keras", "torchhub", "openclip", "hf")


def build(
    spec: str, *, weights: str | Path | None = None, image_size: int | None = None, pretrained: bool = True
) -> Backbone:
    """Build the backbone that `spec` names, in eval mode and on the CPU.

    `spec` is `KIND:NAME` with a kind of `KINDS`, a short name of `catalogue`, or a plain timm name. `weights` is a
    file (.safetensors, .pth) to load instead of the kind's own source; `image_size` the input size in pixels
    (default: the network's own); `pretrained=False` a random start. Raises `BackboneError` for an unknown name
    (with near misses), weights that are absent or do not fit, and a hub that cannot be reached.

    >>> backbone = build("timm:test_resnet", pretrained=False)
    >>> backbone.family, backbone.width
    ('resnet', 96)
    """
    if image_size is not None and not 1 <= image_size <= MOST_PIXELS:
        raise BackboneError(
            f"image_size must be at least 1 and at most {MOST_PIXELS} pixels, not {image_size}"
        )
    kind, name = parse(spec)
    if kind == "published":
        return _build_published(name, weights, image_size, pretrained)
    if kind == "package":
        from selfmask.backbones.from_package import build_from_package

        if weights is not None:
            raise BackboneError(
                f"package:{name} has its own weights; for a file use timm:tf_{name} --weights FILE"
            )
        return build_from_package(name, image_size, pretrained)
    return _builder(kind)(name, weights, image_size, pretrained)


_Build = Callable[[str, "str | Path | None", "int | None", bool], Backbone]
"""name, weights, image_size, pretrained: see `build`."""


def _builder(kind: str) -> _Build:
    """What builds a network of `kind` from its name."""
    if kind == "keras":
        from selfmask.backbones.from_keras import build_from_keras as found
    elif kind == "torchhub":
        from selfmask.backbones.from_torchhub import build_from_torchhub as found
    elif kind == "openclip":
        from selfmask.backbones.from_openclip import build_from_openclip as found
    elif kind == "hf":
        from selfmask.backbones.from_transformers import build_from_transformers as found
    else:
        from selfmask.backbones.from_timm import build_from_timm as found
    return found


def parse(spec: str) -> tuple[str, str]:
    """`spec` as (kind, name); the kind is one of `KINDS`, or "published" for an authors' release by its name."""
    spec = ALIASES.get(spec, spec)
    if spec in PUBLISHED:
        return "published", spec
    kind, colon, name = spec.partition(":")
    if colon and kind in KINDS and name:
        return kind, name
    if colon:
        raise BackboneError(
            f"unknown kind of backbone in {spec!r}{did_you_mean(kind, KINDS)}; "
            f"a backbone is KIND:NAME with a kind of {', '.join(KINDS)}, e.g. timm:resnet18"
        )
    import timm

    if timm.is_model(spec.partition(".")[0]):
        return "timm", spec
    known = [*ALIASES, *PUBLISHED, *timm.list_models()]
    raise BackboneError(
        f"unknown backbone {spec!r}{did_you_mean(spec, known)}; give KIND:NAME with a kind of "
        f"{', '.join(KINDS)}, or one of {', '.join([*ALIASES, *PUBLISHED])}"
    )


def rebuild(
    description: dict[str, Any], *, weights: str | Path | None = None, download: bool = False
) -> Backbone:
    """The backbone that `Backbone.describe()` described.

    A description comes from a file, which may be a stranger's: unless `download`, only what is on this machine is
    used and no host is contacted.

    Where its weights were a file, `weights` gives it, or it is looked for by its name in the folders of the
    environment variable SELFMASK_WEIGHTS. Raises `BackboneError` where that fails, or where it cannot be
    rebuilt at all: a user's own module, or random weights. Neither is a network of torch.hub: no file shall say
    whose code is run.
    """
    check_description(description)
    spec, name = description.get("spec"), description.get("weights")
    if not spec:
        raise BackboneError(
            "the backbone was a module of the user's own: build it and pass it as the base (base=MODULE)"
        )
    if not description.get("pretrained", True):
        raise BackboneError(
            f"{spec} had random weights, which nobody can rebuild: pass the base itself (base=MODULE)"
        )
    kind, name_of = parse(spec)
    if kind == "hf" and (Path(name_of).is_absolute() or name_of[:1] in ".~" or os.path.isdir(name_of)):
        raise BackboneError(
            f"{spec} is a folder, and which folders are read is not for a file to say: if you trust it, name it "
            f"yourself (--backbone {spec}, build({spec!r}), or pass the base)"
        )
    if kind == "torchhub":
        raise BackboneError(
            f"{spec} would run that repository's code because a file says so: if you trust it, name it yourself "
            f"(--backbone {spec}, build({spec!r}), or pass the base)"
        )
    if weights is None and name is not None:
        weights = _find(name, spec)
    with nullcontext() if download else local_only():
        return build(spec, weights=weights, image_size=description.get("image_size"))


def backbone_of(
    mask: Mask, spec: str | None = None, weights: str | Path | None = None, *, download: bool = False
) -> Backbone:
    """The backbone that `mask` was learnt on, from its metadata, or as `spec` and `weights` say; with its recipe.

    What the metadata names is fetched only where `download` says so; what `spec` names, wherever it is not here.

    Raises `BackboneError` where it cannot be built, `WrongBaseError` where what was built is not the mask's base.

    >>> mask = selfmask.load("runs/photos/mask.safetensors")
    >>> backbone = selfmask.backbone_of(mask)
    >>> backbone.spec, backbone.preprocessing.size
    ('package:efficientnet_lite0', 32)
    """
    if not isinstance(mask, Mask):
        raise SettingsError(f"backbone_of takes a mask, as selfmask.load gives it, got {type(mask).__name__}")
    described = mask.metadata.get("backbone")
    described = described if isinstance(described, dict) else {}
    if spec is None and not described.get("spec"):
        raise BackboneError(
            f"{mask.path.name} does not say which backbone it was learnt on: name it (--backbone; spec= from Python), "
            "and its file of weights, if any (--weights; weights=)"
        )
    backbone = build_described(described, spec, weights, download=download)
    backbone.preprocessing = recipe_of(mask) or backbone.preprocessing
    mask.check(backbone.module)
    return backbone


def build_described(
    described: dict[str, Any], spec: str | None, weights: str | Path | None, *, download: bool
) -> Backbone:
    """The backbone that a file's `described` speaks of: what `spec` names at its image size, else see `rebuild`."""
    if spec is None:
        return rebuild(described, weights=weights, download=download)
    check_description(described)
    return build(spec, weights=weights, image_size=described.get("image_size"))


def recipe_of(mask: Mask) -> Preprocessing | None:
    """The recipe that `mask` was learnt with, where its file says one. Raises `SettingsError` where that is damaged."""
    described = mask.metadata.get("backbone")
    recipe = mask.metadata.get("preprocessing") or (
        described.get("preprocessing") if isinstance(described, dict) else None
    )
    return Preprocessing.read(recipe) if isinstance(recipe, dict) else None


def check_description(description: dict[str, Any]) -> None:
    """Raise `BackboneError` where an entry is of another kind than `Backbone.describe` writes.

    A name of weights has no folder: where they are looked for is not for a file to say.
    """
    for key, kind in (("spec", str), ("weights", str), ("image_size", int)):
        value = description.get(key)
        if value is not None and type(value) is not kind:
            raise BackboneError(f"the description of the backbone is damaged: its {key} is {value!r}")

    name = description.get("weights")
    if name is not None and not _is_file_name(name):
        raise BackboneError(
            f"the description of the backbone names weights by {name!r}, which is no file name"
        )


def weight_places(name: str) -> list[Path]:
    """Where a file of weights is looked for: its name in each folder of SELFMASK_WEIGHTS."""
    folders = os.environ.get("SELFMASK_WEIGHTS", "").split(os.pathsep)
    return [Path(folder) / name for folder in folders if folder] if _is_file_name(name) else []


def _is_file_name(name: str) -> bool:
    plain = all(kind(name).name == name for kind in (PurePosixPath, PureWindowsPath))
    return plain and name not in ("", "..") and "\0" not in name


def _find(name: str, spec: str) -> Path:
    found = next((path for path in weight_places(name) if os.path.isfile(path)), None)
    if found is None:
        raise BackboneError(
            f"{spec} had its weights from a file {name!r}: say where it is (weights=FILE, --weights FILE), or name its "
            "folder in the environment variable SELFMASK_WEIGHTS"
        )
    return found


def _build_published(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Backbone:
    from selfmask.backbones.from_timm import build_from_timm

    published = PUBLISHED[name]
    given = weights
    if weights is None and pretrained:
        weights = fetched(published.url, f"the weights of {name} ({published.what})")
    backbone = build_from_timm(published.architecture, weights, image_size, pretrained=False, spec=name)
    backbone.preprocessing = published.recipe.at(image_size)
    backbone.weights = weights_name(given)  # None: the name alone says where they come from
    return backbone
