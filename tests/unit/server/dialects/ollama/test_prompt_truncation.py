"""Conversations are cut to the context with few looks, whatever their messages' lengths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tailrace.prompt_text import PromptText
from tailrace.protocol import Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama.prompt_truncation import PromptTruncator, TruncationPoints
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

CONTEXT = 500


class Counting:
    """Stands in for the server: one token a character, and a count of what is tokenised."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.queries = self

    async def run_large(self, make: Callable[[], GenerationRequest], size: int) -> GenerationRequest:
        return make()

    async def ask(
        self, request: object, model: object, make: Callable[[int], Tokenize], *, param: str
    ) -> list[Tokenized]:
        asked = make(1)
        self.sizes.append(len(asked.text.text))
        return [Tokenized(1, list(map(ord, asked.text.text)))]


def model() -> ServedModel:
    info = SimpleNamespace(context=CONTEXT, special_tokens={}, bos_token="")
    return cast(ServedModel, SimpleNamespace(info=info, vocabulary=SimpleNamespace(max_token_bytes=8)))


def fitted(messages: list[str], **fields: Any) -> tuple[GenerationRequest, list[int]]:
    """What becomes of a conversation, and the sizes that were tokenised on the way."""
    server = Counting()
    rest = [sum(map(len, messages[start:])) for start in range(len(messages) + 1)]

    def make(start: int) -> GenerationRequest:
        return GenerationRequest(prompts=[PromptText("".join(messages[start:]))], prompt_param="messages")

    request = SimpleNamespace(state=SimpleNamespace(size=0))
    fitting = PromptTruncator(cast(AppState, server), cast(Any, request), model())
    settings = {"truncates": True, "shifts": True, "keep": None, **fields}
    wanted = asyncio.run(fitting.truncate(make, TruncationPoints(range(1, len(messages)), rest), **settings))
    return wanted, server.sizes


@pytest.mark.parametrize("seed", range(30))
def test_the_longest_that_fits_is_found_with_few_looks(seed: int) -> None:
    dice = random.Random(seed)
    longest = dice.choice([1, 5, 60, 400])
    messages = ["x" * dice.randint(1, longest) for _ in range(dice.choice([3, 50, 3000]))]
    messages[-1] = "last"
    wanted, sizes = fitted(messages)
    starts = [start for start in range(len(messages)) if len("".join(messages[start:])) < CONTEXT]
    (tokens,) = wanted.prompts
    assert bytes(cast(list[int], tokens)).decode() == "".join(messages[starts[0] :])
    assert len(sizes) <= 2 + 2 * len(messages).bit_length()
    # None of the looks is at more than what surely fills the context.
    assert max(sizes) <= CONTEXT * 8 + 8192
    assert sum(sizes) <= 20 * (CONTEXT * 8)


def test_a_prompt_that_never_fits_keeps_its_first_and_last_tokens() -> None:
    wanted, _ = fitted(["a" * 400, "0123456789" + "b" * 600 + "end"], keep=6)
    (tokens,) = wanted.prompts
    text = bytes(cast(list[int], tokens)).decode()
    assert (text[:6], text[-3:], len(text)) == ("012345", "end", CONTEXT - 1)
    assert wanted.context_shift is not None
    assert wanted.context_shift.keep == 6


@pytest.mark.parametrize(("keep", "kept"), [(None, 4), (0, 0), (-1, CONTEXT - 2), (10_000, CONTEXT - 2)])
def test_num_keep_leaves_free_cells(keep: int | None, kept: int) -> None:
    wanted, _ = fitted(["a" * 600], keep=keep)
    assert wanted.context_shift is not None
    assert wanted.context_shift.keep == kept
    (tokens,) = wanted.prompts
    assert isinstance(tokens, list)
    assert len(tokens) == CONTEXT - 1
