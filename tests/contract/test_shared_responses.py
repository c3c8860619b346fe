"""Two servers on one PostgreSQL: what one has stored, or makes in the background, the other one answers for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from openai_wire import ask, chat
from postgres_server import PostgresServer
from servers import ServerProcess, wait_for
from shared_servers import ENDLESS, events, get, respond, running, server_on, text_of


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture(scope="module")
def pair(address: str) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers with a step of 2 ms."""
    with server_on(address) as one, server_on(address) as other:
        yield one, other


def test_a_conversation_goes_on_through_any_server(pair: tuple[ServerProcess, ServerProcess]) -> None:
    previous: str | None = None
    for turn in range(6):
        server = pair[turn % 2]
        fields: dict[str, str] = {} if previous is None else {"previous_response_id": previous}
        if turn % 3 == 2:  # A stream's end is stored before its client has it.
            body = {"input": f"<say>t{turn}</say>", "stream": True, **fields}
            streamed = events(ask(server.port, "POST", "/v1/responses", body).body)
            assert streamed[-1]["type"] == "response.completed"
            previous = streamed[-1]["response"]["id"]
        else:
            previous = respond(server, f"t{turn}", **fields)["id"]
    counted = ask(
        pair[0].port, "POST", "/v1/responses/input_tokens", {"input": "x", "previous_response_id": previous}
    ).json()
    alone = ask(pair[0].port, "POST", "/v1/responses/input_tokens", {"input": "x"}).json()
    assert counted["input_tokens"] > alone["input_tokens"] + 6 * len("<say>t0</say>")


def test_stored_objects_of_every_kind_are_found_by_the_other_server(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, other = pair
    made = respond(one, "hello")
    assert get(other, made["id"]) == made
    items = ask(other.port, "GET", f"/v1/responses/{made['id']}/input_items").json()
    assert items["data"][0]["content"][0]["text"] == "<say>hello</say>"
    reference = [{"type": "item_reference", "id": made["output"][0]["id"]}, {"role": "user", "content": "x"}]
    assert ask(other.port, "POST", "/v1/responses", {"input": reference}).status == 200
    conversation = ask(one.port, "POST", "/v1/conversations", {}).json()["id"]
    for turn in range(4):
        respond(pair[turn % 2], f"c{turn}", conversation=conversation, store=turn > 1)
    listed = ask(one.port, "GET", f"/v1/conversations/{conversation}/items?limit=100&order=asc").json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant"] * 4
    assert ask(other.port, "DELETE", f"/v1/responses/{made['id']}").status == 200
    assert ask(one.port, "GET", f"/v1/responses/{made['id']}").status == 404


@pytest.mark.parametrize("stream", [False, True])
def test_stored_chat_completions_are_found_by_the_other_server(
    pair: tuple[ServerProcess, ServerProcess], stream: bool
) -> None:
    one, other = pair
    reply = ask(one.port, "POST", "/v1/chat/completions", chat("<say>kept</say>", store=True, stream=stream))
    identity = events(reply.body.replace(b"data: [DONE]", b""))[0]["id"] if stream else reply.json()["id"]
    path = f"/v1/chat/completions/{identity}"
    assert ask(other.port, "GET", path).json()["choices"][0]["message"]["content"] == "kept"
    assert ask(other.port, "POST", path, {"metadata": {"a": "b"}}).status == 200
    assert ask(one.port, "GET", path).json()["metadata"] == {"a": "b"}
    assert len(ask(other.port, "GET", f"{path}/messages").json()["data"]) == 1
    assert ask(other.port, "DELETE", path).status == 200
    assert ask(one.port, "GET", path).status == 404


def test_a_response_in_the_background_is_streamed_by_the_other_server(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = pair
    made = respond(one, "word " * 40, background=True)
    assert get(other, made["id"])["status"] == "in_progress"
    streamed = events(ask(other.port, "GET", f"/v1/responses/{made['id']}?stream=true").body)
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert streamed[-1]["type"] == "response.completed"
    assert text_of(streamed) == "word " * 40
    again = events(ask(other.port, "GET", f"/v1/responses/{made['id']}?stream=true&starting_after=99").body)
    assert again == streamed[100:]
    own = events(ask(one.port, "GET", f"/v1/responses/{made['id']}?stream=true").body)
    assert own == streamed
    assert get(other, made["id"]) == streamed[-1]["response"]


def test_a_response_in_the_background_is_cancelled_by_the_other_server(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = pair
    made = respond(one, ENDLESS, background=True)
    path = f"/v1/responses/{made['id']}"
    begun = time.monotonic()
    cancelled = ask(other.port, "POST", f"{path}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert time.monotonic() - begun < 20, "it doesn't wait for the response's own end"
    assert get(one, made["id"]) == get(other, made["id"]) == cancelled
    refused = ask(other.port, "POST", f"/v1/responses/{respond(one, 'x')['id']}/cancel")
    assert refused.status == 400


def test_a_response_in_the_background_is_deleted_by_the_other_server(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, other = pair
    made = respond(one, ENDLESS, background=True)
    path = f"/v1/responses/{made['id']}"
    assert ask(other.port, "DELETE", path).status == 200
    for server in pair:
        assert ask(server.port, "GET", path).status == 404
    wait_for("its end", lambda: running(one) == 0)
