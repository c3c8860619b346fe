"""The pictures of docs/images: the page's chat and dashboard, drawn again with ``TAILRACE_SCREENSHOTS=1``."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route

from openai_wire import say
from page_visit import Visit
from servers import PATIENCE, ServerProcess, fake

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: A picture that is larger makes a page slow to read.
MAX_BYTES = 200_000
SIZES = {"desktop": {"width": 1200, "height": 780}, "phone": {"width": 390, "height": 780}}
#: The end of a picture's name, and what it is of: the browser's colours and size.
LOOKS = {"light": ("light", "desktop"), "dark": ("dark", "desktop"), "phone": ("light", "phone")}
QUESTION = "How do I read a large CSV file in Python without loading it whole?"
REPLY = """\
Read it in pieces. With the standard library each row is read when it is asked for:

```python
import csv

with open("large.csv", newline="") as file:
    total = sum(float(row["price"]) for row in csv.DictReader(file))
```

| way | memory | when |
|---|---|---|
| `csv` | one row | sums, filters |
| `pandas`, `chunksize=` | one piece | statistics of columns |
"""


#: Findings that depend on the other programs of the machine that draws.
ELSEWHERE = {"too_many_threads", "foreign_process", "shared_cores", "cpu_stolen", "memory_pressure", "swapping"}


@pytest.fixture(scope="module")
def pictured() -> Iterator[ServerProcess]:
    """A server whose replies are scripted, at about 250 tokens a second."""
    with fake("--alias", "coder", "--ctx", "32768", step=0.004) as server:
        yield server


@pytest.fixture
def streams(pictured: ServerProcess) -> Iterator[None]:
    """Replies that come while the dashboard is pictured."""
    body = {"prompt": f"<say>{'word ' * 1500}</say>", "stream": True, "max_tokens": 6000}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=PATIENCE))
        for _ in range(6):
            stack.enter_context(client.stream("POST", f"http://127.0.0.1:{pictured.port}/v1/completions", json=body))
        yield


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: to the documents when they are wanted, elsewhere when only the way to them is tested."""
    return IMAGES if os.environ.get("TAILRACE_SCREENSHOTS") == "1" else tmp_path


def scripted_reply(route: Route) -> None:
    """Send a message on with the script of its reply, which the page mustn't show."""
    body = json.loads(route.request.post_data or "")
    body["messages"][-1]["content"] = say(REPLY)
    route.continue_(post_data=json.dumps(body))


def own_findings(route: Route) -> None:
    """The server's figures, without findings about other programs, to which the sentence about the engine leads."""
    answer = route.fetch()
    live = answer.json()
    findings = [finding for finding in live["stats"]["findings"] if finding["code"] not in ELSEWHERE]
    for finding in findings:
        finding["sentence"] = finding["sentence"].removesuffix(" Its threads wait for CPUs.")
        finding["advice"] = finding["advice"].removesuffix("Look at the other findings first.")
    live["stats"]["findings"] = findings
    route.fulfill(response=answer, json=live)


def picture(page: Page, pictures: Path, name: str) -> None:
    """Draw what the page shows now."""
    page.mouse.move(0, 0)
    path = pictures / f"{name}.png"
    page.screenshot(path=path)
    assert 5_000 < path.stat().st_size < MAX_BYTES
    assert (IMAGES / path.name).exists(), "draw it: TAILRACE_SCREENSHOTS=1 make test-clients"


def looking(visit: Callable[..., Visit], port: int, look: str) -> Visit:
    """A visitor with these colours and this size."""
    scheme, size = LOOKS[look]
    return visit(port, color_scheme=scheme, viewport=SIZES[size], reduced_motion="reduce")


@pytest.mark.parametrize("look", LOOKS)
def test_the_chat_is_pictured(pictured: ServerProcess, visit: Callable[..., Visit], pictures: Path, look: str) -> None:
    visitor = looking(visit, pictured.port, look)
    visitor.context.route("**/chat/completions", scripted_reply)
    chat = visitor.open()
    assert "Read it in pieces" in chat.ask(QUESTION)
    picture(chat.page, pictures, f"chat-{look}")


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("look", LOOKS)
def test_the_dashboard_is_pictured(
    pictured: ServerProcess, visit: Callable[..., Visit], pictures: Path, look: str
) -> None:
    visitor = looking(visit, pictured.port, look)
    visitor.context.route(re.compile(r"/stats/live"), own_findings)
    page = visitor.open("#/machine").page
    page.locator('tr[data-state="reply"]').nth(5).wait_for()
    # A chart is a line from its third sample on.
    page.locator("figure").first.locator("path, polyline").first.wait_for(state="attached")
    picture(page, pictures, f"dashboard-{look}")
