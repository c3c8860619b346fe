"""A model in the caller's own process, on the real model: what ``tailrace run`` gets of what the server has."""

from __future__ import annotations

from typing import Literal

import pytest

from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.cli.chat_history import ChatHistory, Parameters
from tailrace.cli.local_model import LocalModel
from tailrace.engine.load import load_draft, load_llama
from tailrace.engine.speculation.drafter import Drafter
from tailrace.errors import ContextLengthExceeded
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings

_QUESTION = (
    "Repeat this word for word: " + "the granite was carried up the cliff with mules and a crane of their own. " * 3
)


def _memory_bound(drafter: Drafter, *, n_draft_max: int) -> SimulatedSpeculator:
    return SimulatedSpeculator(drafter, memory_bound, n_draft_max=n_draft_max)


@pytest.mark.parametrize("speculate", ["off", "lookup", "draft"])
def test_it_guesses_ahead_as_the_settings_say(
    speculate: Literal["off", "lookup", "draft"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.engine.load.Speculator", _memory_bound)
    settings = Settings(threads=2, ctx=1024, parallel=1, speculate=speculate, draft_model="smollm2-135m")
    backend = load_llama(locate_model("smollm2-135m").path, settings)
    local = LocalModel(backend, settings, load_draft(backend, settings))
    try:
        conversation = ChatHistory(None, Parameters().changed("temperature", 0.0).changed("max_tokens", 48))
        conversation.ask(_QUESTION)
        reply = local.reply(conversation)
        steps = sum(1 for _ in reply) - 1  # The last item is what the pipeline held back.
        if speculate == "off":
            assert steps >= reply.stats.tokens  # The prompt may have taken one of its own.
        else:
            assert steps < reply.stats.tokens / 1.5
    finally:
        local.close()


def test_a_prompt_that_overflows_llama_cpps_stack_is_only_too_long() -> None:
    """It is tokenised in a process of its own, as the server's prompts are."""
    settings = Settings(threads=1, ctx=512, parallel=1)
    local = LocalModel(load_llama(locate_model("smollm2-135m").path, settings), settings)
    try:
        conversation = ChatHistory(None, Parameters().changed("temperature", 0.0).changed("max_tokens", 2))
        conversation.ask("A" * 30_000)
        with pytest.raises(ContextLengthExceeded, match="512 tokens"):
            local.reply(conversation)
    finally:
        local.close()
