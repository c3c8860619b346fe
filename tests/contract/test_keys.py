"""Named keys on the wire: whose a stored object is, limits in every dialect's shape, models, and a key's life."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, chat, chat_stream
from servers import ServerProcess, fake, wait_for
from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.server.endpoint import Endpoint
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, new_key, now, read_keys
from tailrace.settings import Settings

CHAT = "/v1/chat/completions"
LONG = "<say>" + "a" * 3000 + "</say>"
#: Every route that a key's limits hold for, with a small request; a new one has to be added.
COMPUTING: dict[str, dict[str, Any]] = {
    "/chat/completions": chat("<say>ok</say>"),
    "/chat/completions/input_tokens": chat("ok"),
    "/completions": {"prompt": "<say>ok</say>"},
    "/embeddings": {"input": "ok"},
    "/tokenize": {"content": "ok"},
    "/detokenize": {"tokens": [65]},
    "/apply-template": chat("ok"),
    "/completion": {"prompt": "<say>ok</say>"},
    "/infill": {"input_prefix": "<say>ok</say>", "input_suffix": ""},
    "/embedding": {"content": "ok"},
    "/rerank": {"query": "ok", "documents": ["ok"]},
    "/reranking": {"query": "ok", "documents": ["ok"]},
    "/v2/rerank": {"query": "ok", "documents": ["ok"]},
    "/responses": {"input": "<say>ok</say>"},
    "/responses/input_tokens": {"input": "ok"},
    "/messages": chat("<say>ok</say>", model="fake", max_tokens=9),
    "/messages/count_tokens": chat("ok", model="fake"),
    "/api/chat": chat("<say>ok</say>", model="fake", stream=False),
    "/api/generate": {"model": "fake", "prompt": "<say>ok</say>", "stream": False},
    "/api/embed": {"model": "fake", "input": "ok"},
    "/api/embeddings": {"model": "fake", "prompt": "ok"},
}


def known_endpoints() -> list[Endpoint]:
    return endpoints(AppState.of_one(Settings(), "m"))


class Keys:
    """A server with a file of keys."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.server = server
        self.file = KeysFile(file)
        self.keys: dict[str, str] = {}

    def add(self, name: str, **limits: Any) -> None:
        """A new key; the server has noticed it when this returns."""
        key, record = new_key(KeyRecord(name=name, id="", sha256="", created=now(), **limits))
        self.file.add(record)
        self.keys[name] = key
        wait_for(f"the key {name}", lambda: self.ask(name, "GET", "/v1/models").status == 200)

    def ask(self, name: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request with this key."""
        return ask(self.server.port, method, path, body, {"authorization": f"Bearer {self.keys[name]}", **headers})

    def post(self, name: str, path: str, body: Any) -> Reply:
        return self.ask(name, "POST", path, body)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    KeysFile(file).add(new_key(KeyRecord(name="first", id="", sha256="", created=now()))[1])
    arguments = ("--keys-file", str(file), "--manage-models", "--parallel", "4", "--aliases", "also")
    with fake(*arguments, step=0.002, api_key="s3cret") as server:
        found = Keys(server, file)
        found.keys["default"] = "s3cret"
        found.add("alice")
        found.add("bob")
        yield found


def message(reply: Reply) -> str:
    """The error's text, from any dialect's shape."""
    found = reply.json()["error"]
    text: str = found if isinstance(found, str) else found["message"]
    return text


# Whose it is


def test_every_stored_object_belongs_to_the_key_that_made_it(keys: Keys) -> None:
    made = {
        "resp": keys.post("alice", "/v1/responses", {"input": "<say>secret</say>"}).json()["id"],
        "conv": keys.post("alice", "/v1/conversations", {"metadata": {"a": "secret"}}).json()["id"],
        "chatcmpl": keys.post("alice", CHAT, chat("<say>secret</say>", store=True)).json()["id"],
    }
    items = {"items": [{"role": "user", "content": "secret"}]}
    inside = keys.post("alice", f"/v1/conversations/{made['conv']}/items", items).json()["data"][0]["id"]
    kinds = {"/responses/": "resp", "/conversations/": "conv", "/chat/completions/": "chatcmpl"}
    routes = [e for e in known_endpoints() if "{id" in e.path and e.path.startswith(tuple(kinds))]
    assert len(routes) == 4 + 7 + 4
    # Deleting comes last, so that the others have something to find.
    for endpoint in sorted(routes, key=lambda e: (e.method == "DELETE", -len(e.path))):
        kind = next(kind for prefix, kind in kinds.items() if endpoint.path.startswith(prefix))
        body: dict[str, Any] | None = {"metadata": {}, "items": []} if endpoint.method == "POST" else None

        def path(identity: str, endpoint: Endpoint = endpoint) -> str:
            return re.sub(r"\{id[^}]*\}", identity, endpoint.path).replace("{item}", inside)

        unknown = f"{made[kind].split('_')[0].split('-')[0]}{'-' if kind == 'chatcmpl' else '_'}unknown"
        for stranger in ("bob", "default"):
            theirs = keys.ask(stranger, endpoint.method, path(made[kind]), body)
            none = keys.ask(stranger, endpoint.method, path(unknown), body)
            assert theirs.status == none.status == 404, endpoint.path
            assert theirs.body.replace(made[kind].encode(), unknown.encode()) == none.body
            assert b"secret" not in theirs.body
        assert keys.ask("alice", endpoint.method, path(made[kind]), body).status in (200, 400), endpoint.path


def test_no_other_key_builds_on_a_response_a_conversation_or_an_item(keys: Keys) -> None:
    response = keys.post("alice", "/v1/responses", {"input": "<say>secret</say>"}).json()
    conversation = keys.post("alice", "/v1/conversations", {}).json()["id"]
    for field, value in (("previous_response_id", response["id"]), ("conversation", conversation)):
        request = {"input": "<say>ok</say>", field: value}
        assert keys.post("alice", "/v1/responses", request).status == 200
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            theirs = keys.post("bob", path, request)
            none = keys.post("bob", path, {**request, field: value[:5] + "unknown"})
            assert theirs.status == none.status
            assert theirs.status in (400, 404)
            assert message(theirs).replace(value, value[:5] + "unknown") == message(none)
    reference = {
        "input": [{"type": "item_reference", "id": response["output"][0]["id"]}, {"role": "user", "content": "x"}]
    }
    assert keys.post("alice", "/v1/responses", reference).status == 200
    assert "not kept here" in message(keys.post("bob", "/v1/responses", reference))


def test_no_other_key_reads_or_stops_a_response_in_the_background(keys: Keys) -> None:
    made = keys.post("alice", "/v1/responses", {"input": LONG, "background": True}).json()
    path = f"/v1/responses/{made['id']}"
    assert keys.ask("bob", "GET", f"{path}?stream=true").status == 404
    assert keys.ask("bob", "POST", f"{path}/cancel").status == 404
    assert keys.ask("bob", "DELETE", path).status == 404
    assert keys.ask("alice", "GET", path).json()["status"] in ("in_progress", "completed")
    assert keys.ask("alice", "POST", f"{path}/cancel").json()["status"] in ("cancelled", "completed")


def test_a_new_key_of_an_old_name_gets_nothing_of_the_old_one(keys: Keys) -> None:
    keys.add("carol")
    made = keys.post("carol", "/v1/responses", {"input": "<say>secret</say>"}).json()["id"]
    keys.file.remove("carol")
    wait_for("the revoked key", lambda: keys.ask("carol", "GET", "/v1/models").status == 401)
    keys.add("carol")
    assert keys.ask("carol", "GET", f"/v1/responses/{made}").status == 404


def test_models_made_of_others_are_changed_by_their_key_alone(keys: Keys) -> None:
    made = {"model": "alices", "from": "fake", "system": "Be brief.", "stream": False}
    assert keys.post("alice", "/api/create", made).status == 200
    assert keys.post("bob", "/api/chat", chat("<say>ok</say>", model="alices", stream=False)).status == 200
    assert keys.post("bob", "/api/create", {**made, "system": "Be rude."}).status == 403
    assert keys.post("bob", "/api/copy", {"source": "fake", "destination": "alices"}).status == 403
    assert keys.ask("bob", "DELETE", "/api/delete", {"model": "alices"}).status == 403
    assert keys.post("bob", "/api/copy", {"source": "alices", "destination": "bobs"}).status == 200
    assert keys.ask("bob", "DELETE", "/api/delete", {"model": "bobs"}).status == 200
    assert keys.ask("alice", "DELETE", "/api/delete", {"model": "alices"}).status == 200


# Limits


def test_the_list_of_computing_routes_is_complete() -> None:
    assert {e.path for e in known_endpoints() if e.computes} == set(COMPUTING)


def test_a_limit_is_a_429_in_every_dialect(keys: Keys) -> None:
    """The limit of the minute is used up by a first request, whose reply isn't cut."""
    keys.add("poor", tokens_per_minute=400)
    first = keys.post("poor", CHAT, chat("<say>" + "a" * 300 + "</say>"))
    assert first.status == 200
    assert first.json()["usage"]["completion_tokens"] > 200
    for path, body in COMPUTING.items():
        reply = keys.post("poor", path, body)
        assert reply.status == 429, path
        assert int(reply.header("retry-after") or 0) > 20, "the reply has made a debt"
        error = reply.json()["error"]
        if path.startswith("/api/"):
            assert "poor" in error
        else:
            assert "400 tokens a minute" in error["message"]
            assert error["type"] == "rate_limit_error"
        prefix = "anthropic-ratelimit-tokens-" if path.startswith("/messages") else "x-ratelimit-"
        names = [name for name, _ in reply.headers if "ratelimit" in name]
        assert len(names) == 3
        assert all(name.startswith(prefix) for name in names)
        assert keys.keys["poor"] not in str(reply)
    assert keys.ask("poor", "GET", "/v1/models").status == 200, "reading isn't limited"


def test_a_prompt_that_is_longer_than_what_is_left_is_refused_before_the_stream(keys: Keys) -> None:
    keys.add("small", tokens_per_day=100)
    reply = keys.post("small", CHAT, chat("word " * 300, stream=True))
    assert reply.status == 429
    assert "midnight" in message(reply)
    assert reply.header("x-ratelimit-remaining-tokens") == "100"
    assert keys.post("small", CHAT, chat("<say>ok</say>", stream=True)).status == 200
    used = keys.post("small", CHAT, chat("<say>ok</say>"))
    assert used.status == 200
    assert 0 < int(used.header("x-ratelimit-remaining-tokens") or 0) < 100


def test_a_key_has_its_places_and_gets_them_back(keys: Keys) -> None:
    keys.add("narrow", concurrency=2)
    header = {"authorization": f"Bearer {keys.keys['narrow']}"}
    with Connection(keys.server.port) as one, Connection(keys.server.port) as two:
        for connection in (one, two):
            connection.request("POST", CHAT, chat(LONG, stream=True), header)
            head = connection.read_head()
            assert head.status == 200
        assert head.header("x-ratelimit-limit-requests") == "2"
        assert head.header("x-ratelimit-remaining-requests") == "0"
        for path, body in COMPUTING.items():
            refused = keys.post("narrow", path, body)
            assert refused.status == 429
            assert refused.header("retry-after") == "1"
        assert keys.post("alice", CHAT, chat("<say>ok</say>")).status == 200
        one.close()
        wait_for("the place of a client that has gone", lambda: keys.post("narrow", CHAT, chat("x")).status == 200)
    wait_for("both places", lambda: keys.post("narrow", CHAT, chat("x")).status == 200)


def test_a_response_in_the_background_keeps_its_place(keys: Keys) -> None:
    keys.add("single", concurrency=1)
    made = keys.post("single", "/v1/responses", {"input": LONG, "background": True})
    assert made.status == 200
    assert keys.post("single", CHAT, chat("x")).status == 429
    assert keys.ask("single", "POST", f"/v1/responses/{made.json()['id']}/cancel").status == 200
    wait_for("the place", lambda: keys.post("single", CHAT, chat("x")).status == 200)


def test_what_fails_gives_its_place_back(keys: Keys) -> None:
    keys.add("clumsy", concurrency=1)
    for body in (b"{", chat("x", temperature="hot"), chat("x", model="none"), chat("word " * 5000), {}):
        assert keys.ask("clumsy", "POST", CHAT, body).status in (400, 404)
    assert keys.post("clumsy", CHAT, chat("<say>ok</say>")).status == 200


def test_a_client_without_a_limit_has_no_headers_of_one(keys: Keys) -> None:
    reply = keys.post("alice", CHAT, chat("<say>ok</say>", stream=True))
    assert chat_stream(reply).text == ["ok"]
    assert not [name for name, _ in reply.headers if "ratelimit" in name]


def test_what_every_named_key_uses_is_stored(keys: Keys) -> None:
    keys.add("counted")
    used = keys.post("counted", CHAT, chat("<say>ok</say>")).json()["usage"]["total_tokens"]
    (identity,) = [record.id for record in read_keys(keys.file.file) or [] if record.name == "counted"]
    usage = keys.server.temporary / "tailrace" / "key-usage.sqlite"
    wait_for("its tokens", lambda: usage.exists() and dict(row[::2] for row in _stored(usage)).get(identity) == used)


# Models


def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(keys: Keys) -> None:
    keys.add("elsewhere", models=("other-*",))
    for path, body in COMPUTING.items():
        reply = keys.post("elsewhere", path, body)
        assert reply.status == 404, path
        assert "this key may not use it" in message(reply)
    assert keys.ask("elsewhere", "GET", "/v1/models").json()["data"] == []
    assert keys.ask("elsewhere", "GET", "/v1/models").json()["models"] == []
    assert keys.ask("elsewhere", "GET", "/v1/models/fake").status == 404
    listed = keys.ask("elsewhere", "GET", "/v1/models", **{"anthropic-version": "2023-06-01"}).json()
    assert listed == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert keys.ask("elsewhere", "GET", "/api/tags").json() == {"models": []}
    assert keys.ask("elsewhere", "GET", "/api/ps").json() == {"models": []}
    assert keys.post("elsewhere", "/api/show", {"model": "fake"}).status == 404
    assert keys.ask("elsewhere", "GET", "/props").status == 404
    assert keys.ask("elsewhere", "GET", "/slots").status == 404
    assert keys.post("elsewhere", "/api/copy", {"source": "fake", "destination": "other-x"}).status == 404


@pytest.mark.parametrize(
    ("pattern", "allowed"), [("fa*", {"fake", "also"}), ("also", {"also"}), ("fake:latest", set())]
)
def test_an_alias_is_allowed_by_its_name_or_its_models(keys: Keys, pattern: str, allowed: set[str]) -> None:
    name = "p" + re.sub("[^a-z]", "", pattern)
    keys.add(name, models=(pattern,))
    for model in ("fake", "also"):
        expected = 200 if model in allowed else 404
        assert keys.post(name, CHAT, chat("<say>ok</say>", model=model)).status == expected, model


def test_a_key_for_a_derived_model_uses_that_alone(keys: Keys) -> None:
    made = {"model": "bot", "from": "fake", "system": "Be brief.", "stream": False}
    assert keys.post("alice", "/api/create", made).status == 200
    keys.add("botuser", models=("bot",))
    assert keys.post("botuser", "/api/chat", chat("<say>ok</say>", model="bot", stream=False)).status == 200
    assert keys.post("botuser", CHAT, chat("<say>ok</say>", model="bot")).status == 200
    assert keys.post("botuser", CHAT, chat("<say>ok</say>")).status == 404
    assert keys.post("botuser", "/completion", {"prompt": "x"}).status == 404
    assert [model["id"] for model in keys.ask("botuser", "GET", "/v1/models").json()["data"]] == ["bot"]
    assert keys.ask("alice", "DELETE", "/api/delete", {"model": "bot"}).status == 200


# A key's life


def test_an_expired_key_is_refused_with_the_reason(keys: Keys) -> None:
    keys.add("brief", expires=now() + timedelta(seconds=3))
    wait_for("the end", lambda: keys.ask("brief", "GET", "/v1/models").status == 401)
    reply = keys.ask("brief", "GET", "/v1/models")
    assert reply.error()["code"] == "expired_api_key"
    assert "'brief' expired on" in reply.error()["message"]


def test_a_revoked_key_is_refused_and_its_running_reply_goes_on(keys: Keys) -> None:
    keys.add("dave")
    with Connection(keys.server.port) as connection:
        connection.request("POST", CHAT, chat(LONG, stream=True), {"x-api-key": keys.keys["dave"]})
        keys.file.remove("dave")
        wait_for("the revoked key", lambda: keys.ask("dave", "GET", "/v1/models").status == 401)
        assert chat_stream(connection.read()).text == ["a" * 3000]


def test_no_key_is_in_the_log(keys: Keys) -> None:
    for name, key in keys.keys.items():
        assert ask(keys.server.port, "GET", "/v1/models", headers={"x-api-key": key + "x"}).status == 401, name
    log = keys.server.log
    assert "keys were read" in log
    assert not [name for name, key in keys.keys.items() if key in log]
    assert "tr-" not in log


def test_a_days_use_outlives_the_http_process(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, record = new_key(KeyRecord(name="a", id="", sha256="", created=now(), tokens_per_day=300))
    KeysFile(file).add(record)
    with fake("--keys-file", str(file), "--drain-seconds", "1") as server:
        header = {"authorization": f"Bearer {key}"}
        assert ask(server.port, "POST", CHAT, chat("<say>" + "a" * 200 + "</say>"), header).status == 200
        assert ask(server.port, "POST", CHAT, chat("x"), header).status == 429
        usage = server.temporary / "tailrace" / "key-usage.sqlite"
        wait_for("the use on disk", usage.exists)
        wait_for("its tokens", lambda: bool(_stored(usage)))
        os.kill(server.http, signal.SIGKILL)

        def status() -> int:
            try:
                return ask(server.port, "POST", CHAT, chat("x"), header).status
            except OSError:
                return 0

        wait_for("the new process", lambda: status() != 0)
        assert status() == 429


def _stored(file: Path) -> list[Any]:
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT * FROM usage").fetchall()
    except sqlite3.OperationalError:
        return []  # It is being made.
