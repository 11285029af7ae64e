"""One call each from Python: a task that takes its settings as one object, made to take them as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from selfmask.errors import SettingsError

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def call(settings: Callable[P, S], task: Callable[[S], R]) -> Callable[P, R]:
    """A function that makes the dataclass `settings` of its arguments and gives it to `task`.

    So a call from Python has the defaults, the checks and the result of the command, by construction. A string is taken
    where a path is meant, a path where a string is, and one path, word or number where several are. Its docstring is
    that of `settings` and then that of `task`, which has the example.

    >>> evaluate = call(EvaluateSettings, run)  # doctest: +SKIP
    >>> evaluate("runs/photos", size=(64, 128))  # doctest: +SKIP
    """

    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = inspect.signature(settings).bind(*args, **kwargs)
        paths, several = _paths(settings)
        given: Any = {
            name: _as_path(name, value)
            if name in paths
            else fspath(value)
            if isinstance(value, PathLike)
            else value
            for name, value in bound.arguments.items()
        }
        given |= {name: (given[name],) for name in several if isinstance(given.get(name), Path | int | str)}
        hints = get_type_hints(settings)
        given = {name: _as_kind(name, value, hints[name]) for name, value in given.items()}
        return task(settings(**given))  # pyright: ignore[reportCallIssue]

    function.__name__ = function.__qualname__ = task.__name__
    arguments = f"Arguments: the fields of `{settings.__name__}`, which has their words."  # type: ignore[attr-defined]
    function.__doc__ = "\n\n".join([inspect.getdoc(settings) or "", arguments, inspect.getdoc(task) or ""])
    function.__signature__ = inspect.signature(settings)  # type: ignore[attr-defined]
    return function


@cache
def _paths(settings: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The fields that are paths, and those that are several."""
    hints = {name: repr(hint) for name, hint in get_type_hints(settings).items()}
    names = [f.name for f in fields(settings)]
    paths = (name for name in names if "Path" in hints[name])
    return frozenset(paths), frozenset(name for name in names if "tuple[" in hints[name])


def _as_kind(name: str, value: Any, hint: Any) -> Any:
    """`value` where it is of a field's kind, a number, a word or one of a few. Raises `SettingsError` where it is not:
    a slip must not become another setting in silence."""
    kinds = _kinds(hint)
    if any(kind not in (int, float, bool, str, NoneType) and not isinstance(kind, str) for kind in kinds):
        return value  # no plain one
    value = value.item() if isinstance(value, np.generic) else value
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        words = [repr(kind) if isinstance(kind, str) else kind.__name__ for kind in kinds]
        expected = ", ".join("None" if kind == "NoneType" else kind for kind in words)
        raise SettingsError(f"{name} is {value!r}, expected one of: {expected}") from None


def _kinds(hint: Any) -> list[Any]:
    """What a hint is made of: classes, and the values of a `Literal`."""
    parts = [part for part in get_args(hint) if part is not ...]
    if get_origin(hint) is Literal or not parts:
        return parts or [hint]
    if get_origin(hint) not in (Union, UnionType, tuple):
        return [hint]
    return [kind for part in parts for kind in _kinds(part)]


def _as_path(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_as_path(name, one) for one in value)
    if value is None:
        return value
    if isinstance(value, str | PathLike):
        return Path(value)
    raise SettingsError(
        f"{name} is the path of a file or a folder, got {type(value).__name__}: the calls that have a command's name "
        "read and write files (a mask in memory adapts a model by mask.apply(model))"
    )
