"""Structured output by the real model: another validator accepts each strict reply, for all schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, ConfigDict, Field

from schemas import longest, random_schema
from servers import ServerProcess, serving

SCHEMAS = 64


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving("--ctx", "2048", "--parallel", "8", "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0)


def _validate(reply: str, schema: dict[str, Any]) -> None:
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(reply))


def test_every_strict_reply_to_64_random_schemas_validates(client: OpenAI) -> None:
    def ask(seed: int) -> tuple[dict[str, Any], str, str]:
        schema = random_schema(seed)
        form: Any = {"type": "json_schema", "json_schema": {"name": f"s{seed}", "schema": schema, "strict": True}}
        reply = client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Invent an example. Reply in JSON."}],
            response_format=form,
            temperature=1.0,
            seed=seed,
            # Enough for the longest reply under the schema.
            max_tokens=longest(schema) + 1,
        )
        choice = reply.choices[0]
        return schema, choice.message.content or "", choice.finish_reason

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, range(SCHEMAS)))
    for schema, reply, finish in replies:
        assert finish == "stop", (schema, reply)
        _validate(reply, schema)
    assert len({json.dumps(schema) for schema, _, _ in replies}) == SCHEMAS
    keywords = json.dumps([schema for schema, _, _ in replies])
    for keyword in (
        "anyOf",
        "enum",
        "const",
        "pattern",
        "format",
        "$ref",
        "maxItems",
        "multipleOf",
        "exclusiveMinimum",
    ):
        assert f'"{keyword}"' in keywords, keyword


class Pet(BaseModel):
    name: str = Field(max_length=20)
    kind: Literal["cat", "dog", "owl"]
    age: int = Field(ge=0, le=30)


class Owner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    pets: list[Pet] = Field(min_length=1, max_length=2)
    email: str | None = Field(max_length=30)


def test_the_openai_client_parses_a_reply_into_a_pydantic_model(client: OpenAI) -> None:
    # What is known of a prompt isn't read again, and one token is rounded otherwise than twelve: the first of three
    # finds nothing known, and isn't compared.
    for _ in range(2):
        parsed = client.chat.completions.parse(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Anna has a cat called Tom that is 3 years old. Fill in the form."}],
            response_format=Owner,
            temperature=0,
            max_tokens=300,
        )
    owner = parsed.choices[0].message.parsed
    assert isinstance(owner, Owner)
    assert 1 <= len(owner.pets) <= 2
    with client.chat.completions.stream(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "Anna has a cat called Tom that is 3 years old. Fill in the form."}],
        response_format=Owner,
        temperature=0,
        max_tokens=300,
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == owner


def test_other_kinds_of_grammars_constrain_the_real_model(client: OpenAI) -> None:
    def ask(**extra: object) -> str:
        reply = client.completions.create(
            model="smollm2-135m", prompt="The best fruit is", max_tokens=40, temperature=1.0, seed=3, extra_body=extra
        )
        assert reply.choices[0].finish_reason == "stop"
        return reply.choices[0].text

    assert ask(guided_choice=["apple", "banana", "crème brûlée"]) in ("apple", "banana", "crème brûlée")
    assert re.fullmatch(r"[A-Z][a-z]{2,9}, [0-9]{4}", ask(guided_regex="[A-Z][a-z]{2,9}, [0-9]{4}"))
    assert re.fullmatch(r"(apple|pear) [0-9]+", ask(grammar='root ::= ("apple" | "pear") " " [0-9]{1,3}'))
    assert re.fullmatch(r"(apple|pear) [0-9]+", ask(guided_grammar='start: ("apple" | "pear") " " /[0-9]{1,3}/'))


def test_log_probabilities_come_with_every_token_of_a_reply(client: OpenAI) -> None:
    """Each token is sampled, and none is forced."""

    def ask(*, logprobs: bool) -> str:
        reply = client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Describe a person named Anna as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": Owner.model_json_schema()}},
            temperature=0,
            max_tokens=300,
            logprobs=logprobs,
        )
        text = reply.choices[0].message.content or ""
        if logprobs:
            assert reply.choices[0].logprobs is not None
            assert "".join(entry.token for entry in reply.choices[0].logprobs.content or []) == text
        return text

    forced, chosen = json.loads(ask(logprobs=False)), json.loads(ask(logprobs=True))
    assert set(forced) == set(chosen) == {"name", "pets", "email"}


def test_a_grammar_that_takes_too_much_is_refused_alone(client: OpenAI, server: ServerProcess) -> None:
    engine = server.engine
    chain = "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1}' for i in range(9000)) + '\nr9000: "z"'
    with pytest.raises(BadRequestError, match="too complex"):
        client.completions.create(model="smollm2-135m", prompt="a", max_tokens=5, extra_body={"guided_grammar": chain})
    assert client.completions.create(model="smollm2-135m", prompt="a", max_tokens=5).choices[0].text
    assert server.engine == engine
