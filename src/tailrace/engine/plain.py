"""Tokens of a prompt in parts of which no special token may be recognised, whatever stands there."""

from __future__ import annotations

import re

from tailrace.engine.backend import Backend


def tokens_of(backend: Backend, prompt: str, plain: tuple[tuple[int, int], ...]) -> list[int]:
    """As ``backend.tokenize``, with the ranges ``plain`` of the prompt's characters read as text.

    The prompt is cut at the special tokens that stand outside of these ranges, which is what llama.cpp does first with
    all that it finds; so what stands between them becomes the same tokens as it always would.
    """
    names = {name: token for token, name in backend.info.special_tokens.items() if name} if plain else {}
    if not names:
        return backend.tokenize(prompt)
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    every = list(pattern.finditer(prompt))
    marks = [found for found in every if all(found.end() <= begin or stop <= found.start() for begin, stop in plain)]
    if len(marks) == len(every):
        return backend.tokenize(prompt)
    bos = backend.info.bos_token
    start = not (bos and prompt.startswith(bos))
    tokens: list[int] = []
    end = 0
    for mark in marks:
        if mark.start() > end or start:
            tokens += backend.tokenize(prompt[end : mark.start()], special=False, start=start)
        start = False
        tokens.append(names[mark[0]])
        end = mark.end()
    if end < len(prompt) or start:
        tokens += backend.tokenize(prompt[end:], special=False, start=start)
    return tokens
