"""The registry of all rules, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.conformance.rule import ANY, Rule
from tailrace.conformance.rules import (
    anthropic,
    chat_chunks,
    chat_requests,
    chat_stream,
    client_quirks,
    completions,
    concurrency,
    embeddings,
    latency,
    ollama,
    rerank,
    responses,
    responses_stream,
    tool_calls,
    transport,
    unusual_requests,
)
from tailrace.conformance.target import InvalidOption

_THEMES = (
    transport.THEME,
    unusual_requests.THEME,
    chat_requests.THEME,
    client_quirks.THEME,
    tool_calls.THEME,
    chat_stream.THEME,
    chat_chunks.THEME,
    concurrency.THEME,
    latency.THEME,
    completions.THEME,
    embeddings.THEME,
    rerank.THEME,
    responses.THEME,
    responses_stream.THEME,
    anthropic.THEME,
    ollama.THEME,
)

RULES: dict[str, Rule] = {rule.id: rule for theme in _THEMES for rule in theme.rules}


def select_rules(dialects: Sequence[str], only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Rule]:
    """The rules of those dialects, without those in ``skip``; with ``only`` no others than these.

    Raises InvalidOption for an unknown id.
    """
    unknown = [name for name in (*only, *skip) if name not in RULES]
    if unknown:
        raise InvalidOption(f"there is no rule {unknown[0]!r}; --list shows them all")
    return [
        rule
        for rule in RULES.values()
        if rule.dialect in (ANY, *dialects) and (not only or rule.id in only) and rule.id not in skip
    ]
