"""Turns tailrace's pure wheel and llama.cpp's into one wheel. Pure: names and contents of files in, a wheel out.

A wheel can't hold two distributions. So the binding's package and metadata lie in ``tailrace/bundled/packages``, which
tailrace puts on the path, and the wheel requires what the binding requires in the binding's place.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

BUNDLE = "tailrace/bundled"
#: The tag before the audit, which finds the oldest Linux.
TAG = "py3-none-linux_x86_64"
#: Of the binding's package: parts that tailrace doesn't use, and what only a compiler needs.
_LEFT_OUT = re.compile(r"llama_cpp/server/|(?!llama_cpp/|llama_cpp_python-)|.*\.(cmake|a|h)$")


def read_entries(wheel: ZipFile) -> dict[str, bytes]:
    """A wheel's files."""
    return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}


def add_bundle(pure: Mapping[str, bytes], binding: Mapping[str, bytes], record: str) -> dict[str, bytes]:
    """The files of tailrace's wheel with the binding's inside. ``record`` is what ``tailrace.bundle`` reads."""
    entries = {name: content for name, content in pure.items() if not name.endswith(".dist-info/RECORD")}
    kept = {name: content for name, content in binding.items() if not _LEFT_OUT.match(name)}
    entries |= {f"{BUNDLE}/packages/{name}": content for name, content in kept.items() if not name.endswith("/RECORD")}
    entries[f"{BUNDLE}/bundle.json"] = record.encode()
    info = _dist_info(pure)
    needed = requirements(binding[f"{_dist_info(binding)}/METADATA"].decode())
    entries[f"{info}/METADATA"] = replace_binding(pure[f"{info}/METADATA"].decode(), needed).encode()
    entries[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tailrace\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode()
    return entries


def requirements(metadata: str) -> list[str]:
    """What a distribution requires without its extras."""
    message = Parser().parsestr(metadata, headersonly=True)
    return [line for line in message.get_all("Requires-Dist", []) if "extra ==" not in line]


def replace_binding(metadata: str, needed: list[str]) -> str:
    """tailrace's metadata with the binding's requirements in place of the binding. Raises ValueError without it."""
    lines = "".join(f"Requires-Dist: {each}\n" for each in needed)
    ours = re.compile(r"^Requires-Dist: llama[-_]cpp[-_]python.*\n", re.MULTILINE)
    changed, count = ours.subn(lambda _: lines, metadata)
    if count != 1:
        raise ValueError("tailrace's metadata doesn't require llama-cpp-python")
    return changed


def write_wheel(entries: Mapping[str, bytes], folder: Path) -> Path:
    """Write the wheel of these files, with its RECORD."""
    info = _dist_info(entries)
    path = folder / f"{info.removesuffix('.dist-info')}-{TAG}.whl"
    with ZipFile(path, "w", ZIP_DEFLATED) as wheel:
        for name, content in sorted(entries.items()):
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", _record(entries, f"{info}/RECORD"))
    return path


def _record(entries: Mapping[str, bytes], own: str) -> str:
    """RECORD's lines, as the standard of wheels has them."""
    lines = []
    for name, content in sorted(entries.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join(lines) + f"{own},,\n"


def _dist_info(entries: Mapping[str, bytes]) -> str:
    (found,) = {name.split("/", 1)[0] for name in entries if name.split("/", 1)[0].endswith(".dist-info")}
    return found
