"""The routes of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, InvalidRequest, NotFound
from tailrace.server.client import ServedModel
from tailrace.server.decode import decode
from tailrace.server.dialects.responses import request as body
from tailrace.server.dialects.responses.background import MOST, Background, finished_body
from tailrace.server.dialects.responses.body import ResponseHead
from tailrace.server.dialects.responses.conversation import Conversation, conversation
from tailrace.server.dialects.responses.items import Item, kind, shown, stored
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.prepare import prepare
from tailrace.server.dialects.responses.query import InputItemsQuery, RetrieveQuery
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.store import ResponseStore, default_file
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.tools import Toolset, toolset
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.generate import Generation
from tailrace.server.respond import json_response
from tailrace.server.server import Server
from tailrace.server.streaming import cancelled_on_disconnect

_LOOKUP_ERRORS = frozenset({400, 401, 404, 500})


def routes(server: Server) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    responses = _Responses(server)
    one = "/responses/{id}"
    return [
        Endpoint(
            "POST",
            "/responses",
            responses.create,
            "Response",
            body=ResponsesRequest,
            statuses=GENERATION_ERRORS,
            streams="text/event-stream",
        ),
        Endpoint("POST", "/responses/compact", responses.compact, "", hidden=True),
        Endpoint("GET", one, responses.get, "A stored response", query=RetrieveQuery, statuses=_LOOKUP_ERRORS),
        Endpoint("DELETE", one, responses.delete, "Forget a stored response", statuses=_LOOKUP_ERRORS),
        Endpoint(
            "POST", f"{one}/cancel", responses.cancel, "Stop a response in the background", statuses=_LOOKUP_ERRORS
        ),
        Endpoint(
            "GET",
            f"{one}/input_items",
            responses.input_items,
            "A stored response's input",
            query=InputItemsQuery,
            statuses=_LOOKUP_ERRORS,
        ),
    ]


class _Input(NamedTuple):
    """A request's input."""

    own: list[Item]  #: as it is kept
    conversation: Conversation  #: all of it


