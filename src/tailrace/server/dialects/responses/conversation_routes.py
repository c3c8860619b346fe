"""The routes of ``/v1/conversations``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest, NotFound
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.dialects.openai.common_fields import Metadata
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.hosted_tool_items import is_hosted
from tailrace.server.dialects.responses.items import Item, ReferenceItem, parse_item, quoted, with_type_and_id
from tailrace.server.dialects.responses.page import Page
from tailrace.server.dialects.responses.query_params import PageQuery
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.json_response import json_response

_LOOKUP_ERRORS = frozenset({400, 401, 404, 500, 503})
_WRITE_ERRORS = GENERATION_ERRORS - {429, 503, 504}

#: The API reference's limit of items in one request.
_Items = Annotated[list[dict[str, Any]], Meta(max_length=20)]


class ConversationRequest(msgspec.Struct):
    """The body of ``POST /v1/conversations``."""

    items: _Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(msgspec.Struct):
    """The body of ``POST /v1/conversations/{id}``."""

    metadata: Metadata | None = None


class ItemsRequest(msgspec.Struct):
    """The body of ``POST /v1/conversations/{id}/items``."""

    items: _Items


_create = msgspec.json.Decoder(ConversationRequest)
_update = msgspec.json.Decoder(ConversationUpdate)
_add = msgspec.json.Decoder(ItemsRequest)


def conversation_routes(app: AppState, store: ConversationStore | None) -> list[Endpoint]:
    """The routes; without a ``store`` every route answers 404."""
    answers = _Conversations(app, store)
    one = "/conversations/{id}"
    item = f"{one}/items/{{item}}"
    return [
        Endpoint(
            "POST",
            "/conversations",
            answers.create,
            "A new conversation",
            body=ConversationRequest,
            statuses=_WRITE_ERRORS,
        ),
        Endpoint("GET", one, answers.get, "A conversation", statuses=_LOOKUP_ERRORS),
        Endpoint(
            "POST",
            one,
            answers.update,
            "Replace a conversation's metadata",
            body=ConversationUpdate,
            statuses=_WRITE_ERRORS,
        ),
        Endpoint("DELETE", one, answers.delete, "Forget a conversation", statuses=_LOOKUP_ERRORS),
        Endpoint(
            "GET",
            f"{one}/items",
            answers.items,
            "A conversation's items",
            query=PageQuery,
            statuses=_LOOKUP_ERRORS,
        ),
        Endpoint(
            "POST",
            f"{one}/items",
            answers.add,
            "Add items to a conversation",
            body=ItemsRequest,
            statuses=_WRITE_ERRORS,
        ),
        Endpoint("GET", item, answers.item, "One item of a conversation", statuses=_LOOKUP_ERRORS),
        Endpoint("DELETE", item, answers.remove, "Remove an item from a conversation", statuses=_LOOKUP_ERRORS),
    ]


class _Conversations:
    def __init__(self, app: AppState, store: ConversationStore | None) -> None:
        self._app = app
        self._store = store

    async def create(self, request: Request) -> Response:
        payload = await self._app.read(request, _create)
        caller = caller_of(request.scope)
        items = await self._app.run_large(partial(_checked, payload.items or []), request.state.size)
        store = self._require_store()
        return json_response(await store.create(items, payload.metadata or {}, caller.owner, caller.identity))

    async def get(self, request: Request) -> Response:
        return json_response(await self._require_store().get(*_named(request)))

    async def update(self, request: Request) -> Response:
        payload = await self._app.read(request, _update)
        return json_response(await self._require_store().update(*_named(request), payload.metadata or {}))

    async def delete(self, request: Request) -> Response:
        identity, owner = _named(request)
        await self._require_store().delete(identity, owner)
        return json_response({"id": identity, "object": "conversation.deleted", "deleted": True})

    async def items(self, request: Request) -> Response:
        query = PageQuery.read(request)
        page = await self._require_store().page(
            *_named(request), after=query.after, limit=query.limit or 20, order=query.order or "desc"
        )
        return json_response(page.body())

    async def add(self, request: Request) -> Response:
        payload = await self._app.read(request, _add)
        items = await self._app.run_large(partial(_checked, payload.items), request.state.size)
        added = await self._require_store().add(*_named(request), items)
        return json_response(Page(added, has_more=False).body())

    async def item(self, request: Request) -> Response:
        return json_response(await self._require_store().item(*_named(request), request.path_params["item"]))

    async def remove(self, request: Request) -> Response:
        return json_response(await self._require_store().remove(*_named(request), request.path_params["item"]))

    def _require_store(self) -> ConversationStore:
        if self._store is None:
            raise NotFound("Conversations are not kept by this server: nothing is (responses_mb is 0).")
        return self._store


def _named(request: Request) -> tuple[str, str]:
    """The id of the conversation in the path, and that of the caller's key."""
    return request.path_params["id"], caller_of(request.scope).owner


def _checked(items: list[Item]) -> list[Item]:
    """The items in their stored form. Raises InvalidRequest for unusable ones."""
    for index, item in enumerate(items):
        path = f"items[{index}]"
        if not is_hosted(item) and isinstance(parse_item(item, path), ReferenceItem):
            raise InvalidRequest(f"'{path}': a reference can't be kept: {quoted(item.get('id'))}.", param=path)
    return [with_type_and_id(item) for item in items]
