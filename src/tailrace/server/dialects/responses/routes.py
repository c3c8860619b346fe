"""The routes of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, InvalidRequest, NotFound
from tailrace.server.app_state import AppState
from tailrace.server.dialects.responses import request as body
from tailrace.server.dialects.responses.background import MOST, Background
from tailrace.server.dialects.responses.body import ResponseHead
from tailrace.server.dialects.responses.conversation import Conversation, conversation
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.conversations import conversation_routes
from tailrace.server.dialects.responses.hosted import brought_tools
from tailrace.server.dialects.responses.items import Item, kind, shown, stored
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.prepare import prepare
from tailrace.server.dialects.responses.query import InputItemsQuery, RetrieveQuery
from tailrace.server.dialects.responses.recording import RecordedStream, Recording, packed, unpacked
from tailrace.server.dialects.responses.replay import replay
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.store import ResponseStore, default_file
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.telemetry import telemetry, with_timings
from tailrace.server.dialects.responses.tools import Toolset, toolset
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.generation import Generation
from tailrace.server.json_body import decode
from tailrace.server.json_response import json_response
from tailrace.server.prompt_token_count import count_input
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect


class _ResponseId(StringConvertor):
    """An id of ours: any other name behind ``/responses/`` is of a route that isn't here, whatever the method."""

    regex = "resp_[^/]*"


register_url_convertor("response", _ResponseId())

