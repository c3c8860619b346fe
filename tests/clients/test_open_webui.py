"""Open WebUI in a browser: two chats at once, two messages each, with title, tags and follow-ups made beside them.

This is where a request in the background once ran into the chat's own reply, and the first reply of a chat was cut off.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_matrix import NODE, Client, chosen, proofs
from client_results import Results
from open_webui import open_webui
from openai_wire import say
from relay import Relay
from servers import fake
from setup_clients import CHROMIUMS

REPLIES = {
    "alpha": ["Grüße 👋🏽 aus 東京. " * 8 + "End of alpha.", "The second of alpha. " * 8 + "End."],
    "gamma": ["A reply of gamma, «fertig». " * 8 + "End of gamma.", "The second of gamma. " * 8 + "End."],
}
MATRIX = [
    pytest.param(client, way, id=f"{client.name}-{way}")
    for client in chosen()
    if client.name == "open-webui"
    for way in client.ways
]

SWITCHING = [
    pytest.param(client, way, id=f"{client.name}-{way}")
    for client in chosen()
    if client.name == "open-webui"
    for way in client.ways
    if "switching" in proofs(client, way)
]


def browse(url: str, screenshots: Path, models: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What was on the pages of each chat. ``models``: the chats' models, where the server has several."""
    chromium = next(path for name in CHROMIUMS if (path := shutil.which(name)))
    chats = [
        {
            "name": name,
            "model": (models or {}).get(name),
            "turns": [
                {"text": f"{name} {number} {say(reply)}", "followUp": f"More of {name} {number}?"}
                for number, reply in zip(("one", "two"), replies, strict=True)
            ],
        }
        for name, replies in REPLIES.items()
    ]
    wanted = {"url": url, "chromium": chromium, "screenshots": str(screenshots), "chats": chats}
    done = subprocess.run(
        ["node", "open_webui.mjs", json.dumps(wanted)], cwd=NODE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(REPLIES, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()


# Where it isn't among the run's clients there is no test, rather than a skipped one.
if MATRIX:

    @pytest.mark.parametrize(("client", "way"), MATRIX)
    def test_two_concurrent_chats_are_shown_complete(
        client: Client, way: str, results: Results, tmp_path: Path
    ) -> None:
        for proof in (proof for proof in client.asked if proof not in {"switching", "launch"}):
            results.begin(client, way, proof)
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(fake("--ctx", "65536", "--parallel", "8", step=0.004)).port
            if way == "relay":
                port = stack.enter_context(Relay(port)).port
            seen = browse(stack.enter_context(open_webui(port)), tmp_path)
        for name, chat in seen.items():
            assert chat["failure"] is None, (chat, f"screenshots are in {tmp_path}")
            first, second = ([text.strip() for text in shown] for shown in chat["replies"])
            assert first == REPLIES[name][:1]
            assert second == REPLIES[name]
        results.passed(client, way, "first-message")
        results.passed(client, way, "second-message")
        assert {name: chat["title"] for name, chat in seen.items()} == {name: f"Title of {name}" for name in REPLIES}
        results.passed(client, way, "titles")
        assert {name: chat["tags"] for name, chat in seen.items()} == {name: [f"tag_of_{name}"] for name in REPLIES}
        results.passed(client, way, "tags")
        # The browser has waited for them.
        results.passed(client, way, "follow-ups")

    @pytest.mark.parametrize(("client", "way"), SWITCHING)
    def test_two_chats_with_two_models(client: Client, way: str, results: Results, tmp_path: Path) -> None:
        """The chats, and the tasks that are made beside them, ask two models; the memory holds one of them."""
        results.begin(client, way, "switching")
        sizes = {"models_mb": "400", "fake_weights_mb": "first=150,second=150"}
        models = dict(zip(REPLIES, ("first", "second"), strict=True))
        with contextlib.ExitStack() as stack:
            arguments = ("first", "second", "--ctx", "65536", "--parallel", "8")
            port = stack.enter_context(fake(*arguments, step=0.004, **sizes)).port
            seen = browse(stack.enter_context(open_webui(port)), tmp_path, models)
        for name, chat in seen.items():
            assert chat["failure"] is None, (chat, f"screenshots are in {tmp_path}")
            assert [text.strip() for text in chat["replies"][1]] == REPLIES[name]
            assert chat["models"] == [models[name]]
        results.passed(client, way, "switching")
