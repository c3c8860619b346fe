"""What ollama's own Python client makes of the server, with the scripted backend and with the real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import ollama
import pytest
from pydantic import BaseModel, Field

from openai_wire import say
from servers import ServerProcess

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'


@pytest.fixture
def client(scripted: ServerProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=f"http://127.0.0.1:{scripted.port}") as client:
        yield client


@pytest.fixture
def real_client(real: ServerProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=f"http://127.0.0.1:{real.port}") as client:
        yield client


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Where.
    """
    return f"<say>sunny in {city}</say>"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_stream_and_a_complete_reply_have_the_same_text(client: ollama.Client) -> None:
    parts = list(client.chat("fake", [user(say("naïve 👩‍🚀"))], stream=True))
    assert "".join(part.message.content or "" for part in parts) == "naïve 👩‍🚀"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason == "stop"
    assert last.eval_count == len("naïve 👩‍🚀".encode()) + 1
    assert last.total_duration is not None
    assert last.total_duration > 0
    whole = client.chat("fake", [user(say("naïve 👩‍🚀"))], options={"temperature": 0, "num_ctx": 4096}, keep_alive="5m")
    assert whole.message.content == "naïve 👩‍🚀"
    text = "".join(part.response or "" for part in client.generate("fake", say("naïve"), stream=True))
    assert text == client.generate("fake", say("naïve"), system="be brief").response == "naïve"


def test_thoughts(client: ollama.Client) -> None:
    reply = client.chat("fake", [user("<say><think>hm</think>yes</say>")], think=True)
    assert (reply.message.thinking, reply.message.content) == ("hm", "yes")


def test_a_round_trip_with_a_tool(client: ollama.Client) -> None:
    messages: list[dict[str, str] | ollama.Message] = [user(say(CALL))]
    for stream in (False, True):
        if stream:
            parts = list(client.chat("fake", messages, tools=[weather], stream=True))
            (message,) = [part.message for part in parts if part.message.tool_calls]
        else:
            message = client.chat("fake", messages, tools=[weather]).message
        assert message.tool_calls
        (call,) = message.tool_calls
        assert call.function.name == "weather"
        assert call.function.arguments == {"city": "Bern"}
    result = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    assert client.chat("fake", [*messages, message, result], tools=[weather]).message.content == "sunny in Bern"


def test_several_at_once_from_the_async_client(scripted: ServerProcess) -> None:
    async def one(client: ollama.AsyncClient, text: str) -> str:
        told = await client.chat("fake", [user(say(text))], stream=True)
        return "".join([part.message.content or "" async for part in told])

    async def all_of_them(texts: list[str]) -> list[str]:
        async with ollama.AsyncClient(host=f"http://127.0.0.1:{scripted.port}") as client:
            return await asyncio.gather(*(one(client, text) for text in texts))

    texts = [f"reply {number} " * 20 for number in range(8)]
    assert asyncio.run(all_of_them(texts)) == texts


def test_errors_are_the_clients_own(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'other' not found") as missing:
        client.chat("other", [user("hi")])
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="typical_p"):
        list(client.chat("fake", [user("hi")], stream=True, options={"typical_p": 5}))
    with pytest.raises(ollama.ResponseError, match="can't be continued"):
        list(client.chat("fake", [user("<say>ab<nan></say>")], stream=True))
    with pytest.raises(ollama.ResponseError, match="--manage-models"):
        client.create("mine", from_="fake")
    with pytest.raises(ollama.ResponseError, match="--manage-models"):
        client.delete("other")


def test_models(real_client: ollama.Client) -> None:
    (listed,) = real_client.list().models
    assert listed.model == "smollm2-135m:latest"
    assert listed.size
    assert listed.details is not None
    assert listed.details.quantization_level == "Q4_1"
    shown = real_client.show("smollm2-135m")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    (loaded,) = real_client.ps().models
    assert (loaded.model, loaded.context_length) == (listed.model, 2048)
    assert [part.status for part in real_client.pull("smollm2-135m", stream=True)][-1] == "success"
    assert real_client.pull("smollm2-135m").status == "success"
    first, second = real_client.embed("smollm2-135m", ["a cat", "a dog"]).embeddings
    assert len(first) == len(second) == 576
    assert len(real_client.embeddings("smollm2-135m", "a cat").embedding) == 576


class Person(BaseModel, extra="forbid"):
    """What the model has to answer, and no more: it could think of properties without end."""

    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=99)


def test_structured_output_of_the_real_model(real_client: ollama.Client) -> None:
    reply = real_client.chat(
        "smollm2-135m",
        [user("Make up a person and answer in JSON.")],
        format=Person.model_json_schema(),
        options={"seed": 7, "num_predict": 200},
    )
    assert reply.done_reason == "stop"
    Person.model_validate_json(reply.message.content or "")


def test_the_real_model_streams(real_client: ollama.Client) -> None:
    options = {"seed": 1, "num_predict": 16, "temperature": 0}
    # What is known of a prompt isn't read again, and one token is rounded otherwise than twelve: both find it known.
    real_client.generate("smollm2-135m", "Count to five.", options=options)
    parts = list(real_client.generate("smollm2-135m", "Count to five.", stream=True, options=options))
    whole = real_client.generate("smollm2-135m", "Count to five.", options=options)
    assert "".join(part.response or "" for part in parts) == whole.response
    assert whole.eval_count is not None
    assert 0 < whole.eval_count <= 16
    assert real_client.generate("smollm2-135m", "", keep_alive=0).done_reason == "unload"
