"""bundle.py: the compiled files of a wheel are found, and a checkout has none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace import bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(bundle, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    bundle.compiler.cache_clear()
    yield tmp_path
    bundle.compiler.cache_clear()


def test_a_checkout_has_no_bundle(folder: Path) -> None:
    before = list(sys.path)
    bundle.expose_binding()
    assert not bundle.is_there()
    assert sys.path == before
    assert bundle.library("kernels", "avx2") is None


def test_the_bundled_binding_comes_before_all_others(folder: Path) -> None:
    (folder / "bundle.json").write_text('{"compiler": "gcc 12", "tiers": []}', encoding="utf-8")
    bundle.expose_binding()
    bundle.expose_binding()
    assert bundle.compiler() == "gcc 12"
    assert sys.path[0] == str(folder / "packages")
    assert sys.path.count(sys.path[0]) == 1


def test_a_library_has_its_tier_in_its_name(folder: Path) -> None:
    (folder / "libraries").mkdir()
    (folder / "libraries" / "kernels-avx2.so").touch()
    assert bundle.library("kernels", "avx2") == folder / "libraries" / "kernels-avx2.so"
    assert bundle.library("kernels", "amx") is None
