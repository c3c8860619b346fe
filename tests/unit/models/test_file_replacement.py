"""Small files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.models.file_replacement import replace_file


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "file"
    replace_file(file, b"first")
    replace_file(file, b"second")
    assert file.read_bytes() == b"second"

    def fail(source: str, target: Path) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        replace_file(file, b"third")
    assert [(path.name, path.read_bytes()) for path in file.parent.iterdir()] == [("file", b"second")]
