"""Every rule there is, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.conformance.rule import ANY, Rule
from tailrace.conformance.rules import (
    anthropic,
    bodies,
    chat,
    completions,
    embeddings,
    habits,
    ollama,
    requests,
    responses,
    tools,
    transport,
    waits,
)
from tailrace.conformance.rules import chat_chunks as chunks
from tailrace.conformance.rules import concurrency as company
from tailrace.conformance.target import WrongOption

_THEMES = (
    transport.THEME,
    bodies.THEME,
    requests.THEME,
    habits.THEME,
    tools.THEME,
    chat.THEME,
    chunks.THEME,
    company.THEME,
    waits.THEME,
    completions.THEME,
    embeddings.THEME,
    responses.THEME,
    anthropic.THEME,
    ollama.THEME,
)

RULES: dict[str, Rule] = {rule.id: rule for theme in _THEMES for rule in theme.rules}


def choose(dialects: Sequence[str], only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Rule]:
    """The rules of those dialects: of them ``only`` these, without those to ``skip``. Raises WrongOption for an id that
    there isn't.
    """
    unknown = [name for name in (*only, *skip) if name not in RULES]
    if unknown:
        raise WrongOption(f"there is no rule {unknown[0]!r}; --list shows them all")
    return [
        rule
        for rule in RULES.values()
        if rule.dialect in (ANY, *dialects) and (not only or rule.id in only) and rule.id not in skip
    ]
