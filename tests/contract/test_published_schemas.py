"""Every reply, event and error of OpenAI's and Anthropic's routes is what their packages say it is, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from anthropic.pagination import SyncPage
from anthropic.types import ErrorResponse, Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionDeleted
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from openai_wire import Reply, ask, chat, say
from published_schemas import problems
from servers import ServerProcess

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
THOUGHT = "<think>hm</think>So: é🎉"
CHAT_TOOLS = {"tools": [{"type": "function", "function": TOOL}]}
RESPONSE_TOOLS = {"tools": [{"type": "function", **TOOL}, {"type": "custom", "name": "run"}]}
CLAUDE_TOOLS = {"tools": [{"name": "weather", "input_schema": TOOL["parameters"]}]}
VERSION = {"anthropic-version": "2023-06-01"}

#: What local servers add and clients of theirs read: documented, and told to no client as something else.
EXTENSIONS = {
    ".choices[].message.reasoning_content",
    ".choices[].delta.reasoning_content",
    ".max_model_len",
    ".context_length",
    ".status",
    ".meta",
    ".capabilities",
    ".models",
    # What OpenAI's own service sends, and its package doesn't know.
    ".store",
    ".response.store",
    ".output[].status",
    ".item.status",
    ".response.output[].status",
    # In events: earlier versions of the package require the name, and a token's bytes are told wherever its text is.
    ".name",
    ".logprobs[].bytes",
    ".logprobs[].top_logprobs[].bytes",
}
#: OpenAI's package says that every chunk of a text completion has a reason to finish; its service sends null.
UNFINISHED = ["choices.0.finish_reason: Input should be 'stop', 'length' or 'content_filter'"]

#: Bodies of chat completions, one for each thing that a reply may have.
CHATS: Mapping[str, dict[str, Any]] = {
    "text": chat(say("Hello")),
    "thought": chat(say(THOUGHT)),
    "call": {**chat(say("Look: " + CALL)), **CHAT_TOOLS},
    "logprobs": chat(say("aé🎉"), logprobs=True, top_logprobs=3),
    "choices": chat(say("Hello"), n=2, logprobs=True),
    "length": chat(say("Hello"), max_tokens=2),
    "prediction": chat(say("Hello there"), prediction={"type": "content", "content": "Hello there"}),
}
COMPLETIONS: Mapping[str, dict[str, Any]] = {
    "text": {"prompt": say("Hello")},
    "logprobs": {"prompt": say("aé🎉"), "logprobs": 3},
    "no top logprobs": {"prompt": say("a"), "logprobs": 0},
    "echo": {"prompt": say("é"), "echo": True},
    "best": {"prompt": say("a"), "best_of": 2, "n": 1},
    "several": {"prompt": [say("a"), say("b")], "n": 2, "stop": "b"},
}
RESPONSES: Mapping[str, dict[str, Any]] = {
    "text": {"input": say("Hello")},
    "thought": {"input": say(THOUGHT)},
    "summary": {"input": say(THOUGHT), "reasoning": {"summary": "auto", "effort": "low"}},
    "encrypted": {"input": say(THOUGHT), "include": ["reasoning.encrypted_content"], "store": False},
    "call": {"input": say("Look: " + CALL), **RESPONSE_TOOLS, "tool_choice": "auto"},
    "custom": {"input": say(CALL.replace("weather", "run").replace("city", "input")), **RESPONSE_TOOLS},
    "logprobs": {"input": say("aé🎉"), "top_logprobs": 3},
    "length": {"input": say("Hello"), "max_output_tokens": 2},
    "form": {
        "input": say('{"a": 1}'),
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object", "properties": {}}}},
        "metadata": {"a": "b"},
        "instructions": "Be brief.",
        "user": "me",
    },
}
MESSAGES: Mapping[str, dict[str, Any]] = {
    "text": chat(say("Hello")),
    "thought": chat(say(THOUGHT), thinking={"type": "enabled", "budget_tokens": 1024}),
    "call": {**chat(say("Look: " + CALL)), **CLAUDE_TOOLS},
    "stopped": chat(say("Hello"), stop_sequences=["l"]),
    "cached": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": say("a"), "cache_control": {"type": "ephemeral"}}]}
        ]
    },
}


def judge(kind: Any, body: bytes) -> None:
    found = problems(kind, body, EXTENSIONS)
    assert not found, (found, body)


def post(server: ServerProcess, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    reply = ask(server.port, "POST", path, {"model": "fake", **body}, headers)
    assert reply.status == 200, reply.body
    return reply


def events(reply: Reply) -> Iterator[bytes]:
    """The data of the stream's events, without the end of OpenAI's older dialects."""
    for event in reply.body.split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield line[6:]


@pytest.mark.parametrize("name", CHATS)
def test_chat_completions(scripted: ServerProcess, name: str) -> None:
    whole = post(scripted, "/v1/chat/completions", CHATS[name])
    judge(ChatCompletion, whole.body)
    stream = post(
        scripted, "/v1/chat/completions", {**CHATS[name], "stream": True, "stream_options": {"include_usage": True}}
    )
    for event in events(stream):
        judge(ChatCompletionChunk, event)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_text_completions(scripted: ServerProcess, name: str) -> None:
    whole = post(scripted, "/v1/completions", COMPLETIONS[name])
    judge(Completion, whole.body)
    assert all("logprobs" in choice for choice in whole.json()["choices"]), "required, null where none are asked for"
    if name == "best":
        return
    stream = post(
        scripted, "/v1/completions", {**COMPLETIONS[name], "stream": True, "stream_options": {"include_usage": True}}
    )
    for event in events(stream):
        found = problems(Completion, event, EXTENSIONS)
        assert not found or (found == UNFINISHED and b'"finish_reason":null' in event), (found, event)


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(scripted: ServerProcess, name: str) -> None:
    whole = post(scripted, "/v1/responses", RESPONSES[name])
    judge(Response, whole.body)
    for event in events(post(scripted, "/v1/responses", {**RESPONSES[name], "stream": True})):
        judge(ResponseStreamEvent, event)


def test_stored_responses(scripted: ServerProcess) -> None:
    begun = post(scripted, "/v1/responses", {"input": say("a"), "background": True})
    judge(Response, begun.body)
    path = f"/v1/responses/{begun.json()['id']}"
    judge(Response, ask(scripted.port, "POST", f"{path}/cancel").body)
    judge(Response, ask(scripted.port, "GET", path).body)
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say("a")}]}
    path = f"/v1/responses/{post(scripted, '/v1/responses', {'input': [item]}).json()['id']}/input_items"
    judge_page(ResponseItem, ask(scripted.port, "GET", path))


def judge_page(kind: Any, reply: Reply) -> None:
    """A list whose items are of that kind; OpenAI's package knows nothing of a page but its items."""
    assert reply.status == 200, reply.body
    page = reply.json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    assert page["data"]
    for item in page["data"]:
        judge(kind, json.dumps(item).encode())


