"""docs/architecture.md names the packages and modules that there are, and the layers that are enforced."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "tailrace"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: Where the document's paths may begin.
BASES = (SOURCES, ROOT, ROOT / "docs")
#: Of the built page: git doesn't have them.
MADE = {"server/page/built/"}


def paths(text: str) -> set[str]:
    """The files and folders in backticks."""
    return {
        path
        for path in re.findall(r"`([^`\s]+)`", text)
        if re.fullmatch(r"[\w./*-]+\.(py|c|h|cmake|ts|tsx|toml|yml)|\w[\w/]*/", path)
    }


def exists(path: str) -> bool:
    """Whether there is such a file or folder. A path without folders may be of the same package as the one before."""
    below = (folder.rglob(path.rstrip("/")) for folder in (SOURCES, ROOT / "web" / "src"))
    return any(any(base.glob(path)) for base in BASES) or any(map(any, below))


def test_every_path_leads_somewhere() -> None:
    assert [path for path in sorted(paths(DOCUMENT) - MADE) if not exists(path)] == []
    assert not exists("engine/no_such_module.py"), "a path that leads nowhere is found"


def test_every_package_and_module_of_the_two_upper_levels_has_its_row() -> None:
    rows = paths("\n".join(line for line in DOCUMENT.splitlines() if line.startswith("| `")))
    for folder in (SOURCES, SOURCES / "engine"):
        found = {each.name for each in folder.glob("*.py")} - {"__init__.py"}
        found |= {f"{each.parent.name}/" for each in folder.glob("*/__init__.py")}
        assert found - rows == set(), folder


def test_the_layers_are_those_that_are_enforced() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    enforced = [re.sub(r"[()]", "", layer) for layer in tools["importlinter"]["contracts"][0]["layers"]]
    block = re.search(r"```\n(cli\n.*?)```", DOCUMENT, re.DOTALL)
    assert block is not None
    assert block[1].splitlines() == enforced
