"""The interface of the store of responses. ``sqlite_store`` has it for one machine, ``postgres_store`` for several."""

from __future__ import annotations

from typing import Any, Protocol

from tailrace.errors import InvalidRequest, NotFound
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.items import Item, quoted
from tailrace.server.dialects.responses.page import Order, Page

#: A conversation of more responses than these isn't followed to its beginning.
MAX_CHAIN = 10_000
#: The part of the store that one response or conversation may take.
_MAX_SHARE = 1 / 8
#: Why a response is failed that has no end of its own.
STOPPED = "The server was stopped before the response was done."
LOST = "The response's end could not be stored."


class ResponseStore(Protocol):
    """Responses, for the event loop. ``owner`` is the id of the caller's key: objects of another key aren't found.
    ``caller`` is the sender's identity: the one that takes most gives way first. An object that hasn't been used for
    some days is deleted.

    What waits for the store raises StorageUnavailable where it can't be used.
    """

    @property
    def conversations(self) -> ConversationStore:
        """The conversations, within the same bounds."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other servers answer from it: a client may go to them as soon as it has the end of a response, so
        the end is sent once ``settled`` has returned.
        """
        ...

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """Store a response, in place of its older state. Returns at once; later reads see it. A failure is logged,
        because the client has its response already, and reads see a failed response from then on.
        """
        ...

    def put_end(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str, recording: Recording) -> None:
        """The same for the end of a response in the background, with its events."""
        ...

    async def save(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """Store a response as ``put`` does, and return when it is stored. Raises InvalidRequest for one that is too
        large.
        """
        ...

    async def settled(self) -> None:
        """Return when everything that was put before is stored, or has failed."""
        ...

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """The response object. Raises NotFound."""
        ...

    async def delete(self, identity: str, owner: str) -> None:
        """Forget a response; one that another server makes is cancelled. Raises NotFound."""
        ...

    async def cancel(self, identity: str, owner: str) -> None:
        """Have a response in the background end that another server makes. Returns when it has ended."""
        ...

    async def inputs(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """A page of the response's own input items. Raises NotFound, and InvalidRequest for an unknown ``after``."""
        ...

    async def conversation(self, identity: str, owner: str) -> list[Item]:
        """Input and output of the response and of all that it builds on, in order. Raises InvalidRequest."""
        ...

    async def outputs(self, identities: list[str], owner: str) -> dict[str, Item]:
        """Those of these items that responses of this owner have put out."""
        ...

    async def recording(self, response: dict[str, Any], begin: int) -> Recording | None:
        """The events of a response that ``get`` has returned; None without stored ones. It grows while another server
        makes the response. ``begin`` is the number of the first event that its reader wants.
        """
        ...

    def close(self) -> None:
        """Finish all submitted work, and close the store."""
        ...


def check_size(size: int, max_bytes: int) -> None:
    """Raise InvalidRequest where an object of ``size`` bytes would push out too much of what others have stored."""
    limit = int(max_bytes * _MAX_SHARE)
    if size > limit:
        raise InvalidRequest(
            f"{size} bytes are more than the {limit} that one stored object may take here. Send 'store': false, or "
            "raise the setting responses_mb.",
            param="store",
            code="too_large_to_store",
        )


def without_output(body: dict[str, Any]) -> dict[str, Any]:
    """The response object without what is stored beside it."""
    return {name: value for name, value in body.items() if name != "output"}


def failed(body: dict[str, Any], message: str) -> dict[str, Any]:
    """The response in progress as it is once its end can't come any more."""
    return {**body, "status": "failed", "error": {"code": "server_error", "message": message}}


def not_found(identity: str) -> NotFound:
    """There is no such response."""
    return NotFound(f"The response {quoted(identity)} is not kept here.")


def broken_chain(identity: str, *, is_first: bool) -> InvalidRequest:
    """A response can't be built on: it isn't there, or one that it builds on isn't."""
    problem = "is not kept here" if is_first else "builds on one that is not kept here any more"
    return InvalidRequest(
        f"The previous response {quoted(identity)} {problem}.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def not_done(identity: str) -> InvalidRequest:
    """A response can't be built on yet."""
    return InvalidRequest(f"The previous response {quoted(identity)} isn't done yet.", param="previous_response_id")
