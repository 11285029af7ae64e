"""Text that comes from a file, made safe to print.

A mask, a list or a folder may be a stranger's, and a terminal obeys what it is sent: escape sequences set its title,
fill the clipboard and rewrite lines above; bidirectional controls turn a name around; half characters (surrogates)
end a program in the middle of its output. All of these are shown as a Python string literal would show them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

# Control characters, half characters, separators of lines, and what is invisible and acts on its neighbours
# (bidirectional controls, tags). Joiners stay: Persian, Hindi and emoji are written with them.
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp", "Cf"})
_JOINERS = "\u200c\u200d"
_UNUSUAL = re.compile(r"[^ -~]")


def one_line(text: str) -> str:
    """`text` on one line with everything shown that a terminal would obey: `\\x1b[31m`, `\\u202e`, `\\n`."""
    return _UNUSUAL.sub(lambda found: _shown(found.group()), text)


def lines(text: str) -> str:
    """The same, but a newline stays one: for a message that is ours and has lines."""
    return "\n".join(map(one_line, text.split("\n")))


def encodable(text: str) -> str:
    """`text` as UTF-8 can carry it: half characters, as in names that were not UTF-8, as the text `\\udc80`."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(document: Any) -> Any:
    """`document` (JSON-able) with every string in it, keys as well, as `one_line` shows it."""
    return _each_string(document, one_line)


def json_text(document: Any) -> str:
    """`document` as indented JSON that is safe to print and reads back as it was.

    Only half characters, which JSON in UTF-8 cannot carry, are written out (as the text `\\udc80`).
    """
    whole = _each_string(document, encodable)
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    # Outside of its strings JSON has no character that is matched here but the newlines, and in them no newline.
    return "\n".join(_UNUSUAL.sub(lambda found: _in_json(found.group()), line) for line in text.split("\n"))


def _each_string(document: Any, change: Callable[[str], str]) -> Any:
    if isinstance(document, str):
        return change(document)
    if isinstance(document, dict):
        return {_each_string(key, change): _each_string(value, change) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_each_string(value, change) for value in document]
    return document


def _obeyed(character: str) -> bool:
    return unicodedata.category(character) in _CATEGORIES and character not in _JOINERS


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode() if _obeyed(character) else character


def _in_json(character: str) -> str:
    if not _obeyed(character):
        return character
    return json.dumps(character)[1:-1] if ord(character) > 127 else f"\\u{ord(character):04x}"
