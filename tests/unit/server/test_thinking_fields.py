"""Thinking switches: their common meaning, and the variables that each family's template gets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tailrace.chat.template import ChatTemplate
from tailrace.chat.thinking_kwargs import ThinkingOptions, template_kwargs
from tailrace.engine.backends.fake import FakeBackend
from tailrace.prompt_text import PromptText
from tailrace.protocol import PROTOCOL_VERSION, Hello
from tailrace.server.chat_request import chat_request
from tailrace.server.served_model import ServedModel
from tailrace.server.thinking_fields import ReasoningSwitch, ThinkingSwitch, merge_thinking
from template_oracle import FETCHED

ON, OFF, UNSAID = ThinkingOptions(on=True), ThinkingOptions(on=False), ThinkingOptions()


@pytest.mark.parametrize(
    ("switches", "wish"),
    [
        ({}, ThinkingOptions()),
        ({"enable": False}, OFF),
        ({"enable": True}, ON),
        ({"thinking": ThinkingSwitch(type="disabled")}, OFF),
        ({"thinking": ThinkingSwitch(type="enabled", budget_tokens=2000)}, ThinkingOptions(on=True, budget=2000)),
        ({"thinking": ThinkingSwitch(type="adaptive")}, ON),
        ({"thinking": ThinkingSwitch(type="auto")}, ON),
        ({"thinking": False}, OFF),
        ({"thinking": ThinkingSwitch()}, ThinkingOptions()),
        ({"reasoning": ReasoningSwitch(effort="high")}, ThinkingOptions(on=True, effort="high")),
        ({"reasoning": ReasoningSwitch(effort="none")}, OFF),
        ({"reasoning": ReasoningSwitch(enabled=False)}, OFF),
        ({"reasoning": ReasoningSwitch(max_tokens=0)}, OFF),
        ({"reasoning": ReasoningSwitch(summary="auto")}, ThinkingOptions()),
        ({"effort": "minimal"}, ThinkingOptions(on=True, effort="minimal")),
        ({"effort": "NONE"}, OFF),
        ({"effort": ""}, ThinkingOptions()),
        ({"budget": 0}, OFF),
        ({"budget": -1}, ThinkingOptions()),
        ({"budget": 100}, ThinkingOptions(on=True, budget=100)),
        # Where they contradict each other
        ({"enable": True, "thinking": ThinkingSwitch(type="disabled"), "effort": "none"}, ON),
        ({"enable": False, "effort": "high"}, ThinkingOptions(on=False, effort="high")),
        ({"thinking": ThinkingSwitch(type="disabled"), "effort": "high"}, ThinkingOptions(on=False, effort="high")),
        ({"reasoning": ReasoningSwitch(effort="low"), "effort": "high"}, ThinkingOptions(on=True, effort="high")),
        ({"budget": 0, "effort": "high"}, ThinkingOptions(on=False, effort="high")),
    ],
)
def test_what_the_switches_ask_for_together(switches: dict[str, Any], wish: ThinkingOptions) -> None:
    assert merge_thinking(**switches) == wish


def told(source: str, thinking: ThinkingOptions) -> dict[str, Any]:
    return template_kwargs(ChatTemplate(source, bos_token="", eos_token=""), thinking)


SAYS = "{% for m in messages %}{{ m.content }}{% endfor %}"
HUNYUAN = "{% if reasoning_effort in ['high', 'low', 'no_think'] %}{{ reasoning_effort }}{% endif %}" + SAYS
KIMI = "{% if thinking_effort in ['low', 'high', 'max'] %}{{ thinking_effort }}{% endif %}{{ thinking }}" + SAYS


@pytest.mark.parametrize(
    ("source", "thinking", "expected"),
    [
        (SAYS, ThinkingOptions(), {}),
        (SAYS, ON, {"enable_thinking": True, "thinking": True}),
        (SAYS, OFF, {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}),
        ("{{ enable_thinking }}" + SAYS, ThinkingOptions(on=False, effort="high"), {"enable_thinking": False}),
        ("{{ thinking_budget }}" + SAYS, OFF, {"thinking_budget": 0}),
        ("{{ thinking_mode }}" + SAYS, OFF, {"thinking_mode": "disabled"}),
        ("{{ thinking_mode }}" + SAYS, ON, {"thinking_mode": "enabled"}),
        ("{{ reasoning }}" + SAYS, OFF, {"reasoning": False}),
        (HUNYUAN, OFF, {"reasoning_effort": "no_think"}),
        (HUNYUAN, ON, {"reasoning_effort": "high"}),
        (KIMI, ThinkingOptions(on=True, effort="medium"), {"thinking_effort": "high", "reasoning_effort": "medium"}),
        (KIMI, ThinkingOptions(on=True, effort="max"), {"thinking_effort": "max"}),
        (SAYS, ThinkingOptions(on=True, effort="minimal"), {"reasoning_effort": "low"}),
        (SAYS, ThinkingOptions(on=True, effort="xhigh"), {"reasoning_effort": "high"}),
        (SAYS, ThinkingOptions(on=True, effort="max"), {"reasoning_effort": "high"}),
        (
            "{{ 'max' if reasoning_effort == 'max' }}" + SAYS,
            ThinkingOptions(on=True, effort="max"),
            {"reasoning_effort": "max"},
        ),
        (SAYS, ThinkingOptions(on=True, effort="heroic"), {"reasoning_effort": "heroic"}),
        (SAYS, ThinkingOptions(on=True, budget=512), {"thinking_budget": 512}),
    ],
)
def test_the_template_gets_its_own_variables(source: str, thinking: ThinkingOptions, expected: dict[str, Any]) -> None:
    given = told(source, thinking)
    assert given.items() >= expected.items()
    if thinking.on is False and "reasoning_effort" not in expected:
        assert "reasoning_effort" not in given


# Prompts


def prompt(source: str, thinking: ThinkingOptions = UNSAID, **template_variables: Any) -> str:
    backend = FakeBackend(ctx=0, parallel=1, kv_tokens=0, batch=1)
    info = msgspec.structs.replace(backend.info, chat_template=source)
    model = ServedModel(Hello(PROTOCOL_VERSION, 1, 0, info, backend.vocabulary))
    asked = [{"role": "user", "content": "How are you?"}]
    (made,) = chat_request(model, asked, thinking=thinking, variables=template_variables).prompts
    assert isinstance(made, PromptText)
    return made.text


#: Ends of prompts: with thinking off, and with it on.
ENDS = {
    "Qwen-Qwen3-0.6B": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_start|>assistant\n"),
    "GLM-4.7-Flash": ("<|assistant|></think>", "<|assistant|><think>"),
    "deepseek-ai-DeepSeek-V3.1": ("<｜Assistant｜><think></think>", "<｜Assistant｜><think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (
        "<｜Assistant｜><think>\n\n</think>\n\n",
        "<｜Assistant｜><think>\n",
    ),
    "MiMo-VL": ("<|im_start|>assistant\n", "<|im_start|>assistant\n"),
    "Qwen-Qwen2.5-7B-Instruct": ("<|im_start|>assistant\n", "<|im_start|>assistant\n"),
    "openai-gpt-oss-120b": ("<|start|>assistant", "<|start|>assistant"),
}


@pytest.mark.parametrize("name", ENDS)
def test_thoughts_are_turned_off_in_every_family(name: str) -> None:
    source = FETCHED.joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    off, on = ENDS[name]
    assert prompt(source, OFF).endswith(off)
    assert prompt(source, ON).endswith(on)
    assert prompt(source, enable_thinking=False).endswith(off), "a client's own variables say the same"


def test_gpt_oss_gets_the_effort() -> None:
    source = FETCHED.joinpath("openai-gpt-oss-120b.jinja").read_text(encoding="utf-8")
    assert "Reasoning: low" in prompt(source, OFF)
    assert "Reasoning: medium" in prompt(source)
    assert "Reasoning: high" in prompt(source, ThinkingOptions(on=True, effort="high"))
    assert "Reasoning: high" in prompt(source, ThinkingOptions(on=True, effort="xhigh"))


def test_a_model_that_thinks_without_being_asked_gets_an_empty_thought() -> None:
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}A:{# <think> #}"
    assert prompt(source, OFF) == "How are you?A:<think>\n\n</think>\n\n"
    assert prompt(source, ON) == prompt(source) == "How are you?A:"


def test_the_clients_own_variables_win() -> None:
    source = SAYS + "{{ enable_thinking }}<think>"
    assert prompt(source, OFF, enable_thinking=True).endswith("True<think>")
    assert prompt(source, ON, enable_thinking=False).endswith("False<think>\n</think>\n\n")
