"""Networks that a repository offers through its hubconf.py (torch.hub).

Building one runs the repository's code: name only repositories that you trust. torch asks before it runs one
that is neither known to it nor was fetched before. The published names of `catalogue` (swav_resnet50, dino_vits16 …)
give the same networks without running anybody's code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import nn

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, measured_width, weights_name
from selfmask.backbones.from_module import pool_output
from selfmask.backbones.hub import OFFLINE_CHOICES, require_reachable
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.state import load_strict, read_state_dict
from selfmask.errors import BackboneError
from selfmask.masking.presets import detect_family


def build_from_torchhub(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Backbone:
    """`torchhub:REPOSITORY:ENTRY`, e.g. `torchhub:facebookresearch/dino:main:dino_vits16`.

    REPOSITORY is OWNER/NAME, OWNER/NAME:BRANCH, or a folder with a hubconf.py. A classifier at the top (`fc`, `head`,
    `heads` or `classifier`) is taken off. The recipe is ImageNet's at 224 pixels, which a repository does not say.
    """
    repository, colon, entry = name.rpartition(":")
    if not colon or not repository or not entry:
        raise BackboneError(
            f"torchhub:{name} names no entry; write torchhub:OWNER/NAME:ENTRY or torchhub:FOLDER:ENTRY, "
            "e.g. torchhub:facebookresearch/swav:resnet50"
        )
    folder = _folder_of(repository)
    if folder is None:
        require_reachable("https://github.com/", f"the code of {repository}")
    module = _load(folder or repository, entry, pretrained and weights is None, local=folder is not None)
    without_classifier(module)
    if weights is not None:
        load_strict(module, read_state_dict(weights), str(weights), f"torchhub:{name}")
    pool_output(module)
    recipe = Preprocessing().at(image_size)
    return Backbone(
        module.eval(),
        f"torchhub:{name}",
        detect_family(module),
        measured_width(module, recipe.size),
        recipe,
        weights_name(weights),
        image_size,
        pretrained or weights is not None,
    )


def without_classifier(module: nn.Module) -> None:
    """Replace a classifier at the top of `module` by nothing, so that its output is the features."""
    for name in ("fc", "head", "heads", "classifier"):
        if isinstance(getattr(module, name, None), nn.Linear | nn.Sequential):
            setattr(module, name, nn.Identity())


def _folder_of(repository: str) -> str | None:
    """A folder of the user's, or torch's own copy of a repository fetched before."""
    if os.path.isfile(Path(repository) / "hubconf.py"):  # False for a name that is too long, too
        return repository
    owner_and_name, _, branch = repository.partition(":")
    if owner_and_name.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise BackboneError(f"{repository} is neither OWNER/NAME nor a folder with a hubconf.py")
    stem = owner_and_name.replace("/", "_")
    copies = [
        Path(torch.hub.get_dir()) / f"{stem}_{one}" for one in ([branch] if branch else ["main", "master"])
    ]
    return next((str(copy) for copy in copies if (copy / "hubconf.py").is_file()), None)


def _load(repository: str, entry: str, pretrained: bool, *, local: bool) -> nn.Module:
    source = "local" if local else "github"
    try:
        module = torch.hub.load(repository, entry, source=source, pretrained=pretrained, verbose=False)
    except (EOFError, OSError) as error:
        raise BackboneError(
            f"torch.hub could not fetch {repository} or its weights: {error or 'not trusted'}; {OFFLINE_CHOICES}"
        ) from error
    except Exception as error:  # code of others may raise anything
        near = did_you_mean(entry, _entries(repository))
        raise BackboneError(f"{repository} could not build {entry!r}: {error}{near}") from error
    if not isinstance(module, nn.Module):
        raise BackboneError(f"{entry} of {repository} is no network but a {type(module).__name__}")
    return module


def _entries(repository: str) -> list[str]:
    """The functions of a hubconf.py that is at hand, read as text."""
    folder = _folder_of(repository)
    code = "" if folder is None else (Path(folder) / "hubconf.py").read_text()
    return re.findall(r"^def ([a-z]\w*)\(", code, re.MULTILINE)
