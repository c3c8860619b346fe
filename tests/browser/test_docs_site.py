"""The documentation site in Chromium, read from its folder: nothing of another host, no page too wide, a search."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site() -> Path:
    """The built site."""
    subprocess.run([sys.executable, str(ROOT / "scripts" / "docs.py")], check=True, capture_output=True)
    return ROOT / "site"


def watched(page: Page) -> list[str]:
    """What goes wrong on the page from now on: errors, and requests that leave the folder."""
    wrongs: list[str] = []
    page.on("pageerror", lambda error: wrongs.append(f"error: {error}"))
    page.on("console", lambda message: wrongs.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if re.match("file:|data:|blob:", request.url) else wrongs.append(request.url),
    )
    return wrongs


def test_every_page_fits_a_phone_and_loads_nothing_from_elsewhere(chromium: Browser, site: Path) -> None:
    page = chromium.new_page(viewport=PHONE)  # type: ignore[arg-type]  # a TypedDict there
    wrongs = watched(page)
    # 404.html is sent for other addresses, so its own are absolute and need a server.
    pages = sorted(set(site.rglob("*.html")) - {site / "404.html"})
    too_wide = []
    for path in pages:
        page.goto(path.as_uri(), wait_until="load")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            too_wide.append(path.name)
        # A picture that is missing has no width.
        wrongs += page.evaluate("[...document.images].filter(i => !i.naturalWidth && i.offsetParent).map(i => i.src)")
    page.close()
    assert len(pages) > 30
    assert (too_wide, wrongs) == ([], [])


def test_the_search_finds_a_setting_without_a_server(chromium: Browser, site: Path) -> None:
    page = chromium.new_page()
    wrongs = watched(page)
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.keyboard.type("checkpoint_mb")
    page.locator(".md-search-result__item", has_text="Settings").first.wait_for(timeout=30_000)
    page.close()
    assert wrongs == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_are_those_of_the_page_s_colours(chromium: Browser, site: Path, scheme: str) -> None:
    context = chromium.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    page.goto((site / "performance.html").as_uri())
    shown = page.evaluate("[...document.images].filter(i => i.offsetParent).map(i => i.src)")
    context.close()
    assert shown
    assert all(source.endswith(f"#only-{scheme}") for source in shown)
