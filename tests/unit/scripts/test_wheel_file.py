"""scripts/wheel_file.py: a wheel of tailrace's and llama.cpp's files, with true metadata and RECORD."""

from __future__ import annotations

import base64
import hashlib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from wheel_file import BUNDLE, add_bundle, read_entries, replace_binding, requirements, write_wheel

INFO, THEIRS = "tailrace-1.2.dist-info", "llama_cpp_python-0.3.dist-info"
PURE = {
    "tailrace/__init__.py": b"",
    f"{INFO}/METADATA": b"Name: tailrace\nRequires-Dist: gguf>=0.10\nRequires-Dist: llama-cpp-python==0.3\n"
    b"Requires-Dist: rich>=13\nRequires-Dist: x; extra == 'dev'\n\nRequires-Dist: llama\n",
    f"{INFO}/WHEEL": b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": b"old\n",
}
BINDING = {
    "llama_cpp/__init__.py": b"x = 1\n",
    "llama_cpp/lib/libllama.so": b"\x7fELF",
    "llama_cpp/lib/avx2/libggml-cpu.so": b"\x7fELF2",
    "llama_cpp/server/app.py": b"",
    "include/llama.h": b"",
    "lib64/libllama.so": b"\x7fELF",
    "bin/convert.py": b"",
    f"{THEIRS}/METADATA": b"Name: llama_cpp_python\nRequires-Dist: diskcache>=5\n"
    b"Requires-Dist: numpy>=1.20\nRequires-Dist: fastapi; extra == 'server'\n\n",
    f"{THEIRS}/RECORD": b"old\n",
    f"{THEIRS}/licenses/LICENSE.md": b"MIT\n",
}


def test_the_bundle_has_the_binding_and_its_licence_and_no_more() -> None:
    entries = add_bundle(PURE, BINDING, '{"compiler": "gcc"}')
    assert {name for name in entries if name.startswith(BUNDLE)} == {
        f"{BUNDLE}/bundle.json",
        f"{BUNDLE}/packages/{THEIRS}/METADATA",
        f"{BUNDLE}/packages/{THEIRS}/licenses/LICENSE.md",
        f"{BUNDLE}/packages/llama_cpp/__init__.py",
        f"{BUNDLE}/packages/llama_cpp/lib/avx2/libggml-cpu.so",
        f"{BUNDLE}/packages/llama_cpp/lib/libllama.so",
    }
    assert b"Root-Is-Purelib: false" in entries[f"{INFO}/WHEEL"]


def test_the_wheel_requires_what_the_binding_does_in_its_place() -> None:
    metadata = add_bundle(PURE, BINDING, "{}")[f"{INFO}/METADATA"].decode()
    message = Parser().parsestr(metadata)
    assert message.get_all("Requires-Dist") == [
        *("gguf>=0.10", "diskcache>=5", "numpy>=1.20", "rich>=13"),
        "x; extra == 'dev'",
    ]
    assert message.get_payload() == "Requires-Dist: llama\n", "the description is as it was"
    assert requirements(metadata)[-1] == "rich>=13"
    with pytest.raises(ValueError, match="doesn't require llama-cpp-python"):
        replace_binding("Name: x\n", [])


def test_the_record_has_each_file_with_its_digest(tmp_path: Path) -> None:
    entries = add_bundle(PURE, BINDING, "{}")
    wheel = write_wheel(entries, tmp_path)
    assert wheel.name == "tailrace-1.2-py3-none-linux_x86_64.whl"
    with ZipFile(wheel) as opened:
        found = read_entries(opened)
    lines = [line.rsplit(",", 2) for line in found.pop(f"{INFO}/RECORD").decode().splitlines()]
    assert found == entries
    assert lines.pop() == [f"{INFO}/RECORD", "", ""]
    for name, digest, size in lines:
        expected = base64.urlsafe_b64encode(hashlib.sha256(entries[name]).digest()).decode().rstrip("=")
        assert (digest, size) == (f"sha256={expected}", str(len(entries[name])))
    assert {line[0] for line in lines} == set(entries)
