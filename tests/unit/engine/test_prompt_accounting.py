"""Usage and metrics of prompts agree with the computed tokens, and prefixes are reused, for each kind of memory."""

from __future__ import annotations

from typing import get_args

import pytest

from prompt_accounting import REPLY, Account
from tailrace.engine.backends.fake import START, FakeBackend, Memory

MEMORIES = get_args(Memory)
CUTS = ("dense", "sliding")


def _account(
    memory: Memory, *, parallel: int = 2, always_shared: bool = False, checkpoint_bytes: int = 10**6
) -> Account:
    backend = FakeBackend(
        ctx=1024, parallel=parallel, kv_tokens=0, batch=64, memory=memory, always_shared=always_shared
    )
    return Account(backend, checkpoint_bytes=checkpoint_bytes)


def _chat(*messages: str) -> list[int]:
    """Messages with a control token behind each. The last one scripts the reply."""
    tokens: list[int] = []
    for message in messages:
        tokens += [*message.encode(), START]
    return tokens


def _said(text: str) -> str:
    return f"{text}<say>{'x' * 20}</say>"


SYSTEM = "You are a helpful assistant, and this is what you know. " * 3
QUESTION = _said("What do you know of the sea, of rivers and of lakes? " * 3)


@pytest.mark.parametrize("always_shared", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_reply_is_made_anew_from_the_end_of_its_prompt(memory: Memory, always_shared: bool) -> None:
    account = _account(memory, always_shared=always_shared)
    first = _chat(SYSTEM, QUESTION)
    assert account.ask(first) == [0]
    for _ in range(3):
        assert account.ask(first) == [len(first) - 1]


@pytest.mark.parametrize("always_shared", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
def test_another_chat_starts_behind_the_system_prompt(memory: Memory, always_shared: bool) -> None:
    account = _account(memory, always_shared=always_shared)
    account.ask(_chat(SYSTEM, QUESTION))
    for place in ("mountains", "valleys", "plains"):
        (cached,) = account.ask(_chat(SYSTEM, _said(f"Tell me about {place}, and then about all other {place}. " * 2)))
        # A checkpoint is taken before the token that ends a message.
        assert cached > len(SYSTEM) if memory in CUTS else cached == len(SYSTEM)


@pytest.mark.parametrize("memory", MEMORIES)
def test_an_edited_message_is_read_from_its_beginning(memory: Memory) -> None:
    account = _account(memory)
    first = _chat(SYSTEM, QUESTION)
    account.ask(first)
    turn = [*first, *account.said[0], START]
    whole = len(turn) - 1
    assert account.ask([*turn, *_chat(QUESTION)]) == [whole - 1]
    for new in ("another question", "and one that is edited once more", "the last one"):
        (cached,) = account.ask([*turn, *_chat(_said(new * 5))])
        assert cached >= whole - 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_conversation_goes_on_without_its_thoughts(memory: Memory) -> None:
    account = _account(memory, always_shared=True)
    prompt = _chat(SYSTEM, QUESTION)
    account.ask(prompt)
    for turn in range(3):
        # The next turn has the end of the reply alone, and another question.
        known = len(prompt)
        prompt = [*prompt, *account.said[turn][5:], START, *_chat(_said("And what of the rest? " * 4))]
        (cached,) = account.ask(prompt)
        assert cached >= known if memory in CUTS else cached == known - 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_conversation_that_goes_on_is_cached_whole_in_every_memory(memory: Memory) -> None:
    account = _account(memory)
    first = _chat("A conversation " * 10)
    account.ask(first)
    # The reply's last token hasn't been computed.
    then = [*first, *account.said[0], *_chat(_said("and on"))]
    assert account.ask(then) == [len(first) + REPLY - 1]


@pytest.mark.parametrize("memory", MEMORIES)
def test_two_branches_of_a_conversation_both_go_on(memory: Memory) -> None:
    account = _account(memory, parallel=4)
    trunk = _chat(SYSTEM, QUESTION)
    account.ask(trunk)
    branches = [[*trunk, *account.said[0], START, *_chat(_said(name * 30))] for name in ("left ", "right ")]
    for branch in branches:
        (cached,) = account.ask(branch)
        assert cached >= len(trunk) - 1
    for number, branch in enumerate(branches, 1):
        (cached,) = account.ask([*branch, *account.said[number], START, *_chat(_said("on"))])
        assert cached == len(branch) + REPLY - 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_prompts_that_come_together_are_accounted_for_each(memory: Memory) -> None:
    account = _account(memory, parallel=4, always_shared=True)
    cached = account.ask(*(_chat(SYSTEM, _said(name * 40)) for name in ("one", "two", "three")))
    assert sorted(cached)[1] >= len(SYSTEM)


@pytest.mark.parametrize("memory", MEMORIES)
def test_copies_of_a_prompt_share_it(memory: Memory) -> None:
    account = _account(memory, parallel=4)
    prompt = _chat(SYSTEM, QUESTION)
    assert sorted(account.ask(prompt, prompt, prompt))[1:] == [len(prompt) - 1] * 2


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_state_in_host_memory_is_found_again(memory: Memory) -> None:
    """Other prompts have taken its slot. A window's older cells are gone then."""
    account = _account(memory, parallel=1)
    first = _chat(SYSTEM, QUESTION)
    account.ask(first)
    account.ask(_chat(_said("Something else")))
    turn = [*first, *account.said[0], *_chat(_said("go on"))]
    assert account.ask(turn) == [len(first) + REPLY - 1]
    account.ask(_chat(_said("Something else again")))
    assert account.ask(first) == [0 if memory == "sliding" else len(first) - 1]


@pytest.mark.parametrize("memory", ["recurrent", "hybrid"])
def test_without_checkpoints_only_a_conversation_that_goes_on_is_reused(memory: Memory) -> None:
    account = _account(memory, checkpoint_bytes=0)
    first = _chat(SYSTEM, QUESTION)
    account.ask(first)
    assert account.ask(first) == [0]
    assert account.ask([*first, *account.said[1], *_chat(_said("and on"))]) == [len(first) + REPLY - 1]