def test_a_response_that_is_streamed_again(scripted: ServerProcess) -> None:
    made = post(scripted, "/v1/responses", {"input": say("a"), "background": True, "stream": True})
    first, *_ = events(made)
    for event in events(ask(scripted.port, "GET", f"/v1/responses/{json.loads(first)['response']['id']}?stream=true")):
        judge(ResponseStreamEvent, event)


def test_conversations(scripted: ServerProcess) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say("a")}]}
    made = post(scripted, "/v1/conversations", {"items": [item], "metadata": {"a": "b"}})
    judge(Conversation, made.body)
    path = f"/v1/conversations/{made.json()['id']}"
    post(scripted, "/v1/responses", {"input": say(THOUGHT), "conversation": made.json()["id"]})
    judge_page(ConversationItem, ask(scripted.port, "GET", f"{path}/items"))
    added = ask(scripted.port, "POST", f"{path}/items", {"items": [item]})
    judge_page(ConversationItem, added)
    one = f"{path}/items/{added.json()['data'][0]['id']}"
    judge(ConversationItem, ask(scripted.port, "GET", one).body)
    judge(Conversation, ask(scripted.port, "DELETE", one).body)
    judge(Conversation, ask(scripted.port, "POST", path, {"metadata": {}}).body)
    judge(Conversation, ask(scripted.port, "GET", path).body)
    judge(ConversationDeletedResource, ask(scripted.port, "DELETE", path).body)


