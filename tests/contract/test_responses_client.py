"""OpenAI's own Python client with Responses, on the scripted backend and on the starter model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Annotated, Any, cast

import openai
import pytest
from openai import OpenAI
from openai.types.responses import (
    FunctionToolParam,
    ResponseCustomToolCall,
    ResponseFunctionToolCall,
    ResponseInputParam,
    ResponseReasoningItem,
)
from pydantic import BaseModel, Field

from openai_wire import say
from servers import ServerProcess, fake

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


class Person(BaseModel):
    """What the model shall describe."""

    name: Annotated[str, Field(max_length=12)]
    age: Annotated[int, Field(ge=0, le=120)]


def connect(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0)


@pytest.fixture
def client(scripted: ServerProcess) -> Iterator[OpenAI]:
    with connect(scripted) as made:
        yield made


def test_whole(client: OpenAI) -> None:
    response = client.responses.create(model="fake", input=say("Grüße 🌍"))
    assert response.output_text == "Grüße 🌍"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert client.responses.retrieve(response.id) == response


def test_streamed(client: OpenAI) -> None:
    with client.responses.stream(model="fake", input=say("<think>hm</think>Grüße 🌍"), store=False) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Grüße 🌍"
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "hm"
    assert response.output_text == "Grüße 🌍"
    assert isinstance(response.output[0], ResponseReasoningItem)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_round_with_a_tool_by_the_previous_response(client: OpenAI, streamed: bool) -> None:
    if streamed:
        with client.responses.stream(model="fake", input=say(CALL), tools=[WEATHER]) as stream:
            first = stream.get_final_response()
        call, identity = cast(object, first.output[0]), first.id
    else:
        whole = client.responses.create(model="fake", input=say(CALL), tools=[WEATHER])
        call, identity = whole.output[0], whole.id
    assert isinstance(call, ResponseFunctionToolCall)
    assert json.loads(call.arguments) == {"city": "Köln"}
    second = client.responses.create(
        model="fake",
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": say("It rains.")}],
        tools=[WEATHER],
        previous_response_id=identity,
    )
    assert second.output_text == "It rains."


def test_a_round_with_a_tool_by_sending_everything_again(client: OpenAI) -> None:
    history: ResponseInputParam = [{"role": "user", "content": say(f"<think>hm</think>Look. {CALL}")}]
    first = client.responses.create(
        model="fake", input=history, tools=[WEATHER], store=False, include=["reasoning.encrypted_content"]
    )
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    history += [item.to_dict() for item in first.output]  # type: ignore[misc]  # the client takes its own replies as input
    call = first.output[2]
    assert isinstance(call, ResponseFunctionToolCall)
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": say("It rains.")})
    assert client.responses.create(model="fake", input=history, tools=[WEATHER], store=False).output_text == "It rains."


def test_a_custom_tool(client: OpenAI) -> None:
    said = say('<tool_call>{"name": "patch", "arguments": {"input": "+a"}}</tool_call>')
    response = client.responses.create(model="fake", input=said, tools=[{"type": "custom", "name": "patch"}])
    (call,) = response.output
    assert isinstance(call, ResponseCustomToolCall)
    assert call.input == "+a"


def test_stored_responses(client: OpenAI) -> None:
    items: ResponseInputParam = [{"role": "user", "content": str(number)} for number in range(30)]
    response = client.responses.create(model="fake", input=[*items, {"role": "user", "content": say("a")}])
    listed = list(client.responses.input_items.list(response.id, order="asc", limit=7))
    assert len(listed) == 31, "over several pages"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_in_the_background(client: OpenAI) -> None:
    begun = client.responses.create(model="fake", input=say("a" * 2000), background=True)
    assert begun.status == "in_progress"
    ended = client.responses.cancel(begun.id)
    assert ended.status in ("cancelled", "completed")
    assert client.responses.retrieve(begun.id).status == ended.status


def test_refusals_name_the_field(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="fake", input="x", tools=[{"type": "code_interpreter", "container": "c"}])
    assert caught.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="other", input="x")


def test_a_stream_that_breaks_raises() -> None:
    with fake(step=0.02) as server, connect(server) as client:
        with client.responses.create(model="fake", input="<say>" + "a" * 3000 + "</say>", stream=True) as stream:
            seen = [next(iter(stream)) for _ in range(8)]
            os.kill(server.engine, signal.SIGKILL)
            with pytest.raises(openai.APIError, match="engine"):
                seen += list(stream)
        assert seen[-1].type == "response.output_text.delta"


def test_the_starter_model(real: ServerProcess) -> None:
    with connect(real) as client:
        # What is known of a prompt isn't read again, and one token is rounded otherwise than twelve: the first of three
        # finds nothing known, and isn't compared.
        for _ in range(2):
            first = client.responses.create(
                model="smollm2-135m", input="Name a river in Europe.", max_output_tokens=16, temperature=0
            )
        assert first.output_text.strip()
        assert first.status in ("completed", "incomplete")
        with client.responses.stream(
            model="smollm2-135m",
            input="Name a river in Europe.",
            max_output_tokens=16,
            temperature=0,
        ) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == first.output_text
        assert first.usage is not None
        second = client.responses.create(
            model="smollm2-135m", input="Another?", previous_response_id=first.id, max_output_tokens=4
        )
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens, "the beginning is known"
        parsed = client.responses.parse(
            model="smollm2-135m", input="Describe a person as JSON.", max_output_tokens=80, text_format=Person
        )
        assert isinstance(parsed.output_parsed, Person)


@pytest.mark.parametrize("choice", ["required", "named", "allowed"])
def test_the_starter_model_has_to_call(real: ServerProcess, choice: str) -> None:
    """And its arguments fit the schema, though it knows nothing of tools."""
    parameters: dict[str, object] = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    count: FunctionToolParam = {"type": "function", "name": "count", "parameters": parameters, "strict": True}
    choices: dict[str, Any] = {
        "required": "required",
        "named": {"type": "function", "name": "count"},
        "allowed": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "count"}]},
    }
    tools = [count] if choice == "required" else [WEATHER, count]
    with (
        connect(real) as client,
        client.responses.stream(
            model="smollm2-135m",
            input="Count.",
            tools=tools,
            tool_choice=choices[choice],
            parallel_tool_calls=False,
            max_output_tokens=60,
        ) as stream,
    ):
        response = stream.get_final_response()
    (call,) = response.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.name == "count"
    assert set(json.loads(call.arguments)) == {"n"}
