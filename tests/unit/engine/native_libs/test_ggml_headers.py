"""Finding llama.cpp's headers, and the versions of the binding that are known."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tailrace.engine.native_libs import NativeUnavailable, ggml_headers

ROOT = Path(__file__).parents[4]


def test_headers_are_those_of_the_installed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ggml_headers, "binding_version", lambda: "1.2.3")
    folder = tmp_path / "tailrace" / "ggml-headers" / "1.2.3"
    with pytest.raises(NativeUnavailable, match=r"aren't in .*1\.2\.3: run python3 scripts/setup\.py"):
        ggml_headers.ggml_headers()
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "ggml.h").write_text("", encoding="utf-8")
    assert ggml_headers.ggml_headers() == folder
    assert ggml_headers.include_folders() == (folder / "include", folder / "src", folder / "src" / "ggml-cpu")


def test_pyproject_allows_the_known_versions_and_no_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = [text for text in project["project"]["dependencies"] if text.startswith("llama-cpp-python")]
    (known,) = ggml_headers.KNOWN_VERSIONS
    assert requirement == f"llama-cpp-python=={known}"
    assert f"\nllama-cpp-python=={known}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
