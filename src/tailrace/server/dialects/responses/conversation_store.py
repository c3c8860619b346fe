"""The interface of the store of conversations: lists of items. Each response in a conversation appends its input and
its output.
"""

from __future__ import annotations

from typing import Any, Protocol

from tailrace.errors import NotFound
from tailrace.server.dialects.responses.items import Item, item_type, new_id, quoted
from tailrace.server.dialects.responses.page import Order, Page


class ConversationStore(Protocol):
    """The conversations, for the event loop. Every method but ``create`` and ``append`` raises NotFound for an unknown
    one, and for one of another key than that with the id ``owner``.
    """

    async def create(self, items: list[Item], metadata: dict[str, str], owner: str, caller: str = "") -> dict[str, Any]:
        """A new conversation with these items, by the sender of the identity ``caller``; the conversation object."""
        ...

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """The conversation object."""
        ...

    async def update(self, identity: str, owner: str, metadata: dict[str, str]) -> dict[str, Any]:
        """Replace the metadata; the conversation object."""
        ...

    async def delete(self, identity: str, owner: str) -> None:
        """Forget it and its items."""
        ...

    async def items(self, identity: str, owner: str) -> list[Item]:
        """All of its items as they were received or generated, in order."""
        ...

    async def page(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """Some of its items, as the API lists them. Raises InvalidRequest for an unknown ``after``."""
        ...

    async def add(self, identity: str, owner: str, items: list[Item]) -> list[Item]:
        """Add items at the end; the same with their ids."""
        ...

    def append(self, identity: str, owner: str, items: list[Item]) -> None:
        """Append items, unless the conversation is deleted. Returns at once; later reads see them."""
        ...

    async def item(self, identity: str, owner: str, item: str) -> Item:
        """One item, as the API lists it. Raises NotFound for an unknown one, too."""
        ...

    async def remove(self, identity: str, owner: str, item: str) -> dict[str, Any]:
        """Remove one item; the conversation object. Raises NotFound for an unknown one, too."""
        ...


def conversation_object(identity: str, created: int, metadata: Any) -> dict[str, Any]:
    """The object that the API has."""
    return {"id": identity, "object": "conversation", "created_at": created, "metadata": metadata}


def with_new_ids(items: list[Item], known: set[str]) -> list[Item]:
    """The items; one with an id that the conversation has already, or an item before it, gets a new one."""
    taken, added = set(known), list[Item]()
    for item in items:
        if item["id"] in taken:
            item = {**item, "id": new_id(str(item_type(item)))}
        taken.add(item["id"])
        added.append(item)
    return added


def no_conversation(identity: str) -> NotFound:
    """There is no such conversation."""
    return NotFound(f"The conversation {quoted(identity)} is not kept here.")


def no_item(identity: str, item: str) -> NotFound:
    """The conversation has no such item."""
    return NotFound(f"The conversation {quoted(identity)} has no item {quoted(item)}.")
