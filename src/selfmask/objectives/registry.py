"""The objectives by name. One line adds one; from outside the package, one call of `register`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from selfmask._common.near import did_you_mean
from selfmask.errors import SettingsError
from selfmask.objectives.base import Objective
from selfmask.objectives.contrast import Contrast
from selfmask.objectives.distil import Distil
from selfmask.objectives.supervised import Supervised
from selfmask.objectives.swav import Swav
from selfmask.objectives.text import Text

OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "distil": Distil,
    "contrast": Contrast,
    "swav": Swav,
    "text": Text,
}
"""In the order in which help shows them."""

AUTO = "auto"
"""Supervised where most training images have labels, else the default without labels."""
WITH_LABELS, WITHOUT_LABELS, SWAV = "supervised", "contrast", "swav"


def register(name: str, kind: type[Objective]) -> None:
    """Add an objective of your own: `selfmask.adapt(…, objective=name)` and `--objective name` then know it.

    Raises `SettingsError`: the name is taken or no name, `kind` is no `Objective` with a `Settings` dataclass whose
    fields all have defaults.

    >>> class Mine(Distil):
    ...     "Distil, but for what it does differently; from nothing: the example of `Objective`."
    >>> selfmask.register("mine", Mine)
    """
    if not name.isidentifier() or name == AUTO:
        raise SettingsError(f"register: a name is letters, digits and _, and not {AUTO!r}; got {name!r}")
    if name in OBJECTIVES and not _same(OBJECTIVES[name], kind):
        raise SettingsError(f"register: there is an objective {name!r} already; take another name")
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise SettingsError(f"register: {name} must be a class derived from Objective, got {kind!r}")
    settings: Any = getattr(kind, "Settings", None)
    try:
        if not is_dataclass(settings):
            raise TypeError("there is none")
        settings()  # pyright: ignore[reportCallIssue]
    except TypeError as error:
        raise SettingsError(
            f"register: {kind.__name__}.Settings must be a dataclass whose fields all have defaults ({error})"
        ) from None
    OBJECTIVES[name] = kind


def _same(one: type, other: type) -> bool:
    """Whether a class is another, or that which a cell of a notebook makes when it is run again."""
    return one is other or (
        isinstance(other, type)
        and (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    )


def objective_class(name: str) -> type[Objective]:
    """The class called `name`. Raises `SettingsError` with near misses where there is none."""
    if name not in OBJECTIVES:
        raise SettingsError(
            f"there is no objective {name!r}{did_you_mean(name, OBJECTIVES)}; "
            f"there are {AUTO}, {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[name]


def is_label_free(name: str) -> bool:
    """Whether `name` is an objective, of those known here, that needs neither labels nor the names of classes."""
    return name in OBJECTIVES and OBJECTIVES[name].labels == "none"


def objective_settings(name: str, given: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> Any:
    """A `Settings` of the objective `name`: what was `given`, else the `preset`'s, else the defaults.

    Raises `SettingsError` for a setting that it does not have, of another type, or out of range.
    """
    kind: Any = objective_class(name).Settings
    known = [f.name for f in fields(kind)]
    for word in given:
        if word not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise SettingsError(f"{name} has no setting {word!r}{did_you_mean(word, known)}; {has}")
    try:
        return msgspec.convert({**(preset or {}), **given}, kind)
    except msgspec.ValidationError as error:
        # An error of the settings' own check arrives wrapped, with its words.
        cause = error.__cause__
        raise SettingsError(f"--{name}: {cause if isinstance(cause, SettingsError) else error}") from None
