"""The examples in public docstrings are true: each runs in a folder with the photographs and runs that it speaks of."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator

import pytest

import selfmask
from selfmask.objectives.registry import OBJECTIVES

NEED_A_HUB = {"from_hub", "push_to_hub"}
"""They speak to a hub; tests/cli/test_hub.py makes the same calls to a stand-in of one."""


@pytest.fixture
def objectives() -> Iterator[None]:
    """Takes back what an example registers."""
    before = dict(OBJECTIVES)
    yield
    OBJECTIVES.clear()
    OBJECTIVES.update(before)


def example_of(name: str) -> doctest.DocTest:
    found = getattr(selfmask, name)
    names = vars(importlib.import_module(found.__module__)) | {"selfmask": selfmask}
    return doctest.DocTestParser().get_doctest(inspect.getdoc(found) or "", dict(names), name, None, 0)


@pytest.mark.parametrize("name", selfmask.__all__)
def test_each_has_an_example(name: str) -> None:
    example = example_of(name)
    assert example.examples
    assert not any(doctest.SKIP in one.options for one in example.examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(selfmask.__all__) - NEED_A_HUB))
@pytest.mark.usefixtures("here", "objectives")
def test_the_example_is_true(name: str) -> None:
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example_of(name), out=said.append)
    assert not said, "".join(said)
