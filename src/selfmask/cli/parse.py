"""From a settings dataclass to a command, by cyclopts: its fields are the flags, their words the help."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from selfmask._common.console import SafeConsole
from selfmask.errors import SettingsError

OBJECTIVE = "objective"
OWN = "objective_settings"
"""The field that is filled from --OBJECTIVE.NAME, the settings of the objective that was chosen."""


@dataclass(frozen=True)
class Parsed:
    """What a command line said: the settings, and whether one JSON document is wanted."""

    settings: Any
    json: bool


def parse(name: str, kind: Any, words: Sequence[str]) -> Parsed | None:
    """The settings of the dataclass `kind` that `words` say; None where they ask for help, which is then printed.

    Required fields may be given by place or by name, in any order with the others. Fields stand under the headings of
    the `HEADINGS` beside `kind`, if its module has any. Raises `SettingsError` for words that are off, in one line.
    """
    found = [*_fields_of(kind), *_objectives_of(kind, words), _JSON]
    names = {f"p{i}" if "." in one.name else one.name: one for i, one in enumerate(found)}

    def command(*args: Any, **kwargs: Any) -> Parsed:
        given = signature.bind(*args, **kwargs).arguments
        json = bool(given.pop("json", False))
        own = {names[key].name: given.pop(key) for key in [*given] if "." in names[key].name}
        if own:
            given[OWN] = _of_one(own, given.get(OBJECTIVE))
        return Parsed(kind(**given), json)

    signature = inspect.Signature([one.parameter(key) for key, one in names.items()])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = kind.__doc__
    app = App(
        name=f"selfmask {name}", default_command=command, help_format="plaintext", version_flags=[], group=_LAST,
        exit_on_error=False, print_error=False, help_on_error=False, result_action="return_value",
        default_parameter=Parameter(negative_iterable="", show_env_var=False), console=SafeConsole(),
    )  # fmt: skip
    app["--help"].group = (_LAST,)
    try:
        return app(list(words))
    except UnusedCliTokensError as error:
        rest = " ".join(error.unused_tokens or ())
        raise SettingsError(
            f"nothing is known to do with {rest[:100]!r}; see selfmask {name} --help"
        ) from None
    except CycloptsError as error:
        raise SettingsError(" ".join(str(error).split())) from None


@dataclass(frozen=True)
class _Flag:
    """A field as a flag. `name`: with a dot in it, an objective's own."""

    name: str
    type: Any
    words: str
    group: Group | None = None
    default: Any = inspect.Parameter.empty
    by_place: bool = False
    show: bool = True

    def parameter(self, key: str) -> inspect.Parameter:
        required = self.default is inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if self.by_place else inspect.Parameter.KEYWORD_ONLY
        flag = f"--{self.name.replace('_', '-')}"
        about = Parameter(
            name=flag if "." in self.name else None, help=self.words, group=self.group, show=self.show,
            consume_multiple=_is_several(self.type) or None,
            converter=_CONVERTERS.get(self.type),
            show_default=not required and self.default not in (None, (), False, True),
        )  # fmt: skip
        return inspect.Parameter(key, kind, default=self.default, annotation=Annotated[self.type, about])


def _is_several(kind: Any) -> bool:
    return tuple in (get_origin(kind), *map(get_origin, get_args(kind)))


_PLAIN = Group("What can be said", sort_key=0)
_LAST = Group("What is printed", sort_key=1000)
_JSON = _Flag("json", bool, "Print one JSON document instead of text.", _LAST, default=False)


def _fields_of(kind: Any) -> Iterator[_Flag]:
    headings = getattr(sys.modules[kind.__module__], "HEADINGS", {})
    groups = {
        name: Group(heading or "The run", sort_key=place)
        for place, (heading, names) in enumerate(headings.items())
        for name in names
    }
    hints, words = get_type_hints(kind), words_of(kind)
    by_place = getattr(kind, "POSITIONAL", ())
    # cyclopts gives a tuple by place all that is left, so nothing that is required may stand behind it by place.
    several = False
    for f in sorted(fields(kind), key=lambda f: f.name not in by_place and f.default is not MISSING):
        if f.name == OWN:
            continue
        required = f.default is MISSING and f.default_factory is MISSING
        place = (required and not several) or f.name in by_place
        several = several or (place and get_origin(hints[f.name]) is tuple)
        yield _Flag(
            f.name, hints[f.name], words.get(f.name, ""), groups.get(f.name, _PLAIN),
            inspect.Parameter.empty if required else f.default, place,
        )  # fmt: skip


def _objectives_of(kind: Any, words: Sequence[str]) -> Iterator[_Flag]:
    """The settings of each objective; those of the one that `words` choose (with auto, of those it takes) are shown."""
    if OWN not in {f.name for f in fields(kind)}:
        return
    from selfmask.objectives.registry import AUTO, OBJECTIVES, WITH_LABELS, WITHOUT_LABELS

    default = next(f.default for f in fields(kind) if f.name == OBJECTIVE)
    chosen = _value_of(f"--{OBJECTIVE}", words) or default
    shown = (WITH_LABELS, WITHOUT_LABELS) if chosen == AUTO else (chosen,)
    for place, (name, objective) in enumerate(OBJECTIVES.items()):
        group = Group(f"Of --objective {name}", sort_key=100 + place)
        hints, about = get_type_hints(objective.Settings), words_of(objective.Settings)
        for f in fields(objective.Settings):
            words_, type_ = about.get(f.name, ""), hints[f.name]
            if f.default not in (None, MISSING):
                words_ = f"{words_} Default: {f.default}.".strip()
            yield _Flag(
                f"{name}.{f.name}", type_ | None, words_, group, None, show=name in shown
            )  # fmt: skip


def _of_one(own: dict[str, Any], chosen: str | None) -> dict[str, Any]:
    """The settings by their own names. Raises `SettingsError` where they belong to another objective than `chosen`."""
    for name in own:
        objective = name.partition(".")[0]
        if objective != chosen:
            raise SettingsError(
                f"--{name.replace('_', '-')} is a setting of --objective {objective}, and --objective is "
                f"{chosen or 'not given'}: say --objective {objective}, or leave it out"
            )
    return {name.partition(".")[2]: value for name, value in own.items()}


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for word, after in pairwise([*words, ""]):
        if word == flag:
            return after or None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _whole_number(type_: Any, tokens: Sequence[Any]) -> int:
    """cyclopts would round 3.5 to 4."""
    return int(tokens[0].value)


def _whole_numbers(type_: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    """64,128 or 64 128."""
    return tuple(int(part) for token in tokens for part in str(token.value).split(",") if part)


_CONVERTERS: dict[Any, Any] = {
    int: _whole_number,
    int | None: _whole_number,
    tuple[int, ...]: _whole_numbers,
}


@cache
def words_of(kind: Any) -> dict[str, str]:
    """What stands in the code below each field of a dataclass, and of those that it derives from."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):
        body: list[ast.stmt] = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for statement, after in pairwise(body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[statement.target.id] = " ".join(str(after.value.value).split())
    return found
