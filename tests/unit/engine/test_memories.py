"""Conversations in any order on each kind of memory: replies are those of a model that reads everything, and what is
reported as cached was not computed.

The fake backend fails where it is asked for what the imitated memory can't do.
"""

from __future__ import annotations

import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_backend import ContextBackend
from prompt_accounting import Account
from tailrace.engine.backends.fake import START, Memory

#: What is asked next, about which of the conversations so far, and how many times at once.
_Turn = tuple[str, int, int]
_ACTIONS = ("new", "append", "again", "edit", "strip", "other chat")


def _message(source: random.Random) -> list[int]:
    return [*source.choices(b"abcdefgh", k=source.randint(1, 150)), START]


class Talks:
    """Prompts of conversations, made from those before."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        #: Each prompt, the start of its last message, and the reply.
        self.asked: list[tuple[list[int], int, list[int]]] = []

    def next_prompt(self, action: str, which: int) -> tuple[list[int], int]:
        """The prompt and the start of its last message."""
        message = _message(self._random)
        if action == "new" or not self.asked:
            system = _message(self._random)
            return [*system, *message], len(system)
        prompt, last, reply = self.asked[which % len(self.asked)]
        if action == "again":
            return prompt, last
        if action == "edit":
            return [*prompt[:last], *message], last
        if action == "other chat":
            system = prompt[: prompt.index(START) + 1]
            return [*system, *message], len(system)
        before = [*prompt, *(reply[3:] if action == "strip" else reply), START]
        return [*before, *message], len(before)


def _ask(account: Account, talks: Talks, turns: list[_Turn], expected: Account, *, exact: bool) -> int:
    """Ask all turns; how many tokens were cached."""
    cached = 0
    for action, which, copies in turns:
        prompt, last = talks.next_prompt(action, which)
        if len(prompt) > 700:
            prompt, last = talks.next_prompt("new", 0)
        first = len(account.said)
        cached += sum((account.ask if exact else account.run)(*[prompt] * copies))
        expected.run(*[prompt] * copies)
        for number in range(first, first + copies):
            assert account.said[number] == expected.said[number], (action, number)
        talks.asked.append((prompt, last, account.said[first]))
    return cached


@pytest.mark.parametrize("memory", get_args(Memory))
def test_conversations_go_on_in_each_memory(memory: Memory) -> None:
    cached = 0

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(_ACTIONS), st.integers(0, 9), st.sampled_from([1, 1, 3])), min_size=2, max_size=10
        ),
        st.integers(0, 1000),
        st.booleans(),
        st.sampled_from([1, 4]),
        st.sampled_from([1024, 0]),
        st.sampled_from([0, 1500, 10**6]),
    )
    def run(
        turns: list[_Turn], seed: int, always_shared: bool, parallel: int, kv_tokens: int, checkpoint_bytes: int
    ) -> None:
        nonlocal cached
        backend = ContextBackend(
            ctx=1024, parallel=parallel, kv_tokens=kv_tokens, batch=64, always_shared=always_shared, memory=memory
        )
        account = Account(backend, checkpoint_bytes=checkpoint_bytes)
        plain = Account(ContextBackend(ctx=1024, parallel=4, kv_tokens=0, batch=64), reuse=False)
        # Where cells are scarce, copies are paused and computed again.
        cached += _ask(account, Talks(seed), turns, plain, exact=kv_tokens == 0)

    run()
    assert cached > 0
