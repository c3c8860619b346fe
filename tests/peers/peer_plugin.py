"""A pytest plugin for llama.cpp's server tests: tailrace is what they start, and known misses are expected.

What they import beyond this repository's own environment downloads models and keeps parallel runs apart. Neither
happens here, so stand-ins take its place.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import pytest
import tailrace_server
from known_misses import FRESH, MISSES, UNRUN, VARYING


def _stand_in(name: str, **attributes: object) -> None:
    module = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    sys.modules[name] = module


_stand_in("wget")
_stand_in("filelock", FileLock=lambda path: contextlib.nullcontext())


def pytest_configure(config: pytest.Config) -> None:
    """Patch the tests' own module before they import it."""
    folder = Path.cwd() / "tmp"
    folder.mkdir(exist_ok=True)
    tailrace_server.patch(importlib.import_module("utils"), folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what can't run here, and mark what is known to miss. A miss that has become a pass is a failure."""
    out = [item for item in items if _module(item) in UNRUN or item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
    for item in items:
        name = name_of(item)
        for misses, strict in ((MISSES, True), (VARYING, False)):
            for pattern, why in misses.items():
                if fnmatchcase(name, pattern):
                    item.add_marker(pytest.mark.xfail(reason=why, strict=strict))


def name_of(item: pytest.Item) -> str:
    """The test's name as ``known_misses`` has it: ``test_basic::test_server_props``. Brackets are patterns there."""
    return f"{_module(item)}::{item.name}".replace("[", "(").replace("]", ")")


def _module(item: pytest.Item) -> str:
    return item.path.stem


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Some tests count what a server has done since its start."""
    tailrace_server.SERVERS.fresh = _module(item) in FRESH


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """Leave nothing running."""
    yield
    tailrace_server.SERVERS.stop()
