"""One call each from Python: a task that takes its settings as one object, made to take them as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

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
