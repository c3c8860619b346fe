"""The interface of the store of chat completions that were stored with ``store: true``, with their messages.

``sqlite_completions`` has it for one machine, ``postgres_completions`` for several.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from tailrace.errors import InvalidRequest, NotFound

Order = Literal["asc", "desc"]


class Page(msgspec.Struct, frozen=True):
    """A page of a completion's messages, and whether more follow."""

    messages: list[dict[str, Any]]
    has_more: bool


class CompletionStore(Protocol):
    """Completions, for the event loop. The least recently used one is evicted first. ``owner`` is the id of the
    caller's key: a completion of another key isn't found.

    What waits for the store raises StorageUnavailable where it can't be used.
    """

    @property
    def is_shared(self) -> bool:
        """Whether other servers answer from it: the end of a stream is sent once ``settled`` has returned."""
        ...

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """Store a completion. Returns at once. A failure is logged, because the client has its reply already."""
        ...

    async def save(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """Store a completion, and return when it is stored."""
        ...

    async def settled(self) -> None:
        """Return when everything that was put before is stored, or has failed."""
        ...

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """The completion. Raises NotFound."""
        ...

    async def update(self, identity: str, owner: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        """The completion with other metadata. Raises NotFound."""
        ...

    async def delete(self, identity: str, owner: str) -> None:
        """Forget a completion. Raises NotFound."""
        ...

    async def messages(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """A page of the completion's messages. Raises NotFound, and InvalidRequest for an unknown ``after``."""
        ...

    def close(self) -> None:
        """Finish all submitted work, and close the store."""
        ...


def page(messages: list[dict[str, Any]], after: str | None, limit: int, order: Order) -> Page:
    """``limit`` of the messages, from the one behind ``after`` on. Raises InvalidRequest when that isn't among them."""
    if order == "desc":
        messages.reverse()
    if after is not None:
        ids = [message["id"] for message in messages]
        if after not in ids:
            raise InvalidRequest("'after': the completion has no such message.", param="after")
        messages = messages[ids.index(after) + 1 :]
    return Page(messages[:limit], len(messages) > limit)


def not_found(identity: str) -> NotFound:
    """There is no such completion."""
    shown = identity if len(identity) <= 200 else f"{identity[:200]}…"
    return NotFound(f"The chat completion '{shown}' is not kept here.")
