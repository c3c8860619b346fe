"""The dashboard's devices: those of a worker beside this machine's, and the link to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import expect

from dashboard_view import PHONE, dashboard, section
from page_visit import Visit, violations
from servers import PATIENCE, ServerProcess, fake, serving
from worker_process import WorkerProcess

_HOSTILE = "<img src=x onerror=alert(1)>" + "x" * 60


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    """A worker on loopback, with this machine's CPU."""
    process = WorkerProcess()
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def placed(worker: WorkerProcess) -> Iterator[ServerProcess]:
    """The starter model, with 12 layers on the worker."""
    with serving(
        "smollm2-135m", "--ctx", "2048", "--devices", f"local,{worker.endpoint}", "--gpu-layers", "12"
    ) as server:
        yield server


def test_a_workers_device_and_link_are_shown(
    placed: ServerProcess, worker: WorkerProcess, visit: Callable[..., Visit]
) -> None:
    page = dashboard(visit(placed.port))
    machines = section(page, "Devices").locator(".machine")
    expect(machines).to_have_count(2)
    expect(machines.first).to_contain_text("This machine")
    expect(machines.first).to_contain_text("local: 18 layers")
    expect(machines.last).to_contain_text(f"{worker.endpoint}: 12 layers")
    expect(machines.last.locator('[data-device="cpu"]')).to_contain_text("free")
    rates = machines.last.locator(".facts dd")
    expect(rates).to_contain_text("0 kB/s to it")
    speed = section(page, "Engines").locator(".facts")
    expect(speed).to_contain_text("tokens/s, ")
    body = {"model": "smollm2-135m", "prompt": "A long story", "max_tokens": 400, "ignore_eos": True}
    reply = httpx.post(f"http://127.0.0.1:{placed.port}/v1/completions", json=body, timeout=PATIENCE)
    assert reply.status_code == 200
    expect(speed).not_to_contain_text("replies –")


def test_a_machine_with_its_cpu_alone_has_no_section(visit: Callable[..., Visit]) -> None:
    with fake() as server:
        page = dashboard(visit(server.port))
        expect(section(page, "Memory")).to_be_visible()
        expect(page.get_by_role("region", name="Devices", exact=True)).to_have_count(0)


def test_what_a_worker_tells_is_only_text(placed: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(placed.port)
    live = httpx.get(f"http://127.0.0.1:{placed.port}/stats/live", timeout=PATIENCE).json()
    hot = {"device": "gpu0", "description": _HOSTILE, "memory": 24e9, "free": 1e9, "use": 0.5}
    live["stats"]["hardware"]["workers"][0]["devices"] = [hot | {"temperature": 81.0, "temperature_limit": 90.0}]
    page = visitor.context.new_page()
    page.route("**/stats/live*", lambda route: route.fulfill(json=live))
    page.set_viewport_size(PHONE)
    page.goto(f"{visitor.origin}/#/machine")
    device = page.locator('[data-device="gpu0"]')
    expect(device).to_contain_text("GPU 0")
    expect(device).to_contain_text(_HOSTILE)
    expect(device).to_contain_text("1.0 GB of 24 GB free · 81 of 90 °C")
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_devices(
    placed: ServerProcess, visit: Callable[..., Visit], axe: str, theme: str
) -> None:
    page = dashboard(visit(placed.port, color_scheme=theme, bypass_csp=True))
    expect(section(page, "Devices")).to_be_visible()
    found = {"wide": violations(page, axe)}
    page.set_viewport_size(PHONE)
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", name="设备", exact=True)).to_be_visible()
    found["phone"] = violations(page, axe)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
