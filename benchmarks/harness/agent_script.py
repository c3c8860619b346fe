"""The messages of an agent at work: the same for every server, apart from the replies.

A turn is one of:

- ``question``: a new user message. Earlier replies lose their thinking, as templates of reasoning models do it.
- ``tool``: the result of the tool that the last reply called. Nothing before it changes.
- ``again``: the last turn's messages once more, for another reply.
- ``edit``: the last user message or tool result in other words.
- ``branch``: a question in the other one of two conversations with the same beginning.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from tailrace.loadtest.load_profile import COMMON_WORDS

#: How often each kind comes, of 100 turns.
_WEIGHTS = {"question": 22, "tool": 56, "again": 8, "edit": 10, "branch": 4}
#: Turns of the first conversation before there is a second one.
_BEFORE_BRANCHES = 10

Message = dict[str, Any]


class AgentScript:
    """One agent's conversations. The same number of opening words gives the same script."""

    def __init__(self, opening_words: int) -> None:
        self._random = random.Random(opening_words)
        self._messages: list[Message] = [{"role": "system", "content": self._text(opening_words)}]
        self._other: list[Message] | None = None
        self._calls = 0

    def kinds(self, turns: int) -> Iterator[str]:
        """The kind of each turn."""
        source = random.Random(turns)
        for number in range(turns):
            kind = source.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            yield "question" if number == 0 or (kind == "branch" and number < _BEFORE_BRANCHES) else kind

    def next_messages(self, kind: str) -> list[Message]:
        """The messages of the next request, as a client sends them."""
        if kind == "branch":
            other = self._other or copy.deepcopy(self._messages[: 2 + len(self._messages) // 2])
            self._other, self._messages = self._messages, other
        if kind in ("again", "edit"):
            del self._messages[_last_asked(self._messages) + 1 :]
        if kind == "edit":
            self._messages[-1]["content"] = self._text(15)
        if kind == "tool" and self._messages[-1]["role"] == "assistant":
            self._messages.append({"role": "tool", "tool_call_id": f"call_{self._calls}", "content": self._text(15)})
        elif kind in ("question", "branch", "tool"):
            self._messages.append({"role": "user", "content": self._text(12)})
        return self._sent()

    def add_reply(self, text: str) -> None:
        """The server's reply: the first half of its words counts as thinking, and it calls a tool."""
        self._calls += 1
        self._messages.append({"role": "assistant", "content": text})

    def _sent(self) -> list[Message]:
        """Replies before the last user message are without their thinking, later ones as they were."""
        last_user = max(number for number, message in enumerate(self._messages) if message["role"] == "user")
        sent: list[Message] = []
        for number, message in enumerate(self._messages):
            one = {**message}
            if one["role"] == "assistant" and number < last_user:
                words = one["content"].split(" ")
                one["content"] = " ".join(words[len(words) // 2 :])
            sent.append(one)
        return sent

    def _text(self, words: int) -> str:
        return " ".join(self._random.choice(COMMON_WORDS) for _ in range(words))


def _last_asked(messages: list[Message]) -> int:
    """The index of the last message that isn't a reply."""
    return max(number for number, message in enumerate(messages) if message["role"] != "assistant")
