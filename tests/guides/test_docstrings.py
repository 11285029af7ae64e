"""The examples in public docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import selfmask

TASKS = {"adapt", "analyze", "apply", "cascade", "combine", "compact", "compare", "embed", "evaluate", "export",
         "inspect", "predict", "report", "search"}  # fmt: skip
"""Commands as calls: tests/guides/test_tutorials.py and examples/ run them."""
BY_OTHERS = {"Backbone", "Handle", "Job", "Mask", "Objective", "backbone_of", "from_hub", "push_to_hub"}
"""Made by other names, whose examples show them, or in need of a hub."""
WITH_EXAMPLE = sorted(set(selfmask.__all__) - TASKS - BY_OTHERS)


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_example_is_true(name: str) -> None:
    found = getattr(selfmask, name)
    names = vars(importlib.import_module(found.__module__)) | {"selfmask": selfmask}
    text = inspect.getdoc(found) or ""
    example = doctest.DocTestParser().get_doctest(text, dict(names), name, None, 0)
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)
