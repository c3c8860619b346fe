"""Every dialect's thinking switches reach the template."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.prompt_text import PromptText
from tailrace.protocol import PROTOCOL_VERSION, Hello
from tailrace.server.dialects.anthropic import prepare as anthropic
from tailrace.server.dialects.anthropic.request import MessagesRequest
from tailrace.server.dialects.ollama import chat as ollama
from tailrace.server.dialects.openai import chat as openai
from tailrace.server.dialects.responses import prepare as responses
from tailrace.server.dialects.responses.chat_messages import to_chat_messages
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.tools import toolset
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}={{ enable_thinking }},{{ reasoning_effort }},{{ mine }}"
MESSAGES = [{"role": "user", "content": "Hi"}]
UNSAID = "Hi=,,"


def served() -> ServedModel:
    backend = FakeBackend(ctx=0, parallel=1, kv_tokens=0, batch=1)
    info = msgspec.structs.replace(backend.info, chat_template=TEMPLATE)
    return ServedModel(Hello(PROTOCOL_VERSION, 1, 0, info, backend.vocabulary))


def text_of(request: GenerationRequest) -> str:
    (made,) = request.prompts
    assert isinstance(made, PromptText)
    return made.text


def of_chat(fields: dict[str, object]) -> str:
    body = msgspec.json.encode({"messages": MESSAGES, **fields})
    return text_of(openai.prepare(openai.decoder.decode(body), served(), inline_reasoning=False))


def of_messages(fields: dict[str, object]) -> str:
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": MESSAGES, **fields})
    return text_of(anthropic.prepare(msgspec.json.decode(body, type=MessagesRequest), served()))


def of_ollama(fields: dict[str, object]) -> str:
    body = msgspec.json.encode({"messages": MESSAGES, **fields})
    return text_of(ollama.prepare(ollama.decoder.decode(body), served(), inline_reasoning=False))


def of_responses(fields: dict[str, object]) -> str:
    request = msgspec.convert({"input": "Hi", **fields}, ResponsesRequest)
    said = to_chat_messages(None, [({"role": "user", "content": "Hi"}, "input")])
    return text_of(responses.prepare(request, said, toolset(None, None), served()))


OFF = "Hi=False,,"
MINE = {"chat_template_kwargs": {"enable_thinking": False, "mine": "x"}}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, UNSAID),
        ({"enable_thinking": False}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "enabled"}}, "Hi=True,,"),
        ({"thinking": True}, "Hi=True,,"),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"effort": "high"}}, "Hi=True,high,"),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, "Hi=True,low,"),
        ({"reasoning_budget": 0}, OFF),
        ({"thinking_budget": 0}, OFF),
        ({"reasoning_budget_tokens": 0}, OFF),
        ({"thinking_budget_tokens": 0}, OFF),
        ({"thinking_budget_tokens": -1}, UNSAID),
        ({"reasoning_effort": "high", "enable_thinking": False}, OFF),
        (MINE, "Hi=False,,x"),
        ({"enable_thinking": True, **MINE}, "Hi=False,,x"),
    ],
)
def test_chat_completions(fields: dict[str, object], told: str) -> None:
    assert of_chat(fields) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, UNSAID),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "Hi=True,high,"),
        ({"enable_thinking": False, "thinking": {"type": "adaptive"}}, OFF),
        ({"reasoning_effort": "none"}, OFF),
        (MINE, "Hi=False,,x"),
    ],
)
def test_anthropics_messages(fields: dict[str, object], told: str) -> None:
    assert of_messages(fields) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, UNSAID),
        ({"think": ""}, UNSAID),
        ({"think": False}, OFF),
        ({"think": True}, "Hi=True,,"),
        ({"think": "low"}, "Hi=True,low,"),
        ({"think": "max"}, "Hi=True,high,"),
        ({"think": False, "reasoning_effort": "high"}, OFF),
        ({"reasoning_effort": "none"}, OFF),
        (MINE, "Hi=False,,x"),
    ],
)
def test_ollamas_chat(fields: dict[str, object], told: str) -> None:
    assert of_ollama(fields) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, UNSAID),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"effort": "xhigh", "summary": "auto"}}, "Hi=True,high,"),
        ({"enable_thinking": False, "reasoning": {"effort": "high"}}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"reasoning_effort": "low"}, "Hi=True,low,"),
        (MINE, "Hi=False,,x"),
    ],
)
def test_responses(fields: dict[str, object], told: str) -> None:
    assert of_responses(fields) == told
