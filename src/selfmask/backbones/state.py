"""Reading weights from files, in the layouts that authors publish, without unpickling any code.

Known layouts: a plain state dict; one nested under `state_dict`, `model` or (DINO) `teacher`; names prefixed by
`module.` (SwAV and everything trained in parallel), `backbone.` (DINO) or `_orig_mod.` (compiled); projection
heads, prototypes and classifiers beside the backbone, which are dropped.
"""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfmask._common.near import did_you_mean
from selfmask.errors import BackboneError

StateDict = dict[str, Tensor]

# Where several are there, the first wins: DINO evaluates its teacher, others the moving average.
_NESTS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "network")
_DEEPEST = 8  # nests in one another; a file may hold itself
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
_HEADS = frozenset(
    (
        *("fc", "head", "heads", "head_dist", "classifier", "last_linear"),  # classifiers
        *("projection_head", "prototypes", "last_layer"),  # SwAV, DINO
        *("mask_token", "queue"),  # used while pretraining only
    )
)


def read_state_dict(path: str | Path) -> StateDict:
    """The tensors of a weights file under the backbone's own names.

    Reads `.safetensors`, and any other suffix with `torch.load(weights_only=True)`. Raises `BackboneError` where
    the file is absent, damaged, holds no state dict, or would need code to be unpickled.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, too
        raise BackboneError(f"no weights file at {path}")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except BackboneError:
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"the weights in {path} cannot be read as plain tensors (the file is damaged or another kind of file, or "
            "would run code); get them as .safetensors, or save their state_dict() anew on a machine where you trust "
            "the file"
        ) from error
    except Exception as error:  # a damaged file can make its reader raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = "safetensors" if path.suffix == ".safetensors" else "weights"
        raise BackboneError(f"{path} is no readable {kind} file: {reason}") from error
    return unwrapped(content, path.name)


def _load(path: Path) -> object:
    """By torch, without code and without growing: it writes its archives uncompressed, but would read others."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside, outside = sum(info.file_size for info in archive.infolist()), path.stat().st_size
        if inside > outside:
            raise BackboneError(
                f"{path} would expand from {outside:,} to {inside:,} bytes, and torch compresses no weights: it is no "
                "file of torch's, or was packed again; unpack it and save the state_dict() anew"
            )
    # DINO's full checkpoints carry their settings in a Namespace, which is plain data.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # torch has remarks on what it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def unwrapped(content: object, name: str) -> StateDict:
    """A checkpoint's state dict without nesting and without the prefixes of wrappers (see the module's head)."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(one, Tensor) for one in content.values()):
        raise BackboneError(
            f"{name} holds no state dict (a mapping of names to tensors), neither at the top nor under "
            + ", ".join(_NESTS)
        )
    state = {str(key): one for key, one in content.items() if isinstance(one, Tensor)}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            inside = {key.removeprefix(prefix): one for key, one in state.items() if key.startswith(prefix)}
            if inside and all(key.startswith(prefix) or _is_head(key) for key in state):
                state, stripped = inside, True
    return state


def load_strict(
    module: nn.Module,
    state: StateDict,
    source: str,
    network: str,
    convert: Callable[[StateDict], StateDict] | None = None,
) -> None:
    """Load `state` into `module`, every tensor of the module and no other, but heads that it does not have.

    Where the names do not fit, `convert` (another library's layout to this one) gets one try. Raises
    `BackboneError` that names `source`, `network`, the first tensor that does not fit, and how many more do not.
    """
    fitted = _without_heads(state, module)
    problem = _mismatch(module, fitted)
    if problem is not None and convert is not None:
        try:
            converted = _without_heads(convert(dict(state)), module)
        except Exception:  # it takes for granted what its own library's files hold
            converted = fitted
        if _mismatch(module, converted) is None:
            fitted, problem = converted, None
    if problem is not None:
        raise BackboneError(f"the weights in {source} do not fit {network}: {problem}")
    module.load_state_dict(fitted, strict=True)


def _without_heads(state: StateDict, module: nn.Module) -> StateDict:
    expected = module.state_dict()
    kept = {key: one for key, one in state.items() if key in expected or not _is_head(key)}
    for key, buffer in expected.items():  # old checkpoints do not count their batches
        if key.endswith("num_batches_tracked"):
            kept.setdefault(key, torch.zeros_like(buffer))
    return kept


def _mismatch(module: nn.Module, state: StateDict) -> str | None:
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    shapes = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    kinds = [key for key in expected if key in state and not _is_number_of(expected[key], state[key])]
    misfits = {*missing, *shapes, *kinds}
    wrong = next((key for key in expected if key in misfits), extra[0] if extra else None)
    if wrong is None:
        return None
    if wrong in kinds:
        there = state[wrong]
        kind = f"{there.layout} of {there.dtype} on {there.device}"
        return f"{wrong} is {kind} there and {expected[wrong].dtype} in the network"
    if wrong in shapes:
        first = (
            f"{wrong} is {tuple(state[wrong].shape)} there and {tuple(expected[wrong].shape)} in the network"
        )
    elif wrong in missing:
        first = f"{wrong} is not among them{did_you_mean(wrong, extra).rstrip('?')}"
    else:
        first = f"{wrong} is not in the network{did_you_mean(wrong, missing).rstrip('?')}"
    return (
        f"{first} (first of {len(missing)} missing, {len(extra)} unknown and {len(shapes)} of another shape; "
        f"the network has {len(expected)} tensors); are they of another network?"
    )


def _is_number_of(expected: Tensor, given: Tensor) -> bool:
    """Whether the numbers of `given` can stand for those of `expected`: there, and real for real ones."""
    there = given.layout == torch.strided and not given.is_meta and not given.is_quantized
    return there and (given.is_floating_point() or not expected.is_floating_point())


def _is_head(key: str) -> bool:
    return key.split(".")[0] in _HEADS or any(
        key.startswith(prefix) and _is_head(key.removeprefix(prefix)) for prefix in _PREFIXES
    )
