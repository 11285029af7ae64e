"""Checkpoints: everything that the next step depends on, in one safetensors file that is whole or not there.

State dicts are nested; tensors go into the file as they are, everything else as JSON in the header, each
under its path. Reading one executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import RunError, SelfmaskError

FORMAT = "selfmask checkpoint 1"
State = dict[str, Any]


def write_checkpoint(path: Path, state: State) -> None:
    """Write nested dicts of tensors and JSON-able values. A crash leaves the old file or the new one."""
    tensors: dict[str, Tensor] = {}
    plain = _take_tensors(state, "", tensors)
    content = save(tensors, {"format": FORMAT, "state": json.dumps(plain)})
    try:
        write_atomically(path, content)
    except OSError as error:
        kept = "; the checkpoint before it is kept" if path.is_file() else ""
        raise RunError(
            f"the checkpoint {path} ({len(content) / 2**20:.0f} MiB) cannot be written: {error.strerror}{kept}. "
            "Make room or choose another folder, then go on with --resume"
        ) from error


def read_checkpoint(path: Path) -> State:
    """What `write_checkpoint` wrote. Raises `RunError` if it is missing, damaged or something else."""
    if not path.is_file():
        raise RunError(f"there is no checkpoint at {path}; was the run stopped before its first one?")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise RunError(
                    f"{path} is not a checkpoint of this program (format {metadata.get('format')!r})"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        state = _put_tensors(json.loads(metadata["state"]), tensors)
        if not isinstance(state, dict):
            raise TypeError(f"at its root is {type(state).__name__}, not a dictionary")
        return state
    except (
        SafetensorError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        StopIteration,
        RecursionError,
    ) as error:
        raise RunError(f"the checkpoint {path} is damaged: {error}") from error


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise `RunError` where what was read from the checkpoint `path` does not fit what it is put into."""
    try:
        yield
    except SelfmaskError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"the checkpoint {path} is damaged, or of another run: {type(error).__name__}, {error}; start anew in "
            "another folder"
        ) from error


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with each tensor moved to `tensors` and its place marked; keys that are integers stay so."""
    if isinstance(value, Tensor):
        # Contiguous copies: the file knows no strides, and loading copies into the tensors that are there.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        items = [
            [
                "int" if isinstance(key, int) else "str",
                str(key),
                _take_tensors(item, f"{path}/{key}", tensors),
            ]
            for key, item in value.items()
        ]
        return {"dict": items}
    if isinstance(value, list | tuple):
        items = [_take_tensors(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at {path})")


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {int(k) if t == "int" else k: _put_tensors(v, tensors) for t, k, v in content}
    if kind in ("list", "tuple"):
        items = [_put_tensors(v, tensors) for v in content]
        return tuple(items) if kind == "tuple" else items
    return content
