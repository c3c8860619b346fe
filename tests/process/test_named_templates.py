"""Each named chat template writes the prompts that llama.cpp's own formatter of this name writes."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama
import pytest

from tailrace.chat.template import ChatTemplate
from tailrace.chat.template_trial import find_defect
from tailrace.models.named_templates import NAMED_TEMPLATES

CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("user", "Who are you?")],
    [("system", "Be brief."), ("user", "Who are you?")],
    [("system", " Be brief. "), ("user", " Hi \n"), ("assistant", " Hello. "), ("user", "Who are you?")],
    [("user", "Hi"), ("assistant", "Hello"), ("user", "And now?"), ("assistant", "Yes"), ("user", "§ or ¶?")],
]


def builtin_names() -> list[str]:
    count = llama._lib.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    llama._lib.llama_chat_builtin_templates(names, count)
    return [name.decode() for name in names if name]


def formatted(name: str, conversation: list[tuple[str, str]]) -> str:
    """llama.cpp's prompt."""
    messages = (llama.llama_chat_message * len(conversation))(
        *(llama.llama_chat_message(role.encode(), content.encode()) for role, content in conversation)
    )
    buffer = ctypes.create_string_buffer(65536)
    size = llama.llama_chat_apply_template(name.encode(), messages, len(conversation), True, buffer, len(buffer))
    assert size > 0
    return buffer.raw[:size].decode()


def test_every_name_of_llama_cpp_is_known() -> None:
    assert set(builtin_names()) == set(NAMED_TEMPLATES)


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_a_named_template_writes_llama_cpps_prompts(name: str) -> None:
    template = ChatTemplate(NAMED_TEMPLATES[name], bos_token="", eos_token="")
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        expected = formatted(name, conversation)
        if name == "yandex" and messages[0]["role"] == "system":
            # llama.cpp loses the system text there. Every message that a client sends is in our prompts.
            assert messages[0]["content"].strip() not in expected
            assert messages[0]["content"].strip() in template.render(messages).text
        else:
            assert template.render(messages).text == expected


def test_named_templates_pass_the_trial_of_templates() -> None:
    assert {name: find_defect(text) for name, text in list(NAMED_TEMPLATES.items())[::12]} == dict.fromkeys(
        list(NAMED_TEMPLATES)[::12]
    )
