"""``/api/pull`` of Ollama's registry and of the hub: the stream, followers who come and go, and refusals."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from local_pulls import files_below, pull_environment
from model_files import tiny_gguf
from ollama_wire import error, lines
from openai_wire import Connection, Reply, ask
from pull_servers import Content, HubServer, OllamaRegistryServer, Storage, pull_servers
from servers import PATIENCE, ServerProcess, serving, wait_for
from tailrace.server.dialects.ollama.pull import MAX_PULLS


class Setup:
    """A server, what it pulls from, and where to. The storage waits behind ``held_at`` bytes."""

    def __init__(
        self, server: ServerProcess, folder: Path, hub: HubServer, registry: OllamaRegistryServer, storage: Storage
    ) -> None:
        self.server, self.folder, self.hub, self.registry, self.storage = server, folder, hub, registry, storage
        self.http = server.http
        self.may_go_on = threading.Event()
        self.held_at = 10**9
        storage.behaviour.pause = self._pause

    def _pause(self, sent: int) -> None:
        if sent >= self.held_at:
            self.may_go_on.wait(PATIENCE)

    def weights(self, seed: int, size: int = 3_000_000) -> Content:
        """Another model under the registry's only name."""
        self.registry.layers.clear()
        return self.registry.add("model", b"GGUF" + random.Random(seed).randbytes(size))

    def hold(self, at: int = 1_000_000) -> None:
        self.held_at, self.storage.sent = at, 0
        self.may_go_on.clear()

    def wait_until_held(self) -> None:
        wait_for("the storage to hold a pull", lambda: self.storage.sent >= self.held_at)

    def post(self, **body: object) -> Reply:
        return ask(self.server.port, "POST", "/api/pull", body)

    @property
    def ollama(self) -> Path:
        return self.folder / "models" / "ollama"

    def pulls(self) -> list[str]:
        """The processes of pulls that this server has."""
        shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
        lines = [line.split() for line in shown.splitlines()]
        return [pid for pid, parent, state in lines if parent == str(self.http) and not state.startswith("Z")]


@pytest.fixture(scope="module")
def _setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("pulls")
    with pull_servers() as (hub, registry, storage):
        environment = pull_environment(folder, hub, registry)
        environment = {name: value for name, value in environment.items() if name.startswith(("HF_", "TAILRACE_"))}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_secret"}
        arguments = ("--backend", "fake", "--manage-models", "--keepalive-seconds", "0.2")
        with serving(*arguments, environment=environment) as server:
            yield Setup(server, folder, hub, registry, storage)


@pytest.fixture
def setup(_setup: Setup) -> Iterator[Setup]:
    yield _setup
    _setup.may_go_on.set()
    _setup.held_at = 10**9
    wait_for("all pulls to end", lambda: not _setup.pulls())


def rows(setup: Setup) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(setup.server.port, "GET", "/api/tags").json()["models"]
    return found


def statuses(told: list[dict[str, Any]]) -> list[str]:
    """The statuses, each once as long as it stays."""
    words = [line["status"] for line in told]
    return [word for index, word in enumerate(words) if index == 0 or words[index - 1] != word]


