"""Usage and metrics of prompts agree with the computed tokens, for each kind of model memory."""

from __future__ import annotations

from typing import get_args

import pytest

from prompt_accounting import REPLY, Account
from tailrace.engine.backends.fake import START, FakeBackend, Memory

MEMORIES = get_args(Memory)


def _account(memory: Memory, *, parallel: int = 2, always_shared: bool = False) -> Account:
    return Account(
        FakeBackend(ctx=512, parallel=parallel, kv_tokens=0, batch=64, memory=memory, always_shared=always_shared)
    )


def _prompt(text: str) -> list[int]:
    return [*f"{text}<say>{'x' * 20}</say>".encode(), START]


@pytest.mark.parametrize("always_shared", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_prompt_that_can_not_be_reused_counts_as_not_cached(memory: Memory, always_shared: bool) -> None:
    account = _account(memory, always_shared=always_shared)
    long = "A long beginning, longer than the window: " * 3
    first = _prompt(long + "one")
    assert account.ask(first) == [0]
    in_slot = memory in ("dense", "sliding")
    assert account.ask(first) == [len(first) - 1 if in_slot else 0]
    assert account.ask(_prompt(long + "two")) == [len(long.encode()) if in_slot else 0]


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_conversation_that_goes_on_is_cached_whole_in_every_memory(memory: Memory) -> None:
    account = _account(memory)
    first = _prompt("A conversation " * 10)
    account.ask(first)
    # The reply's last token hasn't been computed.
    then = [*first, *account.said[0], *_prompt("and on")]
    assert account.ask(then) == [len(first) + REPLY - 1]


@pytest.mark.parametrize("memory", MEMORIES)
def test_prompts_that_come_together_are_accounted_for_each(memory: Memory) -> None:
    account = _account(memory, parallel=4)
    shared = "Everybody begins so, at some length. " * 3
    cached = account.ask(*(_prompt(shared + name) for name in ("one", "two", "three")))
    assert (max(cached) > 0) == (memory == "dense")


@pytest.mark.parametrize("memory", MEMORIES)
def test_an_offloaded_state_that_can_not_be_truncated_is_no_hit(memory: Memory) -> None:
    """It comes from host memory, because other prompts have taken its slot."""
    account = _account(memory, parallel=1)
    first = _prompt("The first conversation, which is kept outside. " * 2)
    account.ask(first)
    account.ask(_prompt("Another one"))
    assert account.ask(first) == [len(first) - 1 if memory == "dense" else 0]