def test_tokens_are_counted(scripted: ServerProcess) -> None:
    judge(InputTokenCountResponse, post(scripted, "/v1/responses/input_tokens", {"input": "a"}).body)
    judge(InputTokenCountResponse, post(scripted, "/v1/chat/completions/input_tokens", chat("a")).body)


def test_stored_completions(scripted: ServerProcess) -> None:
    path = f"/v1/chat/completions/{post(scripted, '/v1/chat/completions', chat(say('a'), store=True)).json()['id']}"
    judge(ChatCompletion, ask(scripted.port, "GET", path).body)
    judge(ChatCompletion, ask(scripted.port, "POST", path, {"metadata": {"a": "b"}}).body)
    judge(ChatCompletionDeleted, ask(scripted.port, "DELETE", path).body)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(scripted: ServerProcess, name: str) -> None:
    body = {"max_tokens": 100, **MESSAGES[name]}
    judge(Message, post(scripted, "/v1/messages", body, VERSION).body)
    told = list(events(post(scripted, "/v1/messages", {**body, "stream": True}, VERSION)))
    assert sum(event == b'{"type": "ping"}' for event in told) == 1
    for event in told:
        if event != b'{"type": "ping"}':
            judge(RawMessageStreamEvent, event)


def test_the_rest(scripted: ServerProcess) -> None:
    judge(CreateEmbeddingResponse, post(scripted, "/v1/embeddings", {"input": ["a", "b"]}).body)
    listed = ask(scripted.port, "GET", "/v1/models")
    assert set(listed.json()) >= {"object", "data"}
    for model in listed.json()["data"]:
        judge(Model, json.dumps(model).encode())
    judge(Model, ask(scripted.port, "GET", "/v1/models/fake").body)
    judge(SyncPage[ModelInfo], ask(scripted.port, "GET", "/v1/models", headers=VERSION).body)
    judge(ModelInfo, ask(scripted.port, "GET", "/v1/models/fake", headers=VERSION).body)
    judge(MessageTokensCount, post(scripted, "/v1/messages/count_tokens", chat("a"), VERSION).body)


WRONG: list[tuple[str, str, object]] = [
    ("POST", "/v1/chat/completions", {}),
    ("POST", "/v1/chat/completions", b"{"),
    ("POST", "/v1/chat/completions", chat("a", model="other")),
    ("POST", "/v1/chat/completions", chat("x" * 400_000)),
    ("POST", "/v1/completions", {"prompt": "a", "temperature": "warm"}),
    ("POST", "/v1/embeddings", {"input": ""}),
    ("POST", "/v1/responses", {"input": "a", "conversation": 1}),
    ("GET", "/v1/responses/resp_none", None),
    ("GET", "/v1/chat/completions", None),
    ("GET", "/v1/nothing", None),
    ("POST", "/v1/messages", {}),
    ("GET", "/v1/messages", None),
    ("POST", "/v1/messages", chat("a", max_tokens=1, model="other")),
]


@pytest.mark.parametrize(("method", "path", "body"), WRONG, ids=lambda value: str(value)[:30])
def test_errors(scripted: ServerProcess, method: str, path: str, body: object) -> None:
    reply = ask(scripted.port, method, path, body)
    assert reply.status >= 400
    if "messages" in path:
        judge(ErrorResponse, reply.body)
        return
    assert set(reply.json()) == {"error"}
    extra = {".n_prompt_tokens", ".n_ctx"}  # llama-server's, beside what OpenAI's errors have
    assert not problems(ErrorObject, json.dumps(reply.json()["error"]).encode(), extra)


def test_errors_after_the_headers(scripted: ServerProcess) -> None:
    *_, failure = events(post(scripted, "/v1/chat/completions", chat("<say>a<nan></say>", stream=True)))
    assert not problems(ErrorObject, json.dumps(json.loads(failure)["error"]).encode())
    for event in events(post(scripted, "/v1/responses", {"input": "<say>a<nan></say>", "stream": True})):
        assert not problems(ResponseStreamEvent, event, {*EXTENSIONS, ".error"}), event
    body = chat("<say>a<nan></say>", stream=True, max_tokens=9)
    *_, failure = events(post(scripted, "/v1/messages", body, VERSION))
    judge(ErrorResponse, failure)
