"""The dashboard's routes: what a key sees of running requests and of the log, and which requests it may cancel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from servers import ServerProcess, fake, wait_for

_SECRET = "my secret diary"


class Keyed(NamedTuple):
    """A server with an operator's key and two named ones."""

    server: ServerProcess
    alice: str
    bob: str

    def get(self, path: str, key: str = "operator-key") -> Any:
        response = httpx.get(self.url(path), headers={"x-api-key": key}, timeout=60.0)
        assert response.status_code == 200, response.text
        return response.json()

    def cancel(self, number: object, key: str) -> httpx.Response:
        return httpx.delete(self.url(f"/stats/requests/{number}"), headers={"x-api-key": key}, timeout=60.0)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[httpx.Response]:
        """A reply of 40 seconds, with one request at a time."""
        body = {"model": "fake", "prompt": f"<say>{_SECRET} {'x' * 1990}</say>", "stream": True, "max_tokens": 2000}
        headers = {"x-api-key": key}
        with httpx.stream("POST", self.url("/v1/completions"), json=body, headers=headers, timeout=60.0) as response:
            yield response

    def rows(self, key: str = "operator-key") -> list[Any]:
        return list(self.get("/stats/live", key)["requests"])


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    alice, bob = _create("alice", file), _create("bob", file)
    settings = {"api_key": "operator-key", "keys_file": str(file), "log_prompts": "true"}
    with fake("--parallel", "1", step=0.02, **settings) as server:
        yield Keyed(server, alice, bob)


def _create(name: str, file: Path) -> str:
    program = str(Path(sys.executable).with_name("tailrace"))
    command = [program, "keys", "create", name, "--file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _ended(server: Keyed) -> None:
    wait_for("the end of all requests", lambda: not server.rows())


def test_a_key_sees_its_own_requests_alone(keyed_server: Keyed) -> None:
    server = keyed_server
    with server.stream(server.alice), server.stream(server.bob):
        live = server.get("/stats/live", server.alice)
        (row,) = live["requests"]
        assert (row["own"], row["state"], row["dialect"], row["route"]) == (True, "reply", "OpenAI", "/v1/completions")
        assert row["prompt_tokens"] == row["prompt_computed"] > 2000
        assert 0 < row["reply_tokens"] < row["max_tokens"] == 2000
        assert live["hidden_requests"] == 1
        assert not live["operator"]
        assert [row["state"] for row in server.rows(server.bob)] == ["queued"]
        everything = server.get("/stats/live")
        assert (everything["operator"], everything["hidden_requests"]) == (True, 0)
        assert [row["client"].partition("'")[2] for row in everything["requests"]] == ["alice'", "bob'"]
        assert [row["own"] for row in everything["requests"]] == [False, False]
        assert _SECRET not in json.dumps(everything)
        assert everything["stats"]["requests"]["waiting"] == 1
    _ended(server)


def test_a_request_is_cancelled_by_its_key_or_by_the_operator(keyed_server: Keyed) -> None:
    server = keyed_server
    with server.stream(server.alice) as running, server.stream(server.bob) as queued:
        first, second = (row["number"] for row in server.rows())
        assert server.cancel(first, server.bob).status_code == 404
        assert server.cancel(second, server.bob).json() == {"cancelled": second}
        assert "request_cancelled" in queued.read().decode()
        assert [row["number"] for row in server.rows()] == [first]
        assert server.cancel(first, "operator-key").json() == {"cancelled": first}
        text = running.read().decode()
        assert '"code":"request_cancelled"' in text
    _ended(server)
    assert server.cancel(first, "operator-key").status_code == 404
    wrong = server.cancel("x", "operator-key")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "number")


