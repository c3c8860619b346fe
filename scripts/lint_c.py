"""Checks the C code with clang-format and cppcheck, where they are installed; ``--fix`` formats it instead.

Debian and Ubuntu have both as packages: sudo apt install clang-format cppcheck.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
#: The version that .clang-format is written for, Debian 12's. Others format some lines otherwise.
CLANG_FORMAT = 14
CPPCHECK = (
    "--quiet",
    "--std=c11",
    "--language=c",
    "--enable=warning,performance,portability",
    "--inline-suppr",
    "--error-exitcode=1",
    # Tensors' bytes are read as numbers everywhere, and compilers for the CPUs in question shift signs.
    "--suppress=invalidPointerCast",
    "--suppress=shiftTooManyBitsSigned",
    "--template={file}:{line}: {severity}: {message} [{id}]",
    f"-I{SOURCES / 'tailrace/engine/kernels'}",
)


def main() -> int:
    """The exit code: 0 where nothing is wrong, or nothing can be checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true", help="format the files, and check nothing")
    arguments = parser.parse_args()
    files = sorted(map(str, SOURCES.rglob("*.[ch]")))
    failed = _format(files, fix=arguments.fix)
    if not arguments.fix:
        failed |= _lint(files)
    return int(failed)


def _format(files: list[str], *, fix: bool) -> bool:
    """Whether a file has another format."""
    if (version := _clang_format_version()) != CLANG_FORMAT:
        found = f"clang-format {version} is" if version else "clang-format isn't"
        print(f"C format not checked: {found} installed, and the style is for version {CLANG_FORMAT}")
        return False
    command = ["clang-format", *(["-i"] if fix else ["--dry-run", "--Werror"]), *files]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    for path in sorted(
        set(re.findall(r"^(.+?):\d+:\d+: error: code should be clang-formatted", done.stderr, re.MULTILINE))
    ):
        print(f"{path}: not formatted, see `make format`")
    return done.returncode != 0


def _clang_format_version() -> int | None:
    if not shutil.which("clang-format"):
        return None
    text = subprocess.run(["clang-format", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", text)
    return int(found[1]) if found else None


def _lint(files: list[str]) -> bool:
    """Whether cppcheck finds something."""
    if not shutil.which("cppcheck"):
        print("C not linted: cppcheck isn't installed (Debian, Ubuntu: sudo apt install cppcheck)")
        return False
    command = ["cppcheck", *CPPCHECK, *(file for file in files if file.endswith(".c"))]
    return subprocess.run(command, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
