"""Chat completions that are stored: looked up, listed, changed and forgotten, with OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted

from openai_wire import ask, chat, chat_stream, say
from published_schemas import problems
from servers import ServerProcess, fake

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def client(scripted: ServerProcess) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{scripted.port}/v1"
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as made:
        yield made


def test_a_stored_completion_equals_the_sent_one(scripted: ServerProcess, client: openai.OpenAI) -> None:
    metadata = {"project": "a"}
    made = client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": say("Hi")}], store=True, metadata=metadata
    )
    kept = client.chat.completions.retrieve(made.id)
    assert kept.choices == made.choices
    assert (kept.usage, kept.created, kept.metadata) == (made.usage, made.created, metadata)
    assert not problems(ChatCompletion, ask(scripted.port, "GET", f"{CHAT}/{made.id}").body)


def test_a_streamed_completion_is_stored_too(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", CHAT, chat(say("<think>hm</think>Hi"), stream=True, store=True, n=2))
    stream = chat_stream(reply, choices=2)
    kept = ask(scripted.port, "GET", f"{CHAT}/{stream.chunks[0]['id']}").json()
    assert [choice["message"]["content"] for choice in kept["choices"]] == stream.text == ["Hi", "Hi"]
    assert [choice["message"]["reasoning_content"] for choice in kept["choices"]] == stream.reasoning
    assert kept["usage"]["completion_tokens"] > 4
    assert kept["metadata"] == {}


def test_its_messages_come_in_pages(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model="fake",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": say("Hi")},
        ],
        store=True,
    )
    listed = list(client.chat.completions.messages.list(made.id, limit=3))
    assert [message.content for message in listed] == ["Be brief.", None, "c", say("Hi")]
    parts = listed[1].content_parts
    assert parts is not None
    assert [part.text for part in parts if part.type == "text"] == ["a", "b"]
    backwards = client.chat.completions.messages.list(made.id, order="desc", limit=1)
    assert [message.id for message in backwards.data] == [listed[3].id]
    after = client.chat.completions.messages.list(made.id, after=listed[1].id)
    assert [message.id for message in after.data] == [listed[2].id, listed[3].id]


def test_metadata_is_changed_and_a_completion_forgotten(scripted: ServerProcess, client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": say("Hi")}], store=True)
    assert client.chat.completions.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.chat.completions.retrieve(made.id).metadata == {"a": "b"}
    gone = ask(scripted.port, "DELETE", f"{CHAT}/{made.id}")
    assert not problems(ChatCompletionDeleted, gone.body)
    for method, path in (("GET", made.id), ("DELETE", made.id), ("GET", f"{made.id}/messages")):
        assert ask(scripted.port, method, f"{CHAT}/{path}").status == 404
    assert ask(scripted.port, "POST", f"{CHAT}/{made.id}", {"metadata": {}}).status == 404


def test_a_completion_without_store_is_not_stored(scripted: ServerProcess) -> None:
    for fields in ({}, {"store": False}):
        made = ask(scripted.port, "POST", CHAT, chat(say("Hi"), **fields)).json()
        assert ask(scripted.port, "GET", f"{CHAT}/{made['id']}").status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", CHAT, chat("a", store=True, metadata={"a": 1}), "metadata"),
        ("POST", CHAT, chat("a", store=True, metadata={str(n): "" for n in range(17)}), "metadata"),
        ("POST", f"{CHAT}/x", {"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ("GET", f"{CHAT}/x/messages?limit=0", None, "limit"),
        ("GET", f"{CHAT}/x/messages?order=up", None, "order"),
    ],
)
def test_what_is_wrong_is_named(scripted: ServerProcess, method: str, path: str, body: object, param: str) -> None:
    reply = ask(scripted.port, method, path, body)
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_store_is_refused_where_storing_is_disabled() -> None:
    with fake("--responses-mb", "0") as server:
        reply = ask(server.port, "POST", CHAT, chat(say("a"), store=True))
        assert (reply.status, reply.error()["param"]) == (400, "store")
        assert ask(server.port, "GET", f"{CHAT}/chatcmpl-a").status == 404
        assert ask(server.port, "POST", CHAT, chat(say("a"), store=False)).status == 200
