"""Tables for spreadsheets, and the way back."""

from __future__ import annotations

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from selfmask._common.table import csv_lines, plain


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8))
@example(text="-a.jpg")
@example(text="+1")
@example(text=" =1+1")
def test_what_is_written_is_no_formula_and_comes_back(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_lines([[text, "x"]])))
    assert not row[0].lstrip().startswith(("=", "+", "-", "@"))
    if not (text.startswith("'") and text[1:].lstrip().startswith(("=", "+", "-", "@"))):
        assert plain(row[0]) == text
