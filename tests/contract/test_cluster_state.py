"""A replica's state channel: who may follow it, and what it says."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from openai_wire import Connection, ask, chat
from servers import ServerProcess, fake
from tailrace.cluster_state import SECRET_HEADER, STATE_VERSION, ReplicaState, StateChange, StateHeartbeat, StateMessage

SECRET = "a-secret-without-spaces"
ENDLESS = "<say>" + "x" * 7000 + "</say>"


@pytest.fixture(scope="module")
def replica() -> Iterator[ServerProcess]:
    """A server with a key and the cluster's secret."""
    with fake("--parallel", "4", step=0.02, cluster_secret=SECRET, api_key="k") as server:
        yield server


def follow(connection: Connection) -> Callable[[], StateMessage]:
    connection.request("GET", "/cluster/state", headers={SECRET_HEADER: SECRET})
    assert connection.read_head().status == 200
    return lambda: msgspec.json.decode(connection.chunk(), type=StateMessage)


def test_a_state_then_changes_and_heartbeats(replica: ServerProcess) -> None:
    with Connection(replica.port) as channel, Connection(replica.port) as client:
        read = follow(channel)
        state = read()
        assert isinstance(state, ReplicaState)
        assert (state.version, state.phase) == (STATE_VERSION, "ready")
        assert [(load.name, load.slots, load.engines) for load in state.models] == [("fake", 4, 1)]
        assert isinstance(read(), StateHeartbeat)
        client.request("POST", "/v1/chat/completions", chat(ENDLESS, stream=True), {"authorization": "Bearer k"})
        while not isinstance(message := read(), StateChange) or not message.models or message.models[0].running != 1:
            pass


@pytest.mark.parametrize("path", ["/cluster/state", "/v1/cluster/state", "//cluster//state", "/%63luster/state"])
@pytest.mark.parametrize("secret", [None, "another-secret-of-some-length", SECRET + "x"])
def test_without_the_secret_there_is_no_such_route(replica: ServerProcess, path: str, secret: str | None) -> None:
    headers = {"authorization": "Bearer k", **({} if secret is None else {SECRET_HEADER: secret})}
    assert ask(replica.port, "GET", path, headers=headers).status == 404


def test_a_server_without_a_secret_has_none(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "GET", "/cluster/state", headers={SECRET_HEADER: ""}).status == 404


def test_a_draining_replica_says_so_and_ends_the_channel_behind_its_last_reply() -> None:
    with fake("--drain-seconds", "30", step=0.02, cluster_secret=SECRET) as server:
        with Connection(server.port) as channel, Connection(server.port) as client:
            read = follow(channel)
            client.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 50 + "</say>", stream=True))
            client.read_head()
            server.process.send_signal(signal.SIGTERM)
            while not isinstance(message := read(), StateChange) or message.phase != "draining":
                pass
            assert b"".join(client.chunks()).endswith(b"[DONE]\n\n")
            while channel.chunk():
                pass
        assert server.process.wait(60) == 0
