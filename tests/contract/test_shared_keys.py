"""Two servers with keys in one PostgreSQL: limits hold for both together, and callers are the same on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, chat
from postgres_server import PASSWORD, PostgresServer
from servers import ServerProcess, fake, wait_for

CHAT = "/v1/chat/completions"
LONG = "<say>" + "a" * 2000 + "</say>"


class Pair:
    """The servers, and the command that makes keys."""

    def __init__(self, servers: tuple[ServerProcess, ServerProcess], address: str) -> None:
        self.servers = servers
        self._address = address
        self.keys: dict[str, str] = {}

    def command(self, *arguments: str) -> str:
        """What ``tailrace keys`` prints, without a password anywhere."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("tailrace")), "keys", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TAILRACE_KEYS_STORE": self._address},
        )
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout.strip()

    def add(self, name: str, *limits: str) -> None:
        """Make a key; both servers know it when this returns."""
        self.keys[name] = self.command("create", name, *limits)
        wait_for(f"the key {name}", lambda: all(self.models(number, name) == 200 for number in range(2)))

    def models(self, number: int, name: str) -> int:
        return self.ask(number, name, "GET", "/v1/models").status

    def ask(self, number: int, name: str, method: str, path: str, body: Any = None) -> Reply:
        """A request to one of the servers with this key."""
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        return ask(self.servers[number].port, method, path, body, headers)


@pytest.fixture(scope="module")
def pair(postgres: PostgresServer) -> Iterator[Pair]:
    address = postgres.database()
    one, other = (fake("--parallel", "2", step=0.002, keys_store=address) for _ in range(2))
    with one as first, other as second:
        yield Pair((first, second), address)


def test_keys_are_made_listed_and_revoked_for_all_servers(pair: Pair) -> None:
    assert ask(pair.servers[0].port, "GET", "/v1/models").status == 401
    pair.add("alice", "--tokens-per-day", "5000")
    assert pair.ask(1, "alice", "POST", CHAT, chat("<say>hello</say>")).status == 200
    wait_for("its use", lambda: json.loads(pair.command("list", "--json"))[0]["tokens_today"] > 0)
    pair.command("revoke", "alice")
    wait_for("the revoked key", lambda: all(pair.models(number, "alice") == 401 for number in range(2)))


def test_exactly_as_many_requests_run_as_the_key_allows(pair: Pair) -> None:
    pair.add("narrow", "--concurrency", "3")
    header = {"authorization": f"Bearer {pair.keys['narrow']}"}
    connections = [Connection(pair.servers[number % 2].port) for number in range(8)]
    try:
        for connection in connections:
            connection.request("POST", CHAT, chat(LONG, stream=True), header)
        statuses = [connection.read_head().status for connection in connections]
        assert sorted(statuses) == [200] * 3 + [429] * 5
        for number in range(2):
            refused = pair.ask(number, "narrow", "POST", CHAT, chat("<say>x</say>"))
            assert refused.error()["code"] == "rate_limit_exceeded"
            assert pair.ask(number, "narrow", "POST", "/v1/embeddings", {"input": "x"}).status == 429
        for connection in connections:
            connection.close()
        wait_for(
            "the places of clients that have gone",
            lambda: pair.ask(1, "narrow", "POST", CHAT, chat("<say>x</say>")).status == 200,
        )
    finally:
        for connection in connections:
            connection.close()


def test_tokens_of_all_servers_count_together(pair: Pair) -> None:
    pair.add("poor", "--tokens-per-minute", "1000")
    prompt = chat("<say>ok</say>" + "word " * 60)
    passed = 0
    while passed < 20 and pair.ask(passed % 2, "poor", "POST", CHAT, prompt).status == 200:
        passed += 1
    assert passed == 3, "a request takes more than 300 tokens"
    refused = pair.ask((passed + 1) % 2, "poor", "POST", CHAT, prompt)
    assert refused.status == 429
    assert int(refused.header("x-ratelimit-limit-tokens") or 0) == 1000


def test_a_flood_of_one_key_is_one_caller_on_each_server(pair: Pair) -> None:
    """Its queue of requests doesn't keep another key's first request waiting, on either server."""
    pair.add("flood")
    pair.add("single")
    ended: list[str] = []

    def send(number: int, name: str, text: str) -> None:
        assert pair.ask(number, name, "POST", CHAT, chat(text)).status == 200
        ended.append(name)

    for number in range(2):
        ended.clear()
        flood = [threading.Thread(target=send, args=(number, "flood", f"<say>{'b' * 150}</say>")) for _ in range(8)]
        for thread in flood:
            thread.start()
        wait_for("the first reply of the flood", lambda: "flood" in ended)
        send(number, "single", "<say>x</say>")
        assert ended.count("flood") < 7
        for thread in flood:
            thread.join()


def test_no_password_is_shown_anywhere(pair: Pair) -> None:
    pair.add("watcher")
    for server in pair.servers:
        assert PASSWORD not in server.log
    for path in ("/stats", "/metrics", "/props", "/openapi.json", "/slots"):
        assert PASSWORD.encode() not in pair.ask(0, "watcher", "GET", path).body
    shown = subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True, check=True).stdout
    assert PASSWORD not in shown
    for arguments in (("config", "show"), ("doctor",)):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("tailrace")), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TAILRACE_RESPONSES_STORE": f"postgresql://u:{PASSWORD}@127.0.0.1/x"},
        )
        assert PASSWORD not in done.stdout + done.stderr, arguments