def test_a_request_that_reads_its_body_is_cancelled(keyed_server: Keyed) -> None:
    server = keyed_server

    def body() -> Iterator[bytes]:
        yield b'{"model":"fake","prompt":"'
        wait_for("the request", lambda: [row["state"] for row in server.rows()] == ["reading"])
        (row,) = server.rows()
        assert server.cancel(row["number"], server.alice).status_code == 200
        wait_for("its end", lambda: not server.rows())
        yield b'hello"}'

    headers = {"x-api-key": server.alice, "content-type": "application/json"}
    with httpx.Client(timeout=60.0) as client:
        response = client.post(server.url("/v1/completions"), content=body(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "request_cancelled")


def test_the_log_is_the_operators(keyed_server: Keyed) -> None:
    server = keyed_server
    with server.stream(server.alice):
        pass
    refused = httpx.get(server.url("/stats/log"), headers={"x-api-key": server.alice})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert "api_key" in refused.json()["error"]["message"]

    def request_lines() -> list[Any]:
        return [line for line in server.get("/stats/log")["lines"] if line["text"].startswith("request method=POST")]

    wait_for("the request's line", lambda: len(request_lines()) > 0)
    log = server.get("/stats/log")
    shown = json.dumps(log)
    assert not [secret for secret in (_SECRET, server.alice, "operator-key") if secret in shown]
    assert _SECRET in server.server.log
    assert {"http", "engine"} <= {line["process"] for line in log["lines"]}
    assert log["last"] == log["lines"][-1]["number"]
    newer = server.get(f"/stats/log?after={log['last']}")["lines"]
    assert all(line["number"] > log["last"] for line in newer)


@pytest.mark.parametrize("path", ["/stats/live", "/stats/history", "/stats/models", "/stats/log"])
def test_they_need_a_key(keyed_server: Keyed, path: str) -> None:
    assert httpx.get(keyed_server.url(path)).status_code == 401
    assert httpx.get(keyed_server.url(path), headers={"x-api-key": "wrong"}).status_code == 401


@pytest.mark.parametrize(("path", "value"), [("/stats/history", "-1"), ("/stats/live", "x"), ("/stats/log", "1.5")])
def test_a_wrong_parameter_is_named(keyed_server: Keyed, path: str, value: str) -> None:
    response = httpx.get(f"{keyed_server.url(path)}?after={value}", headers={"x-api-key": "operator-key"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


def test_an_open_page_finds_the_last_minutes(keyed_server: Keyed) -> None:
    server = keyed_server
    with server.stream(server.alice):
        wait_for("a point with tokens", lambda: any(server.get("/stats/history")["generated"]))
    wait_for("a second point", lambda: len(server.get("/stats/history")["time"]) > 1)
    history = server.get("/stats/history")
    assert len({len(column) for column in history.values() if isinstance(column, list)}) == 1
    assert history["time"] == sorted(history["time"])
    last = history["time"][-2]
    assert server.get(f"/stats/live?after={last}")["history"]["time"][0] == history["time"][-1]
    assert server.get("/stats/live")["history"]["time"] == []


def test_models_and_cores_are_shown(keyed_server: Keyed) -> None:
    models = keyed_server.get("/stats/models", keyed_server.bob)
    (model,) = models["models"]
    assert (model["name"], model["phase"], model["can_unload"], models["on_demand"]) == (
        "fake",
        "serving",
        False,
        False,
    )
    live = keyed_server.get("/stats/live")
    assert live["state"] == "ok"
    assert live["machine"]["memory"] >= live["machine"]["available"] > 0
    assert any(core["usable"] for core in live["cores"])
    assert all(sum(core["use"].values()) <= 1.01 for core in live["cores"])


def test_the_progress_of_a_prompt_is_shown(slow: ServerProcess) -> None:
    url = f"http://127.0.0.1:{slow.port}"

    def rows() -> list[Any]:
        return list(httpx.get(f"{url}/stats/live", timeout=60.0).json()["requests"])

    # Prompts are reported from the first look on.
    assert rows() == []
    body = {"model": "fake", "prompt": "y" * 7000, "stream": True, "max_tokens": 1}
    seen: set[int] = set()

    def is_half_way() -> bool:
        for row in rows():
            if row["state"] == "prompt":
                seen.add(row["prompt_computed"])
                assert row["prompt_computed"] <= row["prompt_tokens"]
        return any(0 < computed < 7000 for computed in seen)

    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60.0) as response:
        wait_for("a prompt that is computed in part", is_half_way)
        response.read()


def test_a_request_for_embeddings_is_shown_and_cancelled() -> None:
    """The engine is stopped meanwhile, so the request can't end by itself."""
    with fake() as server:
        url = f"http://127.0.0.1:{server.port}"
        engine = server.engine
        os.kill(engine, signal.SIGSTOP)
        answers: list[httpx.Response] = []
        body = {"model": "fake", "input": "hello"}
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/embeddings", json=body, timeout=60.0))
        )
        thread.start()
        try:
            wait_for("the request", lambda: _states(url) == ["computing"])
            (row,) = httpx.get(f"{url}/stats/live", timeout=60.0).json()["requests"]
            assert httpx.delete(f"{url}/stats/requests/{row['number']}").status_code == 200
            thread.join(60.0)
        finally:
            os.kill(engine, signal.SIGCONT)
        assert answers[0].json()["error"]["code"] == "request_cancelled"


def _states(url: str) -> list[str]:
    return [row["state"] for row in httpx.get(f"{url}/stats/live", timeout=60.0).json()["requests"]]
