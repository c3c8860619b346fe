"""Tokens of texts that were tokenised a moment ago."""

from __future__ import annotations

import asyncio
from pathlib import Path

from scripted_engine import Engine, connected
from tailrace.errors import RequestError
from tailrace.generation_params import GenerationParams
from tailrace.prompt_text import PromptText
from tailrace.protocol import Submit, Tokenize
from tailrace.server.engine_client import EngineClient
from tailrace.server.known_prompts import KnownPrompts

TEXT = PromptText("a text")


class Callbacks:
    """What an engine's end needs of a generation."""

    accepted = False
    has_tokens = False

    def on_failed(self, error: RequestError) -> None:
        """The engine has died."""


def known(*, parse_special: bool = True, add_special: bool | None = None) -> KnownPrompts:
    made = KnownPrompts()
    made.add(Tokenize(id=1, text=TEXT, parse_special=parse_special, add_special=add_special), [5, 6, 7])
    return made


def filled(prompts: KnownPrompts, prompt: PromptText | list[int], suffix: str | None = None) -> object:
    return prompts.fill(Submit(id=9, prompt=prompt, params=GenerationParams(suffix=suffix))).prompt


def test_a_known_text_is_submitted_as_tokens() -> None:
    assert filled(known(), TEXT) == [5, 6, 7]
    assert known().tokens_of(Tokenize(id=2, text=TEXT)) == [5, 6, 7]


def test_other_texts_stay() -> None:
    for other in (PromptText("another text"), PromptText("a text", ((0, 1),)), [1, 2]):
        assert filled(known(), other) == other


def test_a_text_that_was_tokenised_otherwise_is_another_one() -> None:
    assert filled(known(parse_special=False), TEXT) == TEXT
    assert filled(known(add_special=False), TEXT) == TEXT


def test_a_text_with_a_suffix_stays() -> None:
    assert filled(known(), TEXT, suffix="end") == TEXT


def test_the_least_recently_used_go_first_where_there_are_too_many() -> None:
    prompts = KnownPrompts(max_bytes=2500)
    texts = [PromptText(f"text {number}") for number in range(4)]
    for text in texts[:3]:
        prompts.add(Tokenize(id=1, text=text), [0] * 150)  # 800 bytes each
    assert filled(prompts, texts[0]) == [0] * 150
    prompts.add(Tokenize(id=1, text=texts[3]), [0] * 150)
    assert [filled(prompts, text) == text for text in texts] == [False, True, False, False]
    prompts.add(Tokenize(id=1, text=TEXT), [0] * 10_000)
    assert filled(prompts, TEXT) == TEXT


def test_an_engine_gets_the_tokens_of_a_known_prompt_and_the_next_engine_the_text(tmp_path: Path) -> None:
    async def submitted(client: EngineClient, engine: Engine) -> object:
        client.submit(lambda identity: Submit(id=identity, prompt=TEXT), Callbacks())  # type: ignore[arg-type]  # a part
        heard = await engine.heard()
        assert isinstance(heard, Submit)
        return heard.prompt

    async def run() -> None:
        async with connected(tmp_path) as (client, _, engine):
            client.known_prompts = known()
            assert await submitted(client, engine) == [5, 6, 7]
            starts = client.engine_starts
            engine = await engine.replaced()
            while client.engine_starts == starts:
                await asyncio.sleep(0.01)
            assert await submitted(client, engine) == TEXT

    asyncio.run(run())
