"""Stores the states of one response: in the store if requested, and in its conversation once it is complete."""

from __future__ import annotations

from typing import Any

from tailrace.errors import RequestError
from tailrace.server.caller import Caller
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.store import ResponseStore


class StoredStates:
    """See the module. ``own``: the request's items in the stored form. Without a store nothing is stored."""

    def __init__(
        self,
        store: ResponseStore | None,
        payload: ResponsesRequest,
        own: list[Item],
        caller: Caller,
        *,
        is_stored: bool,
    ) -> None:
        self._store = store
        self._payload = payload
        self._own = own
        self._caller = caller
        self.is_stored = is_stored  #: whether the response itself is stored
        self._last: dict[str, Any] = {}

    async def begin(self, response: dict[str, Any]) -> bool:
        """Store the response in progress; whether it is stored as requested. Raises RequestError where the client has
        asked for that and it can't be: one that hasn't asked gets its reply.
        """
        wanted = self.is_stored
        self.is_stored = wanted and await self._saved(response)
        return self.is_stored is wanted

    async def end(self, response: dict[str, Any]) -> None:
        """Store the end of a response before its client gets it; it says where that fails. Raises RequestError, see
        ``begin``.
        """
        if self.is_stored and not await self._saved(response):
            response["store"] = False
            self.put(response)  # What is stored must not stay in progress.
            return
        self._append(response)
        await self.settled()

    def put(self, response: dict[str, Any]) -> None:
        """Store the end of a response whose client has it, or has gone."""
        if self._store is not None and self.is_stored:
            self._store.put(response, self._own, self._caller.owner, self._caller.identity)
        self._append(response)

    def remember(self, response: dict[str, Any]) -> None:
        """The end of a response in the background, for ``put_recorded``."""
        self._last = response

    def put_recorded(self, recording: Recording) -> None:
        """Store the end of a response in the background, with its events."""
        assert self._store is not None, "what runs in the background is kept"
        self._store.put_end(self._last, self._own, self._caller.owner, self._caller.identity, recording)
        self._append(self._last)

    @property
    def is_awaited(self) -> bool:
        """Whether a client may have the end of the response only once it is stored: it may go to another server."""
        return self._store is not None and self._store.is_shared

    async def settled(self) -> None:
        """Return when other servers have what was put."""
        if self._store is not None and self._store.is_shared:
            await self._store.settled()

    async def _saved(self, response: dict[str, Any]) -> bool:
        assert self._store is not None, "it was looked at"
        try:
            await self._store.save(response, self._own, self._caller.owner, self._caller.identity)
        except RequestError:
            if self._payload.store or self._payload.background:
                raise
            return False
        return True

    def _append(self, response: dict[str, Any]) -> None:
        """Append input and output to the response's conversation, if it has one and is complete."""
        identity = self._payload.conversation_id
        if self._store is not None and identity is not None and response["status"] in ("completed", "incomplete"):
            self._store.conversations.append(identity, self._caller.owner, [*self._own, *response["output"]])
