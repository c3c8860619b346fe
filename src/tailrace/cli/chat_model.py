"""The model that answers a conversation in the terminal, in this process or a server's; and a reply's figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from tailrace.chat.reply_parts import ReplyPart
from tailrace.cli.chat_history import ChatHistory


@dataclass(frozen=True)
class Stats:
    """The figures of one reply: tokens as the engine counts them (the end token included), and seconds."""

    prompt_tokens: int | None  #: None: the server doesn't say
    cached_tokens: int | None
    tokens: int
    first_token: float  #: seconds from the question to the first token
    decoding: float  #: seconds from the first token to the last
    ended: Literal["stop", "max_tokens", "context", "cancelled"]

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed: the first token belongs to the prompt's time. None when there was nothing to measure."""
        return (self.tokens - 1) / self.decoding if self.tokens > 1 and self.decoding > 0 else None


class ChatReply(Protocol):
    """One reply in the making. Each item has the parts that have come, often none, so that the caller gets to act."""

    def __iter__(self) -> Iterator[list[ReplyPart]]:
        """The parts. Raises a TailraceError where the reply can't be continued."""
        ...

    def cancel(self) -> None:
        """Stop: the iteration ends soon."""
        ...

    @property
    def stats(self) -> Stats:
        """The figures of the reply, once the iteration is over."""
        ...


class ChatModel(Protocol):
    """A model that answers one conversation at a time."""

    def reply(self, conversation: ChatHistory) -> ChatReply:
        """The next assistant message. Raises a TailraceError where there can't be one."""
        ...
