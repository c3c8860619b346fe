"""The view of the machine in a browser, and its parts by their headings."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, ViewportSize

from page_visit import Visit

PHONE: ViewportSize = {"width": 375, "height": 740}


def dashboard(visitor: Visit) -> Page:
    """The view in a new tab, with its first answer."""
    page = visitor.open("#/machine").page
    page.get_by_role("heading", name="Log", exact=True).wait_for()
    return page


def section(page: Page, name: str) -> Locator:
    """The part of the view with this heading."""
    return page.get_by_role("region", name=name, exact=True).first
