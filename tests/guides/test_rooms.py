"""The rooms stand in an order, and each imports only from those before it."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "selfmask"
ORDER = [
    "version", "errors", "_common", "masking", "maskfile", "maskset", "backbones", "images", "features",
    "objectives", "run", "cascade", "report", "tasks", "cli",
]  # fmt: skip

# Doors that open upward, and only when called: a mask set saves itself, a mask finds its base again.
DOORS = {("maskfile/mask.py", "backbones")}


def imports(path: Path) -> set[str]:
    """Rooms that a module imports at run time: what stands under `if TYPE_CHECKING` does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("selfmask"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("selfmask.")}
    return found


def test_imports_point_backward() -> None:
    wrong: list[str] = []
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE).as_posix()
        room = inside.split("/")[0].removesuffix(".py")
        if room not in ORDER:
            assert inside in ("__init__.py", "__main__.py"), f"{inside} stands in no room"
            continue
        wrong.extend(
            f"{inside} imports {other}"
            for other in imports(path) & set(ORDER)
            if ORDER.index(other) > ORDER.index(room) and (inside, other) not in DOORS
        )
    assert not wrong, "\n".join(wrong)


def test_files_are_small() -> None:
    long = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert not long, f"one idea a file: {long}"


def test_nothing_is_called_utils() -> None:
    assert not list(SOURCE.rglob("util*.py"))
