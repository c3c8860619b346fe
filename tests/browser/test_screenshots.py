"""The pictures of docs/images: the page's chat, drawn again with ``TAILRACE_SCREENSHOTS=1``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route

from openai_wire import say
from page_visit import Visit
from servers import ServerProcess, fake

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: A picture that is larger makes a page slow to read.
MAX_BYTES = 200_000
DESKTOP = {"width": 1200, "height": 760}
PHONE = {"width": 390, "height": 780}
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


@pytest.fixture(scope="module")
def pictured() -> Iterator[ServerProcess]:
    """A server whose replies are scripted, at about 250 tokens a second."""
    with fake("--alias", "coder", "--ctx", "32768", step=0.004) as server:
        yield server


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: to the documents when they are wanted, elsewhere when only the way to them is tested."""
    return IMAGES if os.environ.get("TAILRACE_SCREENSHOTS") == "1" else tmp_path


def scripted_reply(route: Route) -> None:
    """Send a message on with the script of its reply, which the page mustn't show."""
    body = json.loads(route.request.post_data or "")
    body["messages"][-1]["content"] = say(REPLY)
    route.continue_(post_data=json.dumps(body))


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [("chat-light", "light", DESKTOP), ("chat-dark", "dark", DESKTOP), ("chat-phone", "light", PHONE)],
)
def test_the_chat_is_pictured(
    pictured: ServerProcess,
    visit: Callable[..., Visit],
    pictures: Path,
    name: str,
    scheme: str,
    size: dict[str, int],
) -> None:
    visitor = visit(pictured.port, color_scheme=scheme, viewport=size, reduced_motion="reduce")
    visitor.context.route("**/chat/completions", scripted_reply)
    chat = visitor.open()
    assert "Read it in pieces" in chat.ask(QUESTION)
    chat.page.mouse.move(0, 0)
    path = pictures / f"{name}.png"
    chat.page.screenshot(path=path)
    assert 5_000 < path.stat().st_size < MAX_BYTES
    assert (IMAGES / path.name).exists(), "draw it: TAILRACE_SCREENSHOTS=1 make test-clients ARGS=tests/browser"
