"""What a mask file records of its rule, selection and training, in words; a record made by hand may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfmask.run.result import left_in_words


def in_words(record: Any) -> str:
    """`record` on one line: "name topk, density 1.0 to 0.5 over 100 steps, init random"; what is None is left out."""
    if not isinstance(record, dict):
        return str(record)
    return ", ".join(f"{key} {_value(key, value)}" for key, value in record.items() if value is not None)


def _value(key: str, value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if value.keys() == {"start", "end", "steps"}:
        end = _share(value["end"])
        return f"{value['start']} to {f'({end})' if ',' in end else end} over {value['steps']} steps"
    if value.keys() == {"kind", "share"} and isinstance(value["share"], int | float):
        return f"{value['kind']} {100 * value['share']:g} %"
    if key == "density":
        return _share(value)
    return f"({in_words(value)})"


def _share(density: Any) -> str:
    """One share for all tensors, or that each has its own, which another mask found."""
    return f"found, {len(density)} tensors" if isinstance(density, dict) else str(density)


def budget_in_words(record: Any) -> str:
    """What a file within a budget records under "budget": what is left in it; a record of another shape `in_words`.

    >>> budget_in_words({"max_bytes": 10240, "whole": 37307, "left_out": ["rule"], "head": 3, "norms": [], "off": 12})
    'at most 10,240 bytes of 37,307: head in 3 bits, 12 weights off; metadata without rule'
    """
    if not (isinstance(record, dict) and record.keys() == _BUDGET.keys()) or not all(
        isinstance(record[key], kind) for key, kind in _BUDGET.items()
    ):
        return in_words(record)
    return f"at most {record['max_bytes']:,} bytes of {record['whole']:,}: {left_in_words(record)}"


_BUDGET: dict[str, type] = {
    "max_bytes": int, "whole": int, "left_out": list, "head": int, "norms": list, "off": int
}  # fmt: skip


def made_by(metadata: Mapping[str, Any]) -> str:
    """Which masks a combined one was made of, and what they were learnt on: their images are in it too."""
    derived = _mapping(metadata.get("derived"))
    members = derived.get("from")
    if not isinstance(members, list):
        return ""
    said = []
    for one in members:
        file = one.get("file") if isinstance(one, dict) else one
        said.append(f"{file} ({_mapping(_mapping(one).get('training')).get('data') or 'data unknown'})")
    return f"{derived.get('operation')} of {', '.join(said)}"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
