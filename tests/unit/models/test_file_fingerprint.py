"""The fingerprint of a model file."""

from __future__ import annotations

from pathlib import Path

from tailrace.models.file_fingerprint import fingerprint


def test_changes_in_sampled_places_and_in_size_change_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = bytearray(16 * 1024 * 1024)
    path.write_bytes(content)
    first = fingerprint(path)
    for place in (0, len(content) // 63 * 20, len(content) - 1):
        changed = bytearray(content)
        changed[place] = 1
        path.write_bytes(changed)
        assert fingerprint(path) != first
    path.write_bytes(content + b"\0")
    assert fingerprint(path) != first
