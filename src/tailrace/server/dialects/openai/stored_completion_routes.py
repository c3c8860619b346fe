"""The routes of stored chat completions: look one up, its messages, change its metadata, forget it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest, NotFound
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.collected_reply import CollectedReply
from tailrace.server.dialects.openai.chat import ChatRequest
from tailrace.server.dialects.openai.common_fields import Metadata
from tailrace.server.dialects.openai.completion_store import CompletionStore
from tailrace.server.dialects.openai.postgres_completions import PostgresCompletions
from tailrace.server.dialects.openai.sqlite_completions import SqliteCompletions, default_file
from tailrace.server.endpoint import Endpoint
from tailrace.server.events import Event
from tailrace.server.json_response import json_response
from tailrace.server.query_params import read_query
from tailrace.server.stream_encoder import Encoder

_LOOKUP_ERRORS = frozenset({400, 401, 404, 500, 503})


class UpdateRequest(msgspec.Struct):
    """The body of ``POST /v1/chat/completions/{id}``."""

    metadata: Metadata | None = None


class MessagesQuery(msgspec.Struct, kw_only=True):
    """Of ``GET /v1/chat/completions/{id}/messages``."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None
    order: Literal["asc", "desc"] | None = None


_decoder = msgspec.json.Decoder(UpdateRequest)


def store_of(app: AppState) -> CompletionStore | None:
    """The server's store; None where storing is disabled."""
    settings = app.settings
    if not settings.responses_mb:
        return None
    bounds = {"megabytes": settings.responses_mb, "days": settings.responses_days}
    store: CompletionStore
    if app.database is not None:
        store = PostgresCompletions(app.database, **bounds)
    else:
        file = default_file()
        if settings.responses_file:
            given = Path(settings.responses_file).expanduser()
            file = given.with_name(f"{given.stem}-completions{given.suffix}")
        store = SqliteCompletions(file, **bounds)
    app.on_shutdown.append(store.close)
    return store


def check_store(payload: ChatRequest, store: CompletionStore | None) -> None:
    """Raise InvalidRequest when the completion can't be stored as requested."""
    if not payload.store:
        return
    if store is None:
        why = "nothing is kept by this server (responses_mb is 0); leave it out or send false."
        raise InvalidRequest(f"'store': {why}", param="store", code="unsupported_value")
    try:
        msgspec.convert(payload.metadata, Metadata | None)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid value for 'metadata': {error}.", param="metadata") from None


def stored_form(payload: ChatRequest, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is stored of the completion ``body``, and of its request's messages."""
    messages = [_stored_message(message, f"{body['id']}-{n}") for n, message in enumerate(payload.messages)]
    return {**body, "metadata": payload.metadata or {}}, messages


def _stored_message(message: msgspec.Struct, identity: str) -> dict[str, Any]:
    """A request's message in the API's form: content parts have their own field."""
    fields = {name: value for name, value in msgspec.to_builtins(message).items() if value is not None}
    parts = fields["content"] if isinstance(fields.get("content"), list) else None
    content = None if parts is not None else fields.get("content", "")
    return {"id": identity, **fields, "content": content, "content_parts": parts}


class StoringStream:
    """Encodes as ``stream`` does, and hands the whole completion on when it is over. See ``Encoder``."""

    def __init__(self, stream: Encoder, transcript: CollectedReply, complete: Callable[[], object]) -> None:
        """``complete`` is called once ``transcript`` is."""
        self._stream = stream
        self._transcript = transcript
        self._complete = complete

    def start(self) -> list[bytes]:
        """See ``Encoder``."""
        return self._stream.start()

    def encode(self, event: Event) -> list[bytes]:
        """See ``Encoder``."""
        self._transcript.emit(event)
        if self._transcript.complete:
            self._complete()
        return self._stream.encode(event)

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._stream.end()


def routes(app: AppState, store: CompletionStore | None) -> list[Endpoint]:
    """The routes, answered from ``store``."""
    stored = _Stored(app, store)
    one = "/chat/completions/{id}"
    return [
        Endpoint("GET", one, stored.get, "A stored chat completion", statuses=_LOOKUP_ERRORS),
        Endpoint(
            "POST",
            one,
            stored.update,
            "Change a stored chat completion's metadata",
            body=UpdateRequest,
            statuses=_LOOKUP_ERRORS | {413},
        ),
        Endpoint("DELETE", one, stored.delete, "Forget a stored chat completion", statuses=_LOOKUP_ERRORS),
        Endpoint(
            "GET",
            f"{one}/messages",
            stored.messages,
            "A stored chat completion's messages",
            query=MessagesQuery,
            statuses=_LOOKUP_ERRORS,
        ),
    ]


class _Stored:
    def __init__(self, app: AppState, store: CompletionStore | None) -> None:
        self._app = app
        self._store = store

    async def get(self, request: Request) -> Response:
        return json_response(await self._require_store().get(request.path_params["id"], _owner(request)))

    async def update(self, request: Request) -> Response:
        payload = await self._app.read(request, _decoder)
        store = self._require_store()
        return json_response(await store.update(request.path_params["id"], _owner(request), payload.metadata))

    async def delete(self, request: Request) -> Response:
        identity = request.path_params["id"]
        await self._require_store().delete(identity, _owner(request))
        return json_response({"id": identity, "object": "chat.completion.deleted", "deleted": True})

    async def messages(self, request: Request) -> Response:
        query = read_query(MessagesQuery, request)
        page = await self._require_store().messages(
            request.path_params["id"],
            _owner(request),
            after=query.after,
            limit=query.limit or 20,
            order=query.order or "asc",
        )
        return json_response(
            {
                "object": "list",
                "data": page.messages,
                "first_id": page.messages[0]["id"] if page.messages else None,
                "last_id": page.messages[-1]["id"] if page.messages else None,
                "has_more": page.has_more,
            }
        )

    def _require_store(self) -> CompletionStore:
        if self._store is None:
            raise NotFound("Nothing is kept by this server (responses_mb is 0).")
        return self._store


def _owner(request: Request) -> str:
    """The id of the caller's key."""
    return caller_of(request.scope).owner
