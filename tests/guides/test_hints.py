"""What the program and its pages tell their readers to do can be done: the flags, commands, calls, extras and pages
that they name are there. Looked at is every text in the source, of errors and of help, and every command line of the
pages, against the command line's own parser.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import selfmask
from selfmask.cli import COMMANDS, named
from selfmask.cli.parse import parse
from selfmask.errors import SelfmaskError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "selfmask"

OWN_COMMAND = {
    "tasks/analyze.py": "analyze", "tasks/apply.py": "apply", "tasks/compact.py": "compact",
    "tasks/compare.py": "compare", "tasks/data.py": "data", "tasks/embed.py": "embed",
    "tasks/evaluate.py": "evaluate", "tasks/export.py": "export", "tasks/predict.py": "predict",
    "tasks/report.py": "report", "tasks/search.py": "search", "run/": "adapt", "cascades/": "cascade",
    "serve/": "serve", "objectives/": "adapt",
}  # fmt: skip
"""Where only one command's texts are: its flags alone are meant. Elsewhere they may be any command's."""

NO_COMMANDS = {
    "batches",
    "bank",
    "checkpoint",
    "command",
    "decoder",
    "from",
    "import",
    "mask",
    "raises",
    "reads",
}
"""Words that follow the program's name where it is no command line."""

HELD = {
    "bank": selfmask.Bank, "mask": selfmask.Mask, "masks": selfmask.MaskSet, "handle": selfmask.Handle,
}  # fmt: skip
"""What a name before a method stands for."""


def texts() -> Iterator[tuple[str, str]]:
    """Where, and what: each string, with {} for what is filled in."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            where = path.relative_to(SOURCE).as_posix()
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                yield where, " ".join("".join(map(str, parts)).split())
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield where, " ".join(node.value.split())


@cache
def takes(command: str, flag: str) -> bool:
    """Whether the parser of `selfmask command` knows `flag`."""
    objective = ["--objective", flag[2:].partition(".")[0]] if "." in flag else []
    try:
        parse(command, named(COMMANDS[command].settings), ["some", "words", *objective, flag])
    except SelfmaskError as error:
        return "Unknown option" not in str(error)
    return True


def commands_of(where: str, text: str) -> list[str]:
    """The commands that a flag in `text` may be of."""
    said = [name for name in re.findall(r"selfmask ([a-z]+)", text) if name in COMMANDS]
    own = [name for place, name in OWN_COMMAND.items() if where.startswith(place)]
    return [*own, *said] if own else [*COMMANDS]


def flags() -> Iterator[tuple[str, str, str]]:
    for where, text in texts():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)?(?![\w{-])", text):
            yield where, text, flag


def test_every_flag_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(flags())
    assert len({flag for _, _, flag in found}) > 40
    wrong = [
        (where, flag, text)
        for where, text, flag in found
        if flag not in ("--help", "--version") and not any(takes(c, flag) for c in commands_of(where, text))
    ]
    assert not wrong
    capsys.readouterr()


def test_every_value_of_a_flag_is_one_of_its_choices() -> None:
    choices: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        kind = named(command.settings)
        for name, hint in inspect.get_annotations(kind, eval_str=True).items():
            values = {value for part in (hint, *getattr(hint, "__args__", ())) for value in _literals(part)}
            if values:
                choices.setdefault(f"--{name.replace('_', '-')}", set()).update(values)
    assert {"--rule", "--method", "--preset", "--optimizer"} <= set(choices)
    wrong = [
        (where, flag, value)
        for where, text in texts()
        for flag, value in re.findall(r"(--[a-z-]+) ([a-z0-9-]+)\b", text)
        if flag in choices and value not in choices[flag] | {"is", "and", "or", "out"}
    ]
    assert not wrong


def _literals(hint: Any) -> tuple[str, ...]:
    values = getattr(hint, "__args__", ())
    return values if values and all(isinstance(value, str) for value in values) else ()


def test_every_command_is_one() -> None:
    said = {(where, name) for where, text in texts() for name in re.findall(r"\bselfmask ([a-z]+)\b", text)}
    assert {name for _, name in said} & set(COMMANDS) >= {"adapt", "embed", "data", "serve"}
    assert not [(where, name) for where, name in said if name not in {*COMMANDS, *NO_COMMANDS}]


def test_every_call_is_one() -> None:
    tried = 0
    for where, text in texts():
        for owner, name, words in re.findall(r"\b(?:([a-z_]+)\.)?([a-z_]+)\(([^()]*)\)", text):
            if owner in HELD:
                found = getattr(HELD[owner], name, None)
            elif owner == "selfmask" or (not owner and name in ("build", "load")):
                found = getattr(selfmask, name, None) if name in selfmask.__all__ else None
            else:
                continue
            assert callable(found), (where, text)
            parameters = inspect.signature(found).parameters.values()
            given = set(re.findall(r"\b([a-z_]+)=", words))
            free = any(one.kind is one.VAR_KEYWORD for one in parameters)
            assert free or given <= {one.name for one in parameters}, (where, text)
            tried += 1
    assert tried > 8


def test_every_argument_is_one() -> None:
    """`download=True`, `weights=FILE`: in brackets beside a flag, for who calls from Python."""
    public = [getattr(selfmask, name) for name in selfmask.__all__]
    known = {word for one in public if one is not SelfmaskError for word in inspect.signature(one).parameters}
    said = {
        (where, word)
        for where, text in texts()
        if ">>>" not in text and ("--" in text or "base=" in text)
        for word in re.findall(r"\b([a-z_]+)=(?:[A-Z]{3,}|True|False)\b", text)
    }
    assert {word for _, word in said} >= {"weights", "download", "private"}
    assert not [(where, word) for where, word in said if word not in known]


def test_every_extra_and_page_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named_extras = {name for _, text in texts() for name in re.findall(r"selfmask\[([a-z]+)\]", text)}
    assert named_extras
    assert named_extras <= set(extras)
    pages = {page for _, text in texts() for page in re.findall(r"docs/[a-z./-]+\.md", text)}
    assert pages
    assert not [page for page in pages if not (ROOT / page).exists()]


def lines_of_pages() -> Iterator[tuple[str, str, str]]:
    """Each command line of the README and docs/: where, the command, and all behind it."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, words in re.findall(r"^ *(?:\$ )?selfmask ([a-z]+) (.*)$", text, re.MULTILINE):
            yield page.name, command, words.partition(" #")[0]


def test_every_command_line_of_the_pages_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(lines_of_pages())
    assert len(found) > 40
    assert not [(page, command) for page, command, _ in found if command not in COMMANDS]
    said = [(p, c, flag) for p, c, words in found for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9.-]*", words)]
    assert not [(page, command, flag) for page, command, flag in said if not takes(command, flag)]
    capsys.readouterr()
