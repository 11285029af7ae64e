"""What somebody may have meant: the known names that are nearest to one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.6  # difflib's similarity below which two names are different words
_MOST_KNOWN = 20_000  # names that are compared: a list of a million files would take minutes


def near_misses(word: str, known: Iterable[str], most: int = 3, cutoff: float = _CUTOFF) -> list[str]:
    """Up to `most` of the `known` names that `word` may have been meant to be, the nearest first.

    Names that end in the same file as `word`, or are the same but for upper and lower case, come before all others.
    """
    known = list(known)
    tail = word.replace("\\", "/").rpartition("/")[2].lower()
    same_file = [other for other in known if other.rpartition("/")[2].lower() == tail]
    return same_file[:most] or difflib.get_close_matches(word, known[:_MOST_KNOWN], n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'A', 'B' or 'C'?` for the end of a message, or nothing where no known name is near."""
    names = _either(near_misses(word, known))
    return f"; did you mean {names}?" if names else ""


def aside(word: str, known: Iterable[str]) -> str:
    """The same in brackets, for the middle of a message: ` (did you mean 'A' or 'B'?)`."""
    names = _either(near_misses(word, known))
    return f" (did you mean {names}?)" if names else ""


def _either(names: list[str]) -> str:
    quoted = [repr(one) for one in names]
    return " or ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
