"""What a command cannot do without may be given by place or by name: `compact MASK DATA OUT`, `compact MASK --data DATA
--out OUT`. The parser knows the first form only, so the second is turned into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields


def placed(settings: type, arguments: Sequence[str]) -> list[str]:
    """`arguments` with the required fields of the dataclass `settings` that are given by name put in their places.

    Those given by place must then stand before the first option. Where the count is not right nothing is changed:
    the parser says what is missing. A field that takes several values (a tuple) takes what the others leave.
    """
    required = [f for f in fields(settings) if f.default is MISSING and f.default_factory is MISSING]
    flags = {"--" + f.name.replace("_", "-"): f.name for f in required}
    begin = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    by_place, rest = list(arguments[:begin]), list(arguments[begin:])
    named: dict[str, str] = {}
    kept: list[str] = []
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name = flags.get(flag)
        if name is None or name in named or not (equals or rest):
            kept.append(word)
        else:
            named[name] = value if equals else rest.pop(0)
    left = [f for f in required if f.name not in named]
    several = [f.name for f in left if str(f.type).startswith("tuple")]
    if not named or len(by_place) < len(left) or (len(by_place) > len(left) and len(several) != 1):
        return list(arguments)
    values: list[str] = []
    for field in required:
        if field.name in named:
            values.append(named[field.name])
        else:
            take = 1 + (len(by_place) - len(left) if field.name in several else 0)
            values += by_place[:take]
            del by_place[:take]
            left.remove(field)
    return [*values, *kept]
