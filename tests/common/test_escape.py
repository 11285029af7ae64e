"""What a terminal would obey is shown instead, and JSON reads back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfmask._common.escape import json_text, lines, one_line, printable

HOSTILE = {
    "\x1b]52;c;cm0gLXJm\x07": r"\x1b]52;c;cm0gLXJm\x07",  # fills the clipboard
    "a\nb\r\tc": r"a\nb\r\tc",
    "\x9b31m\x7f\x00": r"\x9b31m\x7f\x00",  # one byte is an escape sequence as well
    "cat\u202egnp.exe\u2066": r"cat\u202egnp.exe\u2066",
    "flo\ud800wers": r"flo\ud800wers",
    "\u2028\u2029": r"\u2028\u2029",
    "\U000e0041": r"\U000e0041",  # an invisible letter
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_is_shown(text: str) -> None:
    assert one_line(text) == HOSTILE[text]
    assert printable({text: [text, 1]}) == {HOSTILE[text]: [HOSTILE[text], 1]}


@pytest.mark.parametrize(
    "text", ["größer 😀 θ \\ud800", "क्ष می‌خواهم 👩‍🔬", "a\u00a0b\u3000c", "[red]$x$</b>"]
)
def test_plain_text_stays(text: str) -> None:
    assert one_line(text) == text


def test_messages_keep_their_lines() -> None:
    assert lines("one\ntwo\x1b[2J\n") == "one\ntwo\\x1b[2J\n"


@given(st.text(st.characters()))
def test_nothing_that_acts_is_left(text: str) -> None:
    assert one_line(text).isprintable() or not text.isprintable()
    assert not set(one_line(text)) & set("".join(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2066])))
    one_line(text).encode()


DOCUMENTS = st.recursive(
    st.text() | st.integers() | st.none(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
)


@given(DOCUMENTS)
def test_json_reads_back(document: object) -> None:
    text = json_text(document)
    assert json.loads(text) == document
    assert lines(text) == text
