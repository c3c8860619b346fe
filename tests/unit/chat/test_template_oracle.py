"""Prompts are transformers' own, byte for byte, over templates of all families."""

from __future__ import annotations

import pytest

from tailrace.chat.template import ChatTemplate
from template_oracle import CONVERSATIONS, FETCHED, OWN, TOKENS, TOOLS, VARIABLES, reference

#: Wants variables that only its maker's own server gives; transformers renders nothing of it.
BEYOND = "fireworks-ai-llama-3-firefunction-v2"
TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for folder in (OWN, FETCHED)
    for path in sorted(folder.glob("*.jinja"))
    if path.stem != BEYOND
}
#: Conversations that transformers renders whole with nearly every template.
COMMON = ("user", "spaces", "marks", "continued space")


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_transformers(name: str) -> None:
    source = TEMPLATES[name]
    template = ChatTemplate(source, **TOKENS)
    compared: set[str] = set()
    for conversation, (messages, offers, continued) in CONVERSATIONS.items():
        for variables in VARIABLES:
            wanted = reference(source, conversation, variables)
            if wanted is None:
                continue
            tools = TOOLS if offers else None
            prompt = template.render(messages, tools, variables, opening=continued is None, continued=continued).text
            assert prompt == wanted, (conversation, variables)
            compared.add(conversation)
    assert compared.issuperset(COMMON)


def test_there_are_templates_of_every_kind() -> None:
    """Those whose constructs have failed before are among them."""
    sources = TEMPLATES.values()
    assert len(TEMPLATES) > 60
    for construct in ("{% generation", "separators", "sort_keys", "ensure_ascii", "strftime_now", "[0]['type']"):
        assert any(construct in source for source in sources), construct


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_conversation_is_rendered_or_refused(name: str) -> None:
    """Simpler forms of those that transformers refuses have all that was said."""
    template = ChatTemplate(TEMPLATES[name], **TOKENS)
    for messages, offers, continued in CONVERSATIONS.values():
        if continued is None:
            prompt = template.render(messages, TOOLS if offers and template.supports_tools else None).text
            assert messages[-1]["content"] == "" or prompt
