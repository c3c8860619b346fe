"""The dashboard: what it shows under load, what may be done on it, which key it needs, and how it looks."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from dashboard_view import PHONE, dashboard, section
from local_pulls import pull_environment
from page_visit import Visit, violations
from pull_servers import pull_servers
from servers import PATIENCE, ServerProcess, fake, serving

#: Has the page believe that its tab is hidden, or that it is seen again.
_HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@contextlib.contextmanager
def load(port: int, streams: int, key: str = "") -> Iterator[None]:
    """So many replies that take minutes on a slow server."""
    body = {"model": "fake", "prompt": f"<say>{'x' * 2000}</say>", "stream": True, "max_tokens": 2000}
    url, headers = f"http://127.0.0.1:{port}/v1/completions", {"x-api-key": key} if key else {}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=PATIENCE))
        for _ in range(streams):
            stack.enter_context(client.stream("POST", url, json=body, headers=headers))
        yield


def chart(page: Page, title: str) -> Locator:
    """The chart with this title."""
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True))


def number(place: Locator) -> float:
    """The number that the place begins with."""
    return float(place.inner_text().split()[0].replace(",", ""))


@pytest.fixture(scope="module")
def narrow() -> Iterator[ServerProcess]:
    """Two requests at a time, 20 tokens a second each."""
    with fake("--ctx", "8192", "--parallel", "2", step=0.05) as server:
        yield server


def test_it_shows_the_load_as_it_comes_and_goes(narrow: ServerProcess, visit: Callable[..., Visit]) -> None:
    page = dashboard(visit(narrow.port))
    requests = section(page, "Requests 0")
    expect(requests).to_contain_text("No request runs or waits.")
    rate = chart(page, "Replies written").locator("dd").first
    assert number(rate) == 0
    with load(narrow.port, 3):
        rows = page.locator("tr[data-state]")
        expect(rows).to_have_count(3)
        expect(page.locator('tr[data-state="reply"]')).to_have_count(2)
        expect(page.locator('tr[data-state="queued"]')).to_have_count(1)
        expect(page.locator('li[data-code="queue"]')).to_contain_text("1 request waiting")
        expect(page.locator('li[data-code="queue"]')).to_contain_text("--parallel")
        expect(rate).not_to_have_text("0 tokens/s")
        queue = chart(page, "Requests").locator("dd")
        expect(queue.first).to_have_text("2")
        expect(queue.last).to_have_text("1")
        expect(chart(page, "Time between tokens").locator("dd").first).not_to_have_text("–")
        expect(section(page, "Engines")).to_contain_text("2.0 sequences each")
        written = page.locator('tr[data-state="reply"]').first.locator("td").nth(4)
        before = number(written)
        page.wait_for_function(
            "([cell, before]) => parseInt(cell.innerText) > before", arg=[written.element_handle(), before]
        )
        # Who may see a request may cancel it, with the keyboard, too. The one that waited runs then.
        button = page.locator('tr[data-state="reply"]').first.get_by_role("button")
        button.focus()
        page.keyboard.press("Enter")
        expect(rows).to_have_count(2)
        expect(page.locator('tr[data-state="reply"]')).to_have_count(2)
    expect(page.locator("tr[data-state]")).to_have_count(0)


def test_charts_have_a_text_and_a_table(narrow: ServerProcess, visit: Callable[..., Visit]) -> None:
    page = dashboard(visit(narrow.port))
    with load(narrow.port, 1):
        picture = chart(page, "Requests").get_by_role("img")
        expect(picture).to_have_attribute(
            "aria-label", re.compile("^Requests. running: now 1, lowest .*; waiting: now 0")
        )
        page.get_by_role("button", name="As tables").click()
        table = chart(page, "Requests").get_by_role("table")
        expect(table.get_by_role("columnheader")).to_have_text(["When", "running", "waiting"])
        expect(table.get_by_role("row").nth(1)).to_contain_text("now")
        page.reload()
        expect(chart(page, "Requests").get_by_role("table")).to_be_visible()


def test_a_page_that_opens_shows_the_minutes_before(narrow: ServerProcess, visit: Callable[..., Visit]) -> None:
    with load(narrow.port, 1):
        first = dashboard(visit(narrow.port))
        expect(chart(first, "Requests").locator("dd").first).to_have_text("1")
    page = dashboard(visit(narrow.port))
    picture = chart(page, "Requests").get_by_role("img")
    expect(picture).to_have_attribute("aria-label", re.compile("running: now 0, lowest 0, highest [12];"))


def test_a_hidden_tab_asks_for_nothing(narrow: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(narrow.port)
    page = dashboard(visitor)
    page.evaluate(_HIDE, True)
    page.wait_for_load_state("networkidle")
    asked = len(visitor.requests)
    page.wait_for_timeout(2500)
    assert len(visitor.requests) == asked
    with page.expect_request("**/stats/live*"):
        page.evaluate(_HIDE, False)


def _create(name: str, file: Path) -> str:
    program = str(Path(sys.executable).with_name("tailrace"))
    command = [program, "keys", "create", name, "--file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_says_which_key_it_needs(visit: Callable[..., Visit], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    alice = _create("alice", file)
    with fake("--parallel", "2", step=0.05, api_key="operator-key", keys_file=str(file)) as server:
        visitor = visit(server.port)
        page = visitor.open("#/machine").page
        dialog = page.get_by_role("dialog", name="API key needed")
        dialog.wait_for()
        page.keyboard.press("Escape")
        expect(page.locator("#content")).to_contain_text("This server shows its state to clients with a key.")
        page.get_by_role("button", name="Enter a key").click()
        _give(page, alice)
        log = section(page, "Log")
        expect(log).to_contain_text("The log is shown with the operator's key")
        with load(server.port, 1, "operator-key"):
            expect(page.locator("#content")).to_contain_text("1 requests of other clients aren't listed.")
            expect(page.locator("tr[data-state]")).to_have_count(0)
            log.get_by_role("button", name="Use another key").click()
            _give(page, "operator-key")
            expect(page.locator("tr[data-state]")).to_have_count(1)
            expect(log.get_by_role("listitem").first).to_be_visible()
            assert alice not in log.inner_text()


def _give(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name="API key needed")
    dialog.get_by_label("API key", exact=True).fill(key)
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()


def test_a_restart_under_the_open_view(visit: Callable[..., Visit]) -> None:
    with fake(step=0.002) as server:
        port = server.port
        page = dashboard(visit(port))
        server.process.kill()
    expect(page.get_by_text("Not reached")).to_be_visible()
    with fake("--port", str(port), step=0.002):
        expect(page.get_by_text("The server was started again at")).to_be_visible()
        expect(page.get_by_text("Serving", exact=True)).to_be_visible()
        expect(section(page, "Log").get_by_role("listitem").first).to_be_visible()


def test_models_are_loaded_and_unloaded(visit: Callable[..., Visit]) -> None:
    with fake("first", "second", step=0.002) as server:
        page = dashboard(visit(server.port))
        model = page.locator('li[data-model="second"]')
        expect(model).to_have_attribute("data-phase", "unloaded")
        page.get_by_role("button", name="Load second").click()
        expect(model).to_have_attribute("data-phase", "serving")
        expect(model).to_contain_text("Memory, at most")
        page.get_by_role("button", name="Unload second").click()
        expect(model).to_have_attribute("data-phase", "unloaded")
        expect(section(page, "Models")).to_contain_text("start the server with --manage-models")


def test_a_model_is_pulled_with_progress(visit: Callable[..., Visit], tmp_path: Path) -> None:
    may_go_on = threading.Event()
    with pull_servers() as (hub, registry, storage):
        registry.add("model", b"GGUF" + random.Random(1).randbytes(3_000_000))

        def pause(sent: int) -> None:
            if sent >= 1_000_000:
                may_go_on.wait(PATIENCE)

        storage.behaviour.pause = pause
        environment = pull_environment(tmp_path, hub, registry)
        environment = {name: value for name, value in environment.items() if name.startswith(("HF_", "TAILRACE_"))}
        environment |= {"NO_PROXY": "127.0.0.1"}
        with serving("--backend", "fake", "--manage-models", environment=environment) as server:
            page = dashboard(visit(server.port))
            models = section(page, "Models")
            models.get_by_label("Download a model").fill("tiny:1b")
            models.get_by_role("button", name="Download").click()
            bar = models.get_by_role("progressbar")
            page.wait_for_function("bar => bar.value > 0 && bar.value < 0.9", arg=bar.element_handle())
            may_go_on.set()
            expect(models).to_contain_text("It is on the server's disk.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_dashboard(
    narrow: ServerProcess, visit: Callable[..., Visit], axe: str, theme: str
) -> None:
    # The policy lets axe's source in by the tools of the browser alone.
    page = dashboard(visit(narrow.port, color_scheme=theme, bypass_csp=True))
    found = {"idle": violations(page, axe)}
    with load(narrow.port, 3):
        expect(page.locator('tr[data-state="queued"]')).to_have_count(1)
        found["load"] = violations(page, axe)
        page.get_by_role("button", name="As tables").click()
        found["tables"] = violations(page, axe)
        page.set_viewport_size(PHONE)
        found["phone"] = violations(page, axe)
        page.get_by_label("Language").select_option("zh")
        expect(page.get_by_role("heading", name="当前的瓶颈")).to_be_visible()
        expect(page.locator('li[data-code="queue"]')).to_contain_text("请求多于槽位")
        found["chinese"] = violations(page, axe)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_the_dashboard_on_a_phone(narrow: ServerProcess, visit: Callable[..., Visit]) -> None:
    page = dashboard(visit(narrow.port, viewport=PHONE, has_touch=True, is_mobile=True))
    with load(narrow.port, 3):
        expect(page.locator("tr[data-state]")).to_have_count(3)
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        place = page.locator("#content")
        assert place.evaluate("element => element.scrollWidth <= element.clientWidth")
        page.locator("tr[data-state]").first.get_by_role("button").tap()
        expect(page.locator("tr[data-state]")).to_have_count(2)