_LOOKUP_ERRORS = frozenset({400, 401, 404, 500})


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    responses = _Responses(app)
    one = "/responses/{id:response}"
    return [
        *conversation_routes(app, responses.conversations),
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
        Endpoint(
            "POST",
            "/responses/input_tokens",
            responses.input_tokens,
            "A response's input in tokens",
            body=ResponsesRequest,
            statuses=GENERATION_ERRORS,
        ),
        Endpoint(
            "GET",
            one,
            responses.get,
            "A stored response, or its events",
            query=RetrieveQuery,
            statuses=_LOOKUP_ERRORS,
            streams="text/event-stream",
        ),
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
    tools: list[tuple[Any, str]]  #: those that items bring, each with its place


class _Responses:
    def __init__(self, app: AppState) -> None:
        self._app = app
        settings = app.settings
        self._store: ResponseStore | None = None
        if settings.responses_mb:
            file = Path(settings.responses_file).expanduser() if settings.responses_file else default_file()
            self._store = ResponseStore(file, megabytes=settings.responses_mb, days=settings.responses_days)
        self._background = Background(self._recorded)
        app.on_shutdown.append(self._stop)
        self._comments = settings.keepalive_style == "comment"

    @property
    def conversations(self) -> ConversationStore | None:
        """None where nothing is kept."""
        return None if self._store is None else self._store.conversations

    async def create(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), body.decoder)
        body.check(asked)
        app.check_model(asked.model)
        kept = self._keeps(asked)
        given = await self._input(asked)
        tools = toolset(asked.tools, asked.tool_choice, given.tools)
        model = await app.model_for(asked.model, asked)
        generation = await self._start(request, asked, given.conversation, tools, model)
        head = ResponseHead(asked, tools, app.model_name, stored=kept)
        ended = self._keeper(asked, given.own, kept)
        if asked.stream or asked.background:
            stream = ResponsesStream(
                head,
                tools,
                summary=asked.wants_summary,
                encrypted=asked.wants_encrypted,
                comments=self._comments,
                ended=ended,
            )
            if not asked.background:
                encoder = telemetry(stream, generation)
                return app.stream_response(generation, encoder, keepalive_seconds=asked.keepalive_seconds)
            begun = head.body("in_progress", [])
            ended(begun)
            recording = self._background.begin(head.id, generation, stream)
            return self._streamed(recording, 0) if asked.stream else json_response(begun)
        output = Output(tools, summary=asked.wants_summary, encrypted=asked.wants_encrypted)
        async with cancelled_on_disconnect(generation, request.receive):
            generation.listen(output)
            await generation.finished()
        status = "cancelled" if output.status == "in_progress" else output.status
        done = head.body(status, output.items(), output.usage, output.error)
        ended(done)
        if output.error is not None:
            raise output.error
        if status == "cancelled":
            raise ClientDisconnect  # Nobody is there to read a response.
        return json_response(with_timings(done, asked, generation))

    async def compact(self, request: Request) -> Response:
        """Known, so that its clients learn more than that the method is wrong."""
        raise NotFound(
            "POST /v1/responses/compact: conversations aren't compacted here; ask the model for a summary, or send "
            "'truncation': 'auto'."
        )

    async def input_tokens(self, request: Request) -> Response:
        """The same prompt as a response's, counted by the engine as it would read it."""
        app = self._app
        asked = decode(await app.read_body(request), body.decoder)
        body.check(asked)
        app.check_model(asked.model)
        self._keeps(asked)
        given = await self._input(asked)
        tools = toolset(asked.tools, asked.tool_choice, given.tools)
        make = partial(prepare, asked, given.conversation, tools, await app.model_for(asked.model, asked))
        wanted = await app.run_large(make, given.conversation.size)
        return json_response(await count_input(app, request, wanted))

    async def get(self, request: Request) -> Response:
        query = RetrieveQuery.read(request)
        identity = request.path_params["id"]
        store = self._kept(request)
        recording = self._background.recording(identity) if query.stream else None
        if recording is None:
            response = await store.get(identity)
            if not query.stream:
                return json_response(response)
            events = await store.events(identity)
            recording = replay(response) if events is None else unpacked(events)
        return self._streamed(recording, 0 if query.starting_after is None else query.starting_after + 1)

    def _streamed(self, recording: Recording, begin: int) -> Response:
        return RecordedStream(recording, begin=begin, keepalive_seconds=self._app.settings.keepalive_seconds)

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
        return json_response(page.body())

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
                ("conversation", asked.conversation_id),
            ):
                if needed:
                    raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
            return False
        if asked.background and self._background.full:
            raise InvalidRequest(f"'background': {MOST} responses run already; cancel some.", param="background")
        return asked.store is not False

    def _keeper(self, asked: ResponsesRequest, own: list[Item], kept: bool) -> Callable[[dict[str, Any]], None]:
        """Keeps a state of the response: in the store where that is wanted, in its conversation once it is whole."""
        store, conversation_id = self._store, asked.conversation_id
        if store is None:
            return _forgotten

        def keep(response: dict[str, Any]) -> None:
            if kept:
                store.put(response, own)
            if conversation_id is not None and response["status"] in ("completed", "incomplete"):
                store.conversations.append(conversation_id, [*own, *response["output"]])

        return keep

    def _recorded(self, identity: str, recording: Recording) -> None:
        assert self._store is not None, "what runs in the background is kept"
        self._store.put_events(identity, packed(recording))

    def _kept(self, request: Request) -> ResponseStore:
        if self._store is None:
            raise NotFound(f"The response {shown(request.path_params['id'])} is not kept here: nothing is.")
        return self._store

    async def _input(self, asked: ResponsesRequest) -> _Input:
        earlier: list[Item] = []
        before = "previous_response_id" if asked.conversation_id is None else "conversation"
        if asked.previous_response_id is not None:
            assert self._store is not None, "it was looked at"
            earlier = await self._store.conversation(asked.previous_response_id)
        elif asked.conversation_id is not None:
            assert self._store is not None, "it was looked at"
            earlier = await self._store.conversations.items(asked.conversation_id)
        sent = asked.input
        if isinstance(sent, str):
            message: Item = {"role": "user", "content": [{"type": "input_text", "text": sent}]}
            items = [(message, "input")]
        else:
            items = [(item, f"input[{index}]") for index, item in enumerate(sent or [])]
        resolved = await self._resolved(items, earlier)
        whole = [*((item, before) for item in earlier), *resolved]
        own = [stored(item) for item, _ in resolved]
        return _Input(own, conversation(asked.instructions, whole), brought_tools(whole))

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
        self, request: Request, asked: ResponsesRequest, said: Conversation, tools: Toolset, model: ServedModel
    ) -> Generation:
        """Begin. With ``truncation: "auto"`` a conversation that is too long loses its oldest turns, one, two, four
        and so on, until it fits.
        """
        left = said.turns - 1  #: turns that may go: the last stays
        cut, dropped = 0, 1
        while True:
            shortened = said if cut == 0 else said.shortened(cut)
            try:
                make = partial(prepare, asked, shortened, tools, model)
                return await self._app.start_generation(request, await self._app.run_large(make, shortened.size))
            except ContextLengthExceeded:
                if asked.truncation != "auto" or cut >= left:
                    raise
            cut = min(left, cut + dropped)
            dropped *= 2


def _forgotten(response: dict[str, Any]) -> None:
    """What nobody wanted to be kept."""
