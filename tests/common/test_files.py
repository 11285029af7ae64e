"""Files that are written at once, or not at all."""

from __future__ import annotations

from pathlib import Path

from selfmask._common.files import write_atomically


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "a.mask.safetensors"
    write_atomically(path, b"first")
    path.chmod(0o600)
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
