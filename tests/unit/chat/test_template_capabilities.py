"""The capabilities of templates: forms of content, tools, calls and names of thoughts."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate

#: As SmolVLM's: it supports typed content alone.
TYPED = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
#: As MiniMax-M1's: the first part alone.
FIRST_PART = "{% for m in messages %}[{{ m.role }}]{{ m.content[0]['text'] }}{% endfor %}"
EITHER = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}"
)
STRINGS = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
#: As Llama 3.2's vision model: the system's content is a string, the user's are parts.
MIXED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'system' %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="", eos_token="")


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("source", "content", "prompt"),
    [
        (TYPED, "Hello there", "<|im_start|>User: Hello there<end_of_utterance>\nAssistant:"),
        (TYPED, parts("Hello", "there"), "<|im_start|>User: Hellothere<end_of_utterance>\nAssistant:"),
        (FIRST_PART, "Hello there", "[user]Hello there"),
        (FIRST_PART, parts("Hello", "there"), "[user]Hello\nthere"),
        (EITHER, "Hello there", "[user]Hello there"),
        (EITHER, parts("Hello", "there"), "[user]<Hello><there>"),
        (STRINGS, parts("Hello", "there"), "[user]Hello\nthere"),
    ],
)
def test_content_has_the_form_that_the_template_supports(source: str, content: Any, prompt: str) -> None:
    assert template(source).render([message("user", content)]).text == prompt


def test_each_role_has_its_own_form() -> None:
    prompt = template(MIXED).render([message("system", "Be brief."), message("user", "Hello.")]).text
    assert prompt == "[system]Be brief.[user]Hello."


@pytest.mark.parametrize("source", [TYPED, FIRST_PART, EITHER, STRINGS, MIXED])
def test_whole_conversations_are_shown(source: str) -> None:
    told = [
        message("system", "A first text"),
        message("user", "A second text"),
        message("assistant", "A third text"),
        message("user", "A fourth text"),
    ]
    prompt = template(source).render(told).text
    assert all(m["content"] in prompt for m in told)


def test_a_template_that_needs_a_list_of_tools_gets_one() -> None:
    source = "{% for tool in tools %}{{ tool }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert template(source).render([message("user", "Hello.")]).text == "Hello."


def test_tools_under_smollm3s_name_are_given() -> None:
    source = (
        "{% if xml_tools %}<tools>{% for tool in xml_tools %}{{ tool | string }}{% endfor %}</tools>{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    made = template(source)
    assert made.supports_tools
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    assert made.render([message("user", "Hello.")], [tool]).text == f"<tools>{tool}</tools>Hello."


def test_a_template_that_mentions_tools_but_shows_none_does_not_support_them() -> None:
    source = "{% if tools %}There are tools.{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert not template(source).supports_tools


def test_thoughts_have_the_names_that_templates_know() -> None:
    source = "{% for m in messages %}{{ m.thinking }}{{ m.reasoning_content }}{{ m.content }}{% endfor %}"
    told: list[Message] = [{"role": "assistant", "content": "C", "reasoning_content": "T"}]
    assert template(source).render(told).text == "TTC"
