"""Anthropic's own Python client, on the scripted backend and on the starter model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel, Field

from openai_wire import say
from servers import ServerProcess, fake

WEATHER: ToolParam = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


class Person(BaseModel):
    """What the model shall describe."""

    name: Annotated[str, Field(max_length=12)]
    age: Annotated[int, Field(ge=0, le=120)]


def connect(server: ServerProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    with fake("--aliases", "claude-*") as server, connect(server) as made:
        yield made


def user(text: str) -> MessageParam:
    return {"role": "user", "content": text}


def test_a_round_of_tools(client: anthropic.Anthropic) -> None:
    messages = [user(say(f"<think>hm</think>Let me see.{CALL}"))]
    with client.messages.stream(model="fake", max_tokens=500, messages=messages, tools=[WEATHER]) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json"} <= kinds
    thought, text, call = message.content
    assert (thought.type, text.type, call.type) == ("thinking", "text", "tool_use")
    assert call.type == "tool_use"
    assert call.input == {"city": "Köln"}
    assert message.stop_reason == "tool_use"
    result: MessageParam = {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "<say>Sun.</say>"}]}
        ],
    }
    messages += [{"role": "assistant", "content": message.content}, result]
    reply = client.messages.create(model="fake", max_tokens=500, messages=messages, tools=[WEATHER])
    assert [block.type for block in reply.content] == ["text"]
    assert reply.content[0].type == "text"
    assert reply.content[0].text == "Sun."
    assert reply.stop_reason == "end_turn"
    assert reply._request_id is not None


def test_the_beta_client_and_an_alias(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(
        model="claude-haiku-4-5",
        max_tokens=500,
        betas=["context-management-2025-06-27"],
        messages=[{"role": "user", "content": "<say>one END</say>"}],
        stop_sequences=["END"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    assert (message.model, message.stop_reason, message.stop_sequence) == ("fake", "stop_sequence", "END")


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="other", max_tokens=5, messages=[user("a")])
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id is not None
    with pytest.raises(anthropic.BadRequestError, match="tools"):
        client.messages.create(
            model="fake", max_tokens=5, messages=[user("a")], tools=[{"type": "bash_20250124", "name": "bash"}]
        )
    stream = client.messages.create(model="fake", max_tokens=50, messages=[user("<say>a<nan></say>")], stream=True)
    with pytest.raises(anthropic.APIStatusError) as failed:
        list(stream)
    assert failed.value.type == "api_error"


def test_counting(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="fake", messages=[user("ab")]).input_tokens == len("[user]ab\n") + 1


def test_models(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").created_at.year >= 2026


def test_the_starter_model(real: ServerProcess) -> None:
    """Greedy, so both ways say the same."""
    with connect(real) as client:
        asked = [user("Name three colours.")]
        greedy = {"temperature": 0}
        whole = client.messages.create(model="smollm2-135m", max_tokens=24, messages=asked, extra_body=greedy)
        with client.messages.stream(model="smollm2-135m", max_tokens=24, messages=asked, extra_body=greedy) as stream:
            text = "".join(stream.text_stream)
            usage = stream.get_final_message().usage
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert text.strip()
    assert whole.usage.output_tokens == usage.output_tokens > 3
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == usage.input_tokens + (
        usage.cache_read_input_tokens or 0
    )


def test_the_starter_model_follows_a_schema(real: ServerProcess) -> None:
    with connect(real) as client:
        asked = [user("Describe a person as JSON.")]
        reply = client.messages.parse(
            model="smollm2-135m",
            max_tokens=80,
            messages=asked,
            output_format=Person,
            extra_body={"temperature": 0},
        )
    assert isinstance(reply.parsed_output, Person)
    assert reply.stop_reason == "end_turn"