class _Responses:
    def __init__(self, server: Server) -> None:
        self._server = server
        settings = server.settings
        self._store: ResponseStore | None = None
        if settings.responses_mb:
            file = Path(settings.responses_file).expanduser() if settings.responses_file else default_file()
            self._store = ResponseStore(file, megabytes=settings.responses_mb, days=settings.responses_days)
        self._background = Background()
        server.at_stop.append(self._stop)
        self._comments = settings.keepalive_style == "comment"

    async def create(self, request: Request) -> Response:
        server = self._server
        asked = decode(await server.body(request), body.decoder)
        body.check(asked)
        server.check_model(asked.model)
        kept = self._keeps(asked)
        tools = toolset(asked.tools, asked.tool_choice)
        given = await self._input(asked)
        model = await server.engine.ready()
        generation = await self._start(asked, given.conversation, tools, model)
        head = ResponseHead(asked, tools, server.model_name, stored=kept)
        ended = self._keeper(given.own) if kept else _forgotten
        if asked.stream:
            return server.stream(
                generation,
                ResponsesStream(
                    head,
                    tools,
                    summary=asked.wants_summary,
                    encrypted=asked.wants_encrypted,
                    comments=self._comments,
                    ended=ended,
                ),
                keepalive_seconds=asked.keepalive_seconds,
            )
        output = Output(tools, summary=asked.wants_summary, encrypted=asked.wants_encrypted)
        if asked.background:
            begun = head.body("in_progress", [])
            ended(begun)
            self._background.begin(head, generation, output, ended)
            return json_response(begun)
        async with cancelled_on_disconnect(generation, request.receive):
            generation.listen(output)
            await generation.finished()
        done = finished_body(head, output)
        ended(done)
        if output.error is not None:
            raise output.error
        if done["status"] == "cancelled":
            raise ClientDisconnect  # Nobody is there to read a response.
        return json_response(done)

    async def compact(self, request: Request) -> Response:
        """Known, so that its clients learn more than that the method is wrong."""
        raise NotFound(
            "POST /v1/responses/compact: conversations aren't compacted here; ask the model for a summary, or send "
            "'truncation': 'auto'."
        )

    async def get(self, request: Request) -> Response:
        RetrieveQuery.read(request)
        return json_response(await self._kept(request).get(request.path_params["id"]))

    async def delete(self, request: Request) -> Response:
        identity = request.path_params["id"]
        store = self._kept(request)
        await self._background.cancel(identity)
        await store.delete(identity)
        return json_response({"id": identity, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        identity = request.path_params["id"]
        store = self._kept(request)
        await self._background.cancel(identity)
        response = await store.get(identity)
        if not response["background"]:
            raise InvalidRequest(f"The response '{identity}' was not made in the background; it can't be cancelled.")
        return json_response(response)

    async def input_items(self, request: Request) -> Response:
        query = InputItemsQuery.read(request)
        identity = request.path_params["id"]
        page = await self._kept(request).inputs(
            identity, after=query.after, limit=query.limit or 20, order=query.order or "desc"
        )
        return json_response(
            {
                "object": "list",
                "data": page.items,
                "first_id": page.items[0]["id"] if page.items else None,
                "last_id": page.items[-1]["id"] if page.items else None,
                "has_more": page.more,
            }
        )

    def _stop(self) -> None:
        self._background.stop()
        if self._store is not None:
            self._store.close()

    def _keeps(self, asked: ResponsesRequest) -> bool:
        """Whether the response is kept. Raises InvalidRequest where it has to be and can't."""
        if self._store is None:
            why = "nothing is kept by this server (responses_mb is 0)."
            for name, needed in (
                ("store", asked.store),
                ("background", asked.background),
                ("previous_response_id", asked.previous_response_id),
            ):
                if needed:
                    raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
            return False
        if asked.background and self._background.full:
            raise InvalidRequest(f"'background': {MOST} responses run already; cancel some.", param="background")
        return asked.store is not False

    def _keeper(self, own: list[Item]) -> Callable[[dict[str, Any]], None]:
        store = self._store
        assert store is not None
        return lambda response: store.put(response, own)

    def _kept(self, request: Request) -> ResponseStore:
        if self._store is None:
            raise NotFound(f"The response {shown(request.path_params['id'])} is not kept here: nothing is.")
        return self._store

    async def _input(self, asked: ResponsesRequest) -> _Input:
        earlier: list[Item] = []
        if asked.previous_response_id is not None:
            assert self._store is not None, "it was looked at"
            earlier = await self._store.conversation(asked.previous_response_id)
        sent = asked.input
        if isinstance(sent, str):
            message: Item = {"role": "user", "content": [{"type": "input_text", "text": sent}]}
            items = [(message, "input")]
        else:
            items = [(item, f"input[{index}]") for index, item in enumerate(sent or [])]
        resolved = await self._resolved(items, earlier)
        whole = [*((item, "previous_response_id") for item in earlier), *resolved]
        return _Input([stored(item) for item, _ in resolved], conversation(asked.instructions, whole))

    async def _resolved(self, items: list[tuple[Item, str]], earlier: list[Item]) -> list[tuple[Item, str]]:
        """The items, with what references stand for in their place."""
        wanted = [str(item.get("id")) for item, _ in items if kind(item) == "item_reference"]
        if not wanted:
            return items
        found = {} if self._store is None else await self._store.outputs(wanted)
        found |= {str(item["id"]): item for item in earlier}
        resolved: list[tuple[Item, str]] = []
        for item, place in items:
            if kind(item) == "item_reference":
                identity = str(item.get("id"))
                if identity not in found:
                    raise InvalidRequest(
                        f"'{place}.id': the item {shown(identity)} is not kept here.", param=f"{place}.id"
                    )
                item = found[identity]
            resolved.append((item, place))
        return resolved

    async def _start(
        self, asked: ResponsesRequest, said: Conversation, tools: Toolset, model: ServedModel
    ) -> Generation:
        """Begin. With ``truncation: "auto"`` a conversation that is too long loses its oldest turns, one, two, four
        and so on, until it fits.
        """
        left = said.turns - 1  #: turns that may go: the last stays
        cut, dropped = 0, 1
        while True:
            shortened = said if cut == 0 else said.shortened(cut)
            try:
                return await self._server.start(prepare(asked, shortened, tools, model))
            except ContextLengthExceeded:
                if asked.truncation != "auto" or cut >= left:
                    raise
            cut = min(left, cut + dropped)
            dropped *= 2


def _forgotten(response: dict[str, Any]) -> None:
    """What nobody wanted to be kept."""
