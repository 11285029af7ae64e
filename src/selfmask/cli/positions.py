"""What a command cannot do without may be given by place or by name, before its options, after them or between:
`compact MASK DATA OUT`, `compact --max-drop 1 MASK --out OUT --data DATA`. The parser knows the first form only, so the
others are turned into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, get_origin, get_type_hints


def placed(settings: type, arguments: Sequence[str]) -> list[str]:
    """`arguments` with the values that the dataclass `settings` requires side by side, in its fields' order.

    A field that takes several values (a tuple) takes what the others leave. Where the count is not right, or an
    option lacks its value, nothing is changed: the parser says what is missing.
    """
    types = get_type_hints(settings)
    required = [f.name for f in fields(settings) if f.default is MISSING and f.default_factory is MISSING]
    given = _split(arguments, types, frozenset(required))
    if given is None or not required:
        return list(arguments)
    by_place, named, options = given
    left = [name for name in required if name not in named]
    several = [name for name in left if _several(types[name])]
    spare = len(by_place) - len(left)
    if spare < 0 or (spare > 0 and len(several) != 1):
        return list(arguments)
    values: list[str] = []
    for name in required:
        if name in named:
            values += named[name]
        else:
            take = 1 + (spare if name in several else 0)
            values += by_place[:take]
            del by_place[:take]
    if any(_is_option(value) for value in values):
        return [*options, "--", *values]
    # The parser shares values out between a tuple and the field after it only if nothing comes after them.
    return [*options, *values] if any(_several(types[name]) for name in required) else [*values, *options]


def _split(
    arguments: Sequence[str], types: dict[str, Any], required: frozenset[str]
) -> tuple[list[str], dict[str, list[str]], list[str]] | None:
    """The values by place, those of `required` by name, and the options with their values; None where one lacks its."""
    rest = list(arguments)
    by_place: list[str] = []
    named: dict[str, list[str]] = {}
    options: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            by_place += rest
            break
        if not _is_option(word):
            by_place.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        taken = [value] if equals else _front(rest, _most(name, types))
        if name in required:
            if not taken or name in named:
                return None
            named[name] = taken
        elif name in types and _most(name, types) and not taken:
            return None
        else:
            options += [word] if equals else [word, *taken]
    return by_place, named, options


def _most(name: str, types: dict[str, Any]) -> float:
    """How many values an option takes at most. An unknown one is taken to have one: the parser refuses both."""
    if name in ("_h", "help") or types.get(name) is bool or types.get(name.removeprefix("no_")) is bool:
        return 0
    return math.inf if _several(types.get(name)) else 1


def _front(words: list[str], most: float) -> list[str]:
    """Take from `words` the first that are values, at most so many."""
    taken: list[str] = []
    while words and len(taken) < most and not _is_option(words[0]):
        taken.append(words.pop(0))
    return taken


def _is_option(word: str) -> bool:
    """Whether a word is an option: "-1" is a number, "-" a file."""
    return word.startswith("-") and word[1:2] not in ("", ".") and not word[1:2].isdigit()


def _several(kind: Any) -> bool:
    return get_origin(kind) is tuple
