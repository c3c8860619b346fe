"""The server's page in Chromium: what a test does on it, and what must never happen while it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, FilePayload, Locator, Page, Request

#: Milliseconds until something that a test waits for has to be there: generous, for slow machines.
PATIENCE = 30_000
#: What the browser itself writes when a server can't be reached, or answers with an error.
_NETWORK = "Failed to load resource"


@dataclass
class Visit:
    """Pages of one visitor. ``wrongs`` has what a page must never do: errors, dialogs, requests to other hosts."""

    context: BrowserContext
    origin: str
    requests: list[Request] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    def open(self, view: str = "#/chat") -> ChatPage:
        """The page in one more tab."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        page.on("console", self._on_console)
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)
        page.goto(f"{self.origin}/{view}")
        page.locator("#content").wait_for()
        return ChatPage(page)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and _NETWORK not in message.text:
            self.wrongs.append(f"console: {message.text}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.wrongs.append(f"request: {request.url}")

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the chat's requests so far."""
        sent = [request for request in self.requests if urlsplit(request.url).path.endswith("/chat/completions")]
        return [json.loads(request.post_data or "") for request in sent]


class ChatPage:
    """The chat in one tab, by what a reader of the page sees: labels and texts, in English."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.field = page.get_by_role("textbox", name="Message", exact=True)
        self.replies = page.get_by_role("article", name="Reply")
        self.own = page.get_by_role("article", name="You")
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)

    def button(self, name: str) -> Locator:
        """The buttons with this label."""
        return self.page.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> None:
        """Write a message and send it."""
        self.field.fill(text)
        self.field.press("Enter")

    def ended(self, state: str = "complete", count: int = 1) -> Locator:
        """The last of ``count`` replies, once it has ended so."""
        reply = self.replies.nth(count - 1)
        self.page.locator(f'article[data-state="{state}"]').and_(reply).wait_for()
        return reply

    def ask(self, text: str, count: int = 1) -> str:
        """Send a message; the text of the reply, which is the ``count``-th of the conversation."""
        self.send(text)
        return shown_text(self.ended(count=count))

    def conversations(self) -> list[str]:
        """The titles in the list."""
        return self.page.locator(".conversation > a").all_inner_texts()

    def take_export(self, export: object) -> None:
        """Import conversations."""
        file: FilePayload = {
            "name": "export.json",
            "mimeType": "application/json",
            "buffer": json.dumps(export).encode(),
        }
        self.page.locator(".panel-foot input").set_input_files(file)
        self.page.get_by_text("Conversations imported").wait_for()

    def settle(self) -> None:
        """Return when the list has the open conversation: then the browser has stored it."""
        self.page.locator('.conversation > a[aria-current="true"]').wait_for()


def shown_text(reply: Locator) -> str:
    """A reply's text without its figures and buttons."""
    return reply.locator(".markdown").last.inner_text().strip()


def violations(page: Page, source: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """What axe (its ``source``) finds wrong on the page as it is."""
    page.evaluate(source)
    found = page.evaluate("options => axe.run(document, options)", dict(options or {}))
    assert found["passes"], "axe has looked at nothing"
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:160]} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
