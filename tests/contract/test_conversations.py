"""Conversations that are kept, and responses that belong to one."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from openai_wire import Reply, ask
from servers import ServerProcess, fake
from tailrace.server.dialects.responses.sqlite_store import SqliteResponseStore


def create(server: ServerProcess, **fields: object) -> str:
    body = ask(server.port, "POST", "/v1/conversations", fields).json()
    assert body["object"] == "conversation"
    assert body["id"].startswith("conv_")
    identity: str = body["id"]
    return identity


def texts(server: ServerProcess, identity: str) -> list[str]:
    page = ask(server.port, "GET", f"/v1/conversations/{identity}/items?order=asc&limit=100").json()
    return [part["text"] for item in page["data"] for part in item.get("content", ())]


def respond(server: ServerProcess, given: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/responses", {"input": given, **fields})


def test_the_published_client_goes_through_all_of_it(scripted: ServerProcess) -> None:
    with OpenAI(base_url=f"http://127.0.0.1:{scripted.port}/v1", api_key="any", max_retries=0) as client:
        made = client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "one"}], metadata={"topic": "a"}
        )
        assert client.conversations.retrieve(made.id) == made
        assert client.conversations.update(made.id, metadata={"topic": "b"}).metadata == {"topic": "b"}
        added = client.conversations.items.create(
            made.id, items=[{"role": "user", "content": str(number)} for number in range(3)]
        )
        assert len(added.data) == 3
        response = client.responses.create(model="fake", input="<say>yes</say>", conversation=made.id)
        assert response.conversation is not None
        assert response.conversation.id == made.id
        listed = list(client.conversations.items.list(made.id, order="asc", limit=2))
        assert len(listed) == 6, "pages follow each other"
        assert listed[-1].type == "message"
        one = client.conversations.items.retrieve(added.data[0].id or "", conversation_id=made.id)
        assert one == added.data[0]
        assert client.conversations.items.delete(added.data[0].id or "", conversation_id=made.id).id == made.id
        assert client.conversations.delete(made.id).deleted is True
        with pytest.raises(NotFoundError):
            client.conversations.retrieve(made.id)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_a_response_reads_its_conversation_and_adds_to_it(
    scripted: ServerProcess, stream: bool, store: bool, as_object: bool
) -> None:
    identity = create(scripted, items=[{"role": "user", "content": "first"}])
    named = {"id": identity} if as_object else identity
    for number in range(2):
        reply = respond(scripted, f"<say>reply {number}</say>", conversation=named, stream=stream, store=store)
        assert reply.status == 200, reply.body
    assert texts(scripted, identity) == ["first", "<say>reply 0</say>", "reply 0", "<say>reply 1</say>", "reply 1"]
    counted = ask(scripted.port, "POST", "/v1/responses/input_tokens", {"input": "x", "conversation": identity}).json()
    said = "[user]first\n[user]<say>reply 0</say>\n[assistant]reply 0\n[user]<say>reply 1</say>\n[assistant]reply 1\n"
    assert counted["input_tokens"] == len(f"{said}[user]x\n") + 1
    assert texts(scripted, identity)[-1] == "reply 1", "counting adds nothing"


def test_a_response_that_broke_off_adds_nothing(scripted: ServerProcess) -> None:
    identity = create(scripted)
    assert respond(scripted, "a<nan>" * 2 + "<say>a<nan></say>", conversation=identity).status == 500
    assert texts(scripted, identity) == []


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"conversation": "conv_nobody"}, 404, None),
        ({"conversation": {"id": 1}}, 400, "conversation.id"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, 400, "conversation"),
    ],
)
def test_a_wrong_conversation_is_refused(
    scripted: ServerProcess, fields: dict[str, Any], status: int, param: str | None
) -> None:
    reply = respond(scripted, "x", **fields)
    assert (reply.status, reply.error()["param"]) == (status, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": 1}, "items"),
        ({"items": [{"role": "user", "content": "x"}] * 21}, "items"),
        ({"items": [{"role": "robot", "content": "x"}]}, "items[0].role"),
        ({"items": [{"type": "hologram"}]}, "items[0].type"),
        ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0]"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
    ],
)
def test_wrong_items_are_named(scripted: ServerProcess, body: dict[str, Any], param: str) -> None:
    reply = ask(scripted.port, "POST", "/v1/conversations", body)
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_an_item_that_comes_again_gets_an_id_of_its_own(scripted: ServerProcess) -> None:
    item = {"id": "msg_1", "type": "message", "role": "user", "content": "x"}
    identity = create(scripted, items=[item, item])
    page = ask(scripted.port, "GET", f"/v1/conversations/{identity}/items?order=asc").json()
    ids = [item["id"] for item in page["data"]]
    assert ids[0] == "msg_1"
    assert len(set(ids)) == 2
    unknown = ask(scripted.port, "GET", f"/v1/conversations/{identity}/items/msg_2")
    assert unknown.status == 404


def test_conversations_outlive_the_server(tmp_path: Path) -> None:
    file = str(tmp_path / "kept.sqlite")
    with fake(responses_file=file) as server:
        identity = create(server, items=[{"role": "user", "content": "kept"}])
    with fake(responses_file=file) as server:
        assert texts(server, identity) == ["kept"]


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """What it has stays: people's conversations go on from it."""
    file = tmp_path / "kept.sqlite"
    with fake(responses_file=str(file)) as server:
        identity = respond(server, "<say>a</say>").json()["id"]
        kept = ask(server.port, "GET", f"/v1/responses/{identity}").json()
    with sqlite3.connect(file) as connection:
        for table in ("events", "conversations", "conversation_items"):
            connection.execute(f"DROP TABLE {table}")
        for column in ("key", "caller", "bytes"):
            connection.execute(f"ALTER TABLE responses DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with fake(responses_file=str(file)) as server:
        assert ask(server.port, "GET", f"/v1/responses/{kept['id']}").json() == kept
        assert texts(server, create(server, items=[{"role": "user", "content": "new"}])) == ["new"]


def test_the_oldest_conversations_are_evicted(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteResponseStore(tmp_path / "kept.sqlite", megabytes=1, days=30)
        made = []
        for _ in range(20):
            item = {"id": "msg_1", "type": "message", "role": "user", "content": "x" * 100_000}
            made.append((await store.conversations.create([item], {}, ""))["id"])
        await store.conversations.get(made[-1], "")
        with pytest.raises(Exception, match="not kept here"):
            await store.conversations.get(made[0], "")
        store.close()

    asyncio.run(scenario())