def test_the_stream_is_as_ollamas(setup: Setup) -> None:
    weights = setup.weights(1)
    licence = setup.registry.add("license", b"free")
    told = lines(setup.post(model="tiny:1b"))
    assert statuses(told) == [
        "pulling manifest",
        f"pulling {weights.sha256[:12]}",
        f"pulling {licence.sha256[:12]}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    for line in told:
        if line["status"].startswith("pulling ") and "digest" in line:
            size = setup.storage.files[line["digest"].removeprefix("sha256:")].size
            assert (line["total"], 0 <= line["completed"] <= size) == (size, True)
    assert (setup.ollama / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b").exists()
    again = lines(setup.post(model="tiny:1b"))
    assert statuses(again) == ["pulling manifest", "success"]


def test_a_pulled_model_is_listed_shown_and_deleted(setup: Setup) -> None:
    setup.registry.layers.clear()
    weights = setup.registry.add("model", tiny_gguf())
    assert lines(setup.post(model="tiny:1b"))[-1] == {"status": "success"}
    (row,) = [row for row in rows(setup) if row["name"] == "tiny:1b"]
    assert (row["size"], row["details"]["family"]) == (weights.size, "llama")
    assert ask(setup.server.port, "POST", "/api/show", {"model": "tiny:1b"}).status == 200
    assert ask(setup.server.port, "DELETE", "/api/delete", {"model": "tiny:1b"}).status == 200
    assert "tiny:1b" not in [row["name"] for row in rows(setup)]
    assert not (setup.ollama / "blobs" / f"sha256-{weights.sha256}").exists()
    assert ask(setup.server.port, "DELETE", "/api/delete", {"model": "tiny:1b"}).status == 404


def test_ollamas_own_client(setup: Setup) -> None:
    weights = setup.weights(8)
    with ollama.Client(host=f"http://127.0.0.1:{setup.server.port}") as client:
        told = list(client.pull("tiny:1b", stream=True))
        assert told[-1].status == "success"
        figures = [(part.completed, part.total) for part in told if part.digest == f"sha256:{weights.sha256}"]
        assert figures[-1] == (weights.size, weights.size)
        assert client.pull("tiny:1b").status == "success"
        with pytest.raises(ollama.ResponseError, match="has no model nothing:1b"):
            client.pull("nothing:1b")


def test_a_model_of_the_hub(setup: Setup) -> None:
    content = setup.hub.add("m-Q4_K_M.gguf", b"GGUF" + bytes(1000))
    assert lines(setup.post(model="hf.co/org/repo:Q4_K_M"))[-1] == {"status": "success"}
    assert setup.post(model="hf.co/org/repo", stream=False).json() == {"status": "success"}
    assert any(content.sha256 in name for name in files_below(setup.folder / "huggingface"))


def test_a_silent_pull_repeats_its_status(setup: Setup) -> None:
    weights = setup.weights(2)
    setup.hold()
    with Connection(setup.server.port) as connection:
        connection.request("POST", "/api/pull", {"model": "tiny:1b"})
        connection.read_head()
        setup.wait_until_held()
        before: dict[str, Any] = {}
        while (status := json.loads(connection.chunk())) != before or "digest" not in status:
            before = status
        assert status["status"] == f"pulling {weights.sha256[:12]}"
        setup.may_go_on.set()


@pytest.mark.parametrize("stream", [True, False])
def test_the_last_client_that_goes_away_ends_a_pull(setup: Setup, stream: bool) -> None:
    weights = setup.weights(3 + stream)
    setup.hold()
    partial = setup.ollama / "blobs" / f".sha256-{weights.sha256}.incomplete"
    with Connection(setup.server.port) as first, Connection(setup.server.port) as second:
        for connection in (first, second):
            connection.request("POST", "/api/pull", {"model": "tiny:1b", "stream": stream})
        setup.wait_until_held()
        if stream:
            for connection in (first, second):
                connection.read_head()
                assert b"pulling manifest" in connection.chunk()
        assert len(setup.pulls()) == 1
        first.close()
        assert len(setup.pulls()) == 1
    wait_for("the pull to end", lambda: not setup.pulls())
    assert not (setup.ollama / "blobs" / f"sha256-{weights.sha256}").exists()
    kept = partial.stat().st_size
    setup.may_go_on.set()
    assert setup.post(model="tiny:1b", stream=False).json() == {"status": "success"}
    if kept:
        assert setup.storage.seen[-1].headers["range"] == f"bytes={kept}-"


def test_a_client_that_stays_gets_the_end(setup: Setup) -> None:
    setup.weights(5)
    setup.hold()
    with Connection(setup.server.port) as first, Connection(setup.server.port) as second:
        for connection in (first, second):
            connection.request("POST", "/api/pull", {"model": "tiny:1b"})
            connection.read_head()
        setup.wait_until_held()
        first.reset()
        setup.may_go_on.set()
        told = [json.loads(line) for line in second.chunks()]
    assert told[0] == {"status": "pulling manifest"}
    assert told[-1] == {"status": "success"}


def test_more_pulls_than_may_run(setup: Setup) -> None:
    setup.hold(0)
    for number in range(MAX_PULLS + 1):
        setup.hub.add(f"many-Q{number}.gguf", b"GGUF" + random.Random(number).randbytes(100_000))
    connections = [Connection(setup.server.port) for _ in range(MAX_PULLS)]
    for number, connection in enumerate(connections):
        connection.request("POST", "/api/pull", {"model": f"hf:org/repo:many-Q{number}.gguf"})
        connection.read_head()
        assert b"pulling manifest" in connection.chunk()
    reply = setup.post(model=f"hf:org/repo:many-Q{MAX_PULLS}.gguf")
    assert (reply.status, "already" in error(reply)) == (429, True)
    assert int(reply.header("retry-after") or 0) > 0
    for connection in connections:
        connection.close()

    def refused() -> bool:
        return setup.post(model=f"hf:org/repo:many-Q{MAX_PULLS}.gguf", stream=False).status == 429

    setup.may_go_on.set()
    wait_for("the pulls to end with their clients", lambda: not refused())


def test_other_requests_are_answered_while_a_pull_runs(setup: Setup) -> None:
    setup.weights(6)
    setup.hold()
    with Connection(setup.server.port) as connection:
        connection.request("POST", "/api/pull", {"model": "tiny:1b"})
        setup.wait_until_held()
        reply = ask(setup.server.port, "POST", "/api/chat", {"messages": [{"role": "user", "content": "hi"}]})
        assert reply.status == 200


def test_failures_say_what_to_do_and_tell_no_secret(setup: Setup) -> None:
    told = lines(setup.post(model="nothing:1b"))
    assert "has no model nothing:1b" in told[-1]["error"]
    reply = setup.post(model="nothing:1b", stream=False)
    assert (reply.status, "has no model nothing:1b" in error(reply)) == (502, True)
    setup.hub.gated = True
    setup.hub.add("gated-Q8_0.gguf", b"GGUF" + bytes(77))
    told = lines(setup.post(model="hf.co/org/repo:Q8_0"))
    setup.hub.gated = False
    assert "accept its licence at" in told[-1]["error"]
    assert "hf_secret" not in told[-1]["error"] + setup.server.log


def test_a_failure_of_this_machine_is_in_the_log_alone(setup: Setup) -> None:
    setup.weights(7)
    blobs = setup.ollama / "blobs"
    blobs.rename(blobs.with_name("moved"))
    blobs.write_text("a file")
    try:
        told = lines(setup.post(model="tiny:1b"))
    finally:
        blobs.unlink()
        blobs.with_name("moved").rename(blobs)
    assert told[-1] == {"error": "'ollama:tiny:1b' couldn't be pulled (disk); the server's log says why."}
    assert str(setup.ollama) in setup.server.log


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "ollama:intranet.local/library/x:1"}, 400, "over HTTP"),
        ({"model": "ollama:169.254.169.254/library/x:1"}, 400, "over HTTP"),
        ({"model": "http://127.0.0.1/x.gguf"}, 404, "neither huggingface.co nor"),
        ({"model": "../x.gguf"}, 404, "a path isn't pulled"),
        ({"model": "/etc/passwd"}, 404, "a path isn't pulled"),
        ({"model": "a b"}, 404, "no reference"),
        ({"model": "x" * 10_000}, 404, "no reference"),
        ({"model": "tiny:1b", "insecure": True}, 400, "'insecure'"),
        ({"model": "tiny:1b", "password": "x"}, 400, "'password'"),
        ({"insecure": False}, 400, "'model'"),
    ],
)
def test_refusals(setup: Setup, body: dict[str, object], status: int, words: str) -> None:
    reply = setup.post(**body)
    assert (reply.status, words in error(reply)) == (status, True), error(reply)
