"""What the site is made of beside these pages: the command line and the Python names, from the code itself."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import selfmask
from selfmask.cli import COMMANDS, named
from selfmask.cli.parse import OWN, words_of
from selfmask.objectives.registry import OBJECTIVES

_LEAVES = re.compile(r"\[([^\]]+)\]\(\.\./(?!tutorials/|howto/)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that nobody writes, and the front page, which is the README."""
    readme = Path(config.config_file_path).parent / "README.md"
    for path, content in (
        ("reference/cli.md", command_line()),
        ("reference/api.md", python_names()),
        ("index.md", front_page(readme.read_text(encoding="utf-8"))),
    ):
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to what lies beside docs/ in the repository is its words alone: the site does not hold it.

    No line is broken within a number and its deviation.
    """
    markdown = markdown.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    inside = page.file.src_uri.startswith(("tutorials/", "howto/"))
    return markdown if inside else _LEAVES.sub(r"\1", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The theme's search asks another host for a script where pages lie on a disk; ours lies beside them.

    A heading of a table that says nothing is none.
    """
    output = re.sub(r"<th(?: [^>]*)?></th>", "<td></td>", output)
    return _local_shim(output, "../" * page.file.dest_uri.count("/"))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same of the page that says that there is none."""
    return _local_shim(output_content, "/") if template_name.endswith(".html") else output_content


def _local_shim(page: str, top: str) -> str:
    page = page.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )
    return page.replace("https://unpkg.com/iframe-worker/shim", f"{top}assets/iframe-worker.js")


def front_page(readme: str) -> str:
    """The README, its links seen from docs/."""
    inside = re.sub(r"\]\(docs/", "](", readme)
    return re.sub(r"\[([^\]]+)\]\((?:CONTRIBUTING\.md|paper/[^)]*|LICENSE)\)", r"\1", inside)


def command_line() -> str:
    """Every command, its words and its flags."""
    page = [
        "# The command line",
        "Generated from the code. Every command takes `--json`, and those that learn, measure or use are one call from "
        "Python with the same names.",
    ]
    for name, command in COMMANDS.items():
        kind = named(command.settings)
        page += [f"## selfmask {name}", inspect.cleandoc(kind.__doc__ or ""), *_table(kind, "--")]
    page += ["## Settings of the objectives"]
    for name, objective in OBJECTIVES.items():
        page += [f"### --objective {name}", *_table(objective.Settings, f"--{name}.")]
    return "\n\n".join(page) + "\n"


def _table(kind: Any, dashes: str) -> list[str]:
    words, rows = words_of(kind), ["| flag | what it says | default |", "|---|---|---|"]
    for field in fields(kind):
        if field.name == OWN:
            continue
        default = "" if field.default in (MISSING, None, ()) else f"`{field.default}`"
        flag = f"{dashes}{field.name.replace('_', '-')}"
        rows.append(f"| `{flag}` | {_cell(words.get(field.name, ''))} | {_cell(default)} |")
    return ["\n".join(rows)] if len(rows) > 2 else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def python_names() -> str:
    """Every public name; a task's arguments are the fields of its settings."""
    page = [
        "# Python",
        "The public names. What is not here is private and may change.",
        "`import selfmask` loads nothing heavy: each name is imported when it is first asked for.",
    ]
    for name in selfmask.__all__:
        found = getattr(selfmask, name)
        command = COMMANDS.get(name)
        if command is not None and not inspect.isclass(found):
            path = command.settings.replace(":", ".")
            page += [
                f"## selfmask.{name}",
                f"`selfmask {name}` as one call.",
                _fenced(inspect.getdoc(named(command.task)) or ""),
                f"::: selfmask.{path}\n    options: {{heading_level: 3}}",
            ]
        else:
            page.append(f"::: {found.__module__}.{found.__qualname__}")
    return "\n\n".join(page) + "\n"


class ExamplesAsCode(griffe.Extension):
    """What stands behind >>> in a docstring is code; markdown would take it for quotations within quotations."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _fenced(obj.docstring.value)


_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1(?! *$).+)*", re.MULTILINE)
"""To the next empty line, or one that is indented less."""


def _fenced(text: str) -> str:
    """A docstring as markdown: its examples are code."""
    return _EXAMPLE.sub(lambda example: f"{example[1]}```pycon\n{example[0]}\n{example[1]}```", text)
