"""Checkpoints: every bit comes back, damage is told, a full disk loses nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from selfmask.errors import RunError
from selfmask.run import checkpoint
from selfmask.run.checkpoint import FORMAT, read_checkpoint, write_checkpoint

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=5),
    st.integers(0, 6).map(lambda n: torch.randn(n, 2)),
    st.sampled_from([torch.tensor(3), torch.zeros(2, dtype=torch.bool), torch.ones(1, dtype=torch.float64)]),
)  # fmt: skip
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.integers(0, 9), st.text(max_size=4)), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))  # pyright: ignore[reportArgumentType]
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.text(max_size=6), STATES, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, state: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    write_checkpoint(path, state)
    assert same(read_checkpoint(path), state)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"a": torch.ones(4)})
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"pickle?" * 10):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"damaged|not a checkpoint"):
            read_checkpoint(path)
    path.write_bytes(save({"/a": torch.ones(4)}, {"format": FORMAT, "state": '{"list": [{"tensor": "/a"}]}'}))
    with pytest.raises(RunError, match=r"damaged: at its root is list, not a dictionary"):
        read_checkpoint(path)


def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(RunError, match="No space left on device; the checkpoint before it is kept"):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
