"""What templates read of a conversation, and that no prompt lacks what was said."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.chat.dropped_messages import first_dropped
from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest

#: As SmolVLM's: it reads typed content and nothing else.
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
def test_content_has_the_form_that_the_template_reads(source: str, content: Any, prompt: str) -> None:
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


# What is left out

ONLY_FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and loop.first %}[system]{{ m.content }}"
    "{% elif m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
NO_TOOL_ROLE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
    "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
LAST_ONLY = "{{ messages[-1].content }}"


@pytest.mark.parametrize("said", ["no", "Be as brief as you possibly can."])
def test_a_system_message_that_would_be_left_out_goes_to_the_start(said: str) -> None:
    prompt = template(ONLY_FIRST_SYSTEM).render([message("user", "Hello."), message("system", said)]).text
    assert prompt == f"[system]{said}[user]Hello."


def test_results_that_would_be_left_out_are_told_as_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    told = [
        message("user", "How is it?"),
        {**message("assistant", ""), "tool_calls": [call]},
        message("tool", "sunny"),
    ]
    knowing = template(NO_TOOL_ROLE)
    assert not knowing.supports_calls
    assert "sunny" in knowing.render(told, [{"type": "function", "function": {"name": "weather"}}]).text


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("said", ["a", "The secret word is xylophone."])
def test_what_no_form_shows_is_refused_and_not_left_out(role: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match="leaves out what the message of role") as caught:
        template(LAST_ONLY).render(
            [message(role, said), message("assistant", "Go on."), message("user", "And what then?")]
        )
    assert caught.value.param == "messages"


def test_parts_are_not_left_out_either() -> None:
    source = "{% for m in messages %}{{ m.content if m.content is string else m.content[-1].text }}{% endfor %}"
    prompt = template(source).render([message("user", parts("first", "second"))]).text
    assert prompt == "first\nsecond"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        # Thoughts of earlier turns go, the visible text stays.
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] | trim }}{% endfor %}",
            [
                message("user", "Why is the sky blue?"),
                message("assistant", "<think>\nScattering of light.\n</think>\n\nBecause of Rayleigh."),
                message("user", "Thanks!"),
            ],
        ),
        # JSON of a text is the text.
        (
            "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
            [message("user", 'He said "quotes"\nand a second line — é')],
        ),
        (
            "{% for m in messages %}{{ m.content | tojson(ensure_ascii=True) }}{% endfor %}",
            [message("user", "é è ê are three letters")],
        ),
        # A switch within the text is taken out.
        (
            "{% for m in messages %}{{ m.content.replace('/no_think', '') }}{% endfor %}",
            [message("system", "Answer in short sentences. /no_think Really."), message("user", "Hello, who is it?")],
        ),
        # Llama 3 and Mistral show calls without the text beside them.
        (
            "{% for m in messages %}{{ m.tool_calls[0].function.name if m.tool_calls else m.content }}{% endfor %}",
            [
                message("user", "How is the weather?"),
                {
                    **message("assistant", "Let me look it up."),
                    "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": {}}}],
                },
                message("tool", "It is sunny in Rome."),
            ],
        ),
        ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", [message("user", "  \n Hello, who is it?  ")]),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", [message("user", "")]),
    ],
)
def test_what_templates_change_on_purpose_is_no_loss(source: str, told: list[Message]) -> None:
    template(source).render(told)  # Raises where a text is lost.


def test_texts_that_are_not_where_they_are_looked_for_cost_one_more_rendering() -> None:
    told = [message("user", f"This is message number {n} of many.") for n in range(5000)]
    rendered: list[str] = []

    def render(messages: list[Message]) -> str:
        rendered.append("".join(m["content"] for m in reversed(messages)))
        return rendered[-1]

    assert first_dropped(render(told), told, render) is None
    assert len(rendered) == 2


def test_single_calls_are_told_one_after_another_where_a_template_wants_that() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
        "{{ raise_exception('single calls only') }}{% endif %}<{{ m.tool_calls[0].function.name }}>"
        "{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": {"a": 1}}} for name in ("now", "then")
    ]
    told = [
        message("user", "Both."),
        {**message("assistant", ""), "tool_calls": calls},
        {**message("tool", "first result"), "tool_call_id": "now"},
        {**message("tool", "second result"), "tool_call_id": "then"},
    ]
    assert template(source).render(told).text == "[Both.]<now>[first result]<then>[second result]"


def test_neighbours_of_one_role_are_joined_where_roles_must_alternate() -> None:
    source = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}[{{ m.content }}]{% endfor %}"
    )
    told = [message("user", "One."), message("user", "Two."), message("assistant", "Three."), message("user", "Four.")]
    assert template(source).render(told).text == "[One.\n\nTwo.][Three.][Four.]"


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


def test_a_template_that_has_the_word_and_shows_no_tools_knows_none() -> None:
    source = "{% if tools %}There are tools.{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert not template(source).supports_tools


def test_thoughts_have_the_names_that_templates_know() -> None:
    source = "{% for m in messages %}{{ m.thinking }}{{ m.reasoning_content }}{{ m.content }}{% endfor %}"
    told: list[Message] = [{"role": "assistant", "content": "C", "reasoning_content": "T"}]
    assert template(source).render(told).text == "TTC"
