"""A page of a list of items, as clients ask for it and as they get it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.responses.items import Item, as_listed, quoted

Order = Literal["asc", "desc"]


class Page(msgspec.Struct, frozen=True):
    """A page of items, and whether more follow."""

    items: list[Item]
    has_more: bool

    def listed(self) -> Page:
        """The same with the items in the form in which the API lists them."""
        return Page([as_listed(item) for item in self.items], self.has_more)

    def body(self) -> dict[str, Any]:
        """The list object."""
        return {
            "object": "list",
            "data": self.items,
            "first_id": self.items[0]["id"] if self.items else "",
            "last_id": self.items[-1]["id"] if self.items else "",
            "has_more": self.has_more,
        }


def page(items: list[Item], after: str | None, limit: int) -> Page:
    """``limit`` of the items, from the one behind ``after`` on. Raises InvalidRequest when that isn't among them."""
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidRequest(f"'after': there is no item {quoted(after)} in the list.", param="after")
        items = items[ids.index(after) + 1 :]
    return Page(items[:limit], len(items) > limit)
