"""What commands print: one JSON document with --json, and nothing else on standard output then."""

from __future__ import annotations

import sys
from typing import Any

from selfmask._common.escape import json_text


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json_text(document) + "\n")
