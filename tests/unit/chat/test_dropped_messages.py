"""No message is lost: a template that drops one gets a simpler form, or the request is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.chat.dropped_messages import first_dropped
from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="", eos_token="")


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


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


def test_results_that_would_be_left_out_become_text() -> None:
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
def test_a_message_that_no_form_shows_is_refused(role: str, said: str) -> None:
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
def test_deliberate_changes_of_a_template_are_no_loss(source: str, told: list[Message]) -> None:
    template(source).render(told)  # Raises where a text is lost.


def test_texts_in_another_order_cost_one_more_rendering() -> None:
    told = [message("user", f"This is message number {n} of many.") for n in range(5000)]
    rendered: list[str] = []

    def render(messages: list[Message]) -> str:
        rendered.append("".join(m["content"] for m in reversed(messages)))
        return rendered[-1]

    assert first_dropped(render(told), told, render) is None
    assert len(rendered) == 2
