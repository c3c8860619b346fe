"""The page in Chromium: collected by ``make test-clients`` alone, which sees to it that there is one.

Playwright's event loop runs as long as its browser, so these tests have a process of pytest to themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from page_visit import Visit
from servers import ServerProcess, fake
from setup_clients import CHROMIUMS

if "TAILRACE_TEST_CLIENTS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser. Root can't have its sandbox."""
    path = next(path for name in CHROMIUMS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scripted() -> Iterator[ServerProcess]:
    """A server whose replies are scripted, as fast as the wire is."""
    with fake("--ctx", "32768", "--parallel", "8", step=0.0005) as server:
        yield server


@pytest.fixture(scope="session")
def slow() -> Iterator[ServerProcess]:
    """The same at 20 tokens a second: its replies can be looked at while they come."""
    with fake("--ctx", "32768", "--parallel", "8", step=0.05) as server:
        yield server


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which ``scripts/setup_page.py --dev`` installs."""
    return (ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Begins visits to a server: a fresh browser profile each. At the end no page may have done anything wrong."""
    begun: list[Visit] = []

    def begin(port: int, prefix: str = "", **options: Any) -> Visit:
        # The tests read the page in English, whatever the machine's language is.
        context = chromium.new_context(**{"locale": "en-US", **options})
        begun.append(Visit(context, f"http://127.0.0.1:{port}{prefix}"))
        return begun[-1]

    yield begin
    for one in begun:
        one.context.close()
    assert [wrong for one in begun for wrong in one.wrongs] == []
