"""Opening a network for use: what `embed`, `predict` and `search` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import backbone_of, build, build_described
from selfmask.cascades.cascade_file import FORMAT_KEY, load_cascade
from selfmask.cascades.fusion import Mode
from selfmask.cascades.network import Cascade
from selfmask.embeddings.embedder import Embedder, network_digest
from selfmask.embeddings.record import MadeBy
from selfmask.errors import SettingsError
from selfmask.run.folder import RunFolder
from selfmask.tasks.opening import check_own_size, check_size, open_mask


def open_embedder(
    network: str | Path | None,
    *,
    backbone: str | None = None,
    weights: Path | None = None,
    size: int | None = None,
    mode: Mode | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
    untouched: bool = False,
) -> Embedder:
    """The network at `network` (a run's folder, a mask file, a cascade), or the `backbone` alone where that is None.

    untouched: its backbone as it was before, which sees images as the network does. backbone: where the file does not
    name it. weights: its file of weights. size: side of the views in pixels, else the one that was learnt at. mode: of
    a cascade; else conditional where its file has that. download: whether the backbone that a file names may be
    fetched.

    Raises `SettingsError` for what does not go together, `BackboneError` and `WrongBaseError` for another base.
    """
    check_size(size)
    path = None if network is None else Path(network)
    if path is None:
        if untouched:
            raise SettingsError(
                "--untouched: name the run or mask file whose backbone is meant; a backbone alone is untouched anyway"
            )
        found = _alone(backbone, weights, size, mode)
    else:
        made = _with_cascade if _is_cascade(path) else _with_mask
        found = made(path, backbone, weights, size, mode, download, untouched)
    return _ready(found, device)


def reopen(
    made_by: MadeBy,
    network: Path | None = None,
    *,
    backbone: str | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
    where: Path,
) -> Embedder:
    """The network that made the embeddings in the file `where`, from where it was or is said to be.

    What a file names is opened as a mask file's words are: nothing is fetched unless `download`, no code of anybody is
    run. Raises `SettingsError` where nothing is there, or another network.
    """
    if network is None and made_by.path is not None:
        network = Path(made_by.path)
        if not network.is_file() and not network.is_dir():
            raise SettingsError(f"{where} was made by {made_by}, and nothing is there: name it by --run")
    if weights is None and made_by.weights is not None and Path(made_by.weights).is_file():
        weights = Path(made_by.weights)
    if network is None:
        base = build_described(made_by.backbone, backbone, weights, download=download)
        base.preprocessing = _recipe(made_by, base)
        found = _ready(_by_itself(base, weights), device)
    else:
        own = None if made_by.kind == "cascade" else made_by.size
        found = open_embedder(
            network,
            backbone=backbone,
            weights=weights,
            size=own,
            mode=made_by.mode,
            device=device,
            download=download,
        )
    if found.made_by.digest != made_by.digest:
        raise SettingsError(
            f"{where} was made by {made_by} ({made_by.digest[:8]}), and {found.made_by} "
            f"({found.made_by.digest[:8]}) is another network, whose embeddings cannot be compared: embed the "
            "images with it, or name the other one by --run"
        )
    return found


def _recipe(made_by: MadeBy, base: Backbone) -> Preprocessing:
    recipe = made_by.backbone.get("preprocessing")
    return Preprocessing.read(recipe) if isinstance(recipe, dict) else base.preprocessing.at(made_by.size)


def _ready(embedder: Embedder, device: torch.device | str) -> Embedder:
    embedder.backbone.module.to(device)
    embedder.backbone.lay_out()
    return embedder


def _alone(backbone: str | None, weights: Path | None, size: int | None, mode: Mode | None) -> Embedder:
    if backbone is None:
        raise SettingsError("name a run's folder, a mask file or a cascade, or a backbone by --backbone")
    _no_mode(mode, "a backbone")
    found = build(backbone, weights=weights)
    if size is not None and found.is_transformer:
        found = build(backbone, weights=weights, image_size=size)
    found.preprocessing = found.preprocessing.at(size)
    return _by_itself(found, weights)


def _by_itself(backbone: Backbone, weights: Path | None) -> Embedder:
    return Embedder(backbone, _made_by(backbone, "backbone", None, weights))


def _with_mask(
    path: Path, spec: str | None, weights: Path | None, size: int | None, mode: Mode | None, download: bool,
    untouched: bool,
) -> Embedder:  # fmt: skip
    _no_mode(mode, "a mask")
    mask = open_mask(path)
    backbone = backbone_of(mask, spec, weights, download=download)
    _resize(backbone, size, "mask")
    if untouched:
        return _by_itself(backbone, weights)
    mask.apply(backbone.module)
    return Embedder(backbone, _made_by(backbone, "mask", path, weights), mask=mask)


def _with_cascade(
    path: Path, spec: str | None, weights: Path | None, size: int | None, mode: Mode | None, download: bool,
    untouched: bool,
) -> Embedder:  # fmt: skip
    cascade = load_cascade(RunFolder(path).cascade_file if path.is_dir() else path)
    if size is not None:
        raise SettingsError(f"--size {size}: a cascade sees its images at the size that it was learnt at")
    mode = mode or next(iter(cascade.fusions), None)
    if mode is None or mode not in cascade.fusions:
        have = ", ".join(cascade.fusions) or "none"
        raise SettingsError(
            f"{path} makes no {mode or 'joint'} embedding (it makes: {have}); choose by --mode"
        )
    backbone = cascade.prepared(_base_of(cascade, spec, weights, download))
    cascade.dispatcher.check(backbone.module)
    if untouched:
        return _by_itself(backbone, weights)
    made_by = _made_by(backbone, "cascade", path, weights, mode, cascade.path.read_bytes(), mode.encode())
    return Embedder(backbone, made_by, cascade=cascade)


def _base_of(cascade: Cascade, spec: str | None, weights: Path | None, download: bool) -> Backbone:
    described = cascade.dispatcher.metadata.get("backbone")
    described = described if isinstance(described, dict) else {}
    if spec is None and not described.get("spec"):
        raise SettingsError(
            f"{cascade.path}: does not say which backbone it belongs to: name it by --backbone"
        )
    return build_described(described, spec, weights, download=download)


def _made_by(
    backbone: Backbone,
    kind: str,
    path: Path | None,
    weights: Path | None,
    mode: Mode | None = None,
    *more: bytes,
) -> MadeBy:
    return MadeBy(
        network_digest(backbone, *more),
        kind,  # pyright: ignore[reportArgumentType]
        None if path is None else str(path.absolute()),
        mode,
        backbone.preprocessing.size,
        backbone.describe(),
        None if weights is None else str(weights.absolute()),
    )


def _resize(backbone: Backbone, size: int | None, what: str) -> None:
    if size is None:
        return
    check_own_size(backbone, size, what=what)
    backbone.preprocessing = replace(backbone.preprocessing, size=size)


def _no_mode(mode: Mode | None, what: str) -> None:
    if mode is not None:
        raise SettingsError(f"--mode {mode} is a way to use a cascade, and this is {what}: leave it out")


def _is_cascade(path: Path) -> bool:
    """Whether a cascade lies there; what is neither a mask nor a cascade is for the mask's reader to refuse."""
    if path.is_dir():
        folder = RunFolder(path)
        return folder.cascade_file.is_file() and not folder.mask_file.is_file()
    if not path.is_file():
        return False
    try:
        with safe_open(path, "np") as file:
            return FORMAT_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False
