"""What commands print: one JSON document with --json, and nothing else on standard output then."""

from __future__ import annotations

import json
import sys
from typing import Any

from selfmask.cli.whole_text import printable


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    json.dump(printable(document), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
