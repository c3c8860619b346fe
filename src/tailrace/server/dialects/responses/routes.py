"""The routes of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, InvalidRequest, NotFound, TooManyRequests
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.dialects.openai.timing_fields import telemetry
from tailrace.server.dialects.responses import request as body
from tailrace.server.dialects.responses.background import MAX_RUNNING, Background
from tailrace.server.dialects.responses.chat_messages import ChatMessages, to_chat_messages
from tailrace.server.dialects.responses.conversation_routes import conversation_routes
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.event_recording import RecordedStream, Recording
from tailrace.server.dialects.responses.hosted_tool_items import tools_in_items
from tailrace.server.dialects.responses.items import Item, item_type, quoted, with_type_and_id
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.postgres_store import PostgresResponseStore
from tailrace.server.dialects.responses.prepare import prepare
from tailrace.server.dialects.responses.query_params import PageQuery, RetrieveQuery
from tailrace.server.dialects.responses.replay import replay
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.response_object import ResponseHead
from tailrace.server.dialects.responses.shared_background import SharedBackground
from tailrace.server.dialects.responses.sqlite_store import SqliteResponseStore, default_file
from tailrace.server.dialects.responses.store import ResponseStore
from tailrace.server.dialects.responses.stored_states import StoredStates
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.timing_fields import with_timings
from tailrace.server.dialects.responses.tools import Toolset, toolset
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.generation import Generation
from tailrace.server.json_response import json_response
from tailrace.server.prompt_token_count import count_input
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect
from tailrace.server.waiting_stream import EncoderOpening, opens_with


class _ResponseId(StringConvertor):
    """An id of ours: any other name behind ``/responses/`` is of a route that isn't here, whatever the method."""

    regex = "resp_[^/]*"


register_url_convertor("response", _ResponseId())

_LOOKUP_ERRORS = frozenset({400, 401, 404, 500, 503})
#: Seconds until a response in the background is likely to have ended.
_BACKGROUND_RETRY_SECONDS = 30
#: The size that a stored item counts with, where the work for a request decides whether a thread does it.
_ITEM_BYTES = 64
#: The size that a token of a reply, or a log probability, counts with.
_TOKEN_BYTES = 48


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
            query=PageQuery,
            statuses=_LOOKUP_ERRORS,
        ),
    ]


class _Input(NamedTuple):
    """A request's input."""

    own: list[Item]  #: in the stored form
    conversation: ChatMessages  #: all of it
    tools: list[tuple[Any, str]]  #: those that items bring, each with its path


class _Responses:
    def __init__(self, app: AppState) -> None:
        self._app = app
        settings = app.settings
        self._background = Background()
        self._store: ResponseStore | None = None
        if settings.responses_mb and app.database is not None:
            shared = PostgresResponseStore(app.database, megabytes=settings.responses_mb, days=settings.responses_days)
            exchange = SharedBackground(self._background, shared)
            app.on_start.append(exchange.start)
            app.on_shutdown.append(exchange.stop)
            self._store = shared
        elif settings.responses_mb:
            file = Path(settings.responses_file).expanduser() if settings.responses_file else default_file()
            self._store = SqliteResponseStore(file, megabytes=settings.responses_mb, days=settings.responses_days)
        app.on_shutdown.append(self._stop)
        self._comments = settings.keepalive_style == "comment"

    @property
    def conversations(self) -> ConversationStore | None:
        """None where storing is disabled."""
        return None if self._store is None else self._store.conversations

    async def create(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, body.decoder)
        body.check(payload)
        named = app.models.resolve(payload.model)
        is_stored = self._should_store(payload)
        given = await self._input(request, payload)
        tools = toolset(payload.tools, payload.tool_choice, given.tools)
        head = ResponseHead(payload, tools, named.service.name, stored=is_stored)
        ended: Callable[[dict[str, Any]], None] = _store_nothing  # Until the response is stored.
        stream = ResponsesStream(
            head,
            tools,
            summary=payload.wants_summary,
            encrypted=payload.wants_encrypted,
            # A recording's events have numbers, so those that come before it can't be events.
            comments=self._comments or bool(payload.background),
            ended=lambda response: ended(response),
        )
        if payload.stream:
            opens_with(
                request,
                lambda: EncoderOpening(stream, starts=not payload.background),
                keepalive_seconds=payload.keepalive_seconds,
            )
        model = await app.model_for(request, payload.model, payload)
        generation = await self._start(request, payload, given.conversation, tools, model)
        caller = caller_of(request.scope)
        states = StoredStates(self._store, payload, given.own, caller, is_stored=is_stored)
        if not await states.begin(head.body("in_progress", [])):
            head.forget_storing()
        if payload.background:
            started = head.body("in_progress", [])
            ended = states.remember
            recording = self._background.run(head.id, caller.owner, generation, stream, states.put_recorded)
            return self._streamed(recording, 0) if payload.stream else json_response(started)
        ended = states.put
        if payload.stream:
            encoder = telemetry(stream, generation, timings=bool(payload.timings_per_token))
            before_end = states.settled if states.is_awaited else None
            return app.stream_response(
                generation, encoder, keepalive_seconds=payload.keepalive_seconds, before_end=before_end
            )
        output = Output(tools, summary=payload.wants_summary, encrypted=payload.wants_encrypted)
        async with cancelled_on_disconnect(generation, request.receive):
            generation.attach(output)
            await generation.finished()
        status = "cancelled" if output.status == "in_progress" else output.status
        done = head.body(status, output.items(), output.usage, output.error)
        if status == "cancelled":
            states.put(done)
        else:
            await states.end(done)
        if output.error is not None:
            raise output.error
        if status == "cancelled":
            raise ClientDisconnect  # The client has disconnected.
        tokens = output.usage.completion_tokens if output.usage is not None else 0
        size = _TOKEN_BYTES * tokens * (1 + (payload.top_logprobs or 0))
        return await app.run_large(lambda: json_response(with_timings(done, payload, generation)), size)

    async def compact(self, request: Request) -> Response:
        """Known, so that its clients learn more than that the method is wrong."""
        raise NotFound(
            "POST /v1/responses/compact: conversations aren't compacted here; ask the model for a summary, or send "
            "'truncation': 'auto'."
        )

    async def input_tokens(self, request: Request) -> Response:
        """The same prompt as a response's, counted by the engine as it would read it."""
        app = self._app
        payload = await app.read(request, body.decoder)
        body.check(payload)
        app.models.resolve(payload.model)
        self._should_store(payload)
        given = await self._input(request, payload)
        tools = toolset(payload.tools, payload.tool_choice, given.tools)
        model = await app.model_for(request, payload.model, payload)
        make = partial(prepare, payload, given.conversation, tools, model)
        generation_request = await app.run_large(make, given.conversation.size)
        return json_response(await count_input(app, request, model, generation_request))

    async def get(self, request: Request) -> Response:
        query = RetrieveQuery.read(request)
        identity, owner = request.path_params["id"], caller_of(request.scope).owner
        store = self._require_store(request)
        begin = 0 if query.starting_after is None else query.starting_after + 1
        recording = self._background.recording(identity, owner) if query.stream else None
        if recording is None:
            response = await store.get(identity, owner)
            if not query.stream:
                return json_response(response)
            recording = await store.recording(response, begin) or replay(response)
        return self._streamed(recording, begin)

    def _streamed(self, recording: Recording, begin: int) -> Response:
        return RecordedStream(recording, begin=begin, keepalive_seconds=self._app.settings.keepalive_seconds)

    async def delete(self, request: Request) -> Response:
        identity, owner = request.path_params["id"], caller_of(request.scope).owner
        store = self._require_store(request)
        await self._background.cancel(identity, owner)
        await store.delete(identity, owner)
        return json_response({"id": identity, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        identity, owner = request.path_params["id"], caller_of(request.scope).owner
        store = self._require_store(request)
        await self._background.cancel(identity, owner)
        response = await store.get(identity, owner)
        if not response["background"]:
            raise InvalidRequest(f"The response '{identity}' was not made in the background; it can't be cancelled.")
        if response["status"] == "in_progress":  # Another server makes it.
            await store.cancel(identity, owner)
            response = await store.get(identity, owner)
        return json_response(response)

    async def input_items(self, request: Request) -> Response:
        query = PageQuery.read(request)
        identity, owner = request.path_params["id"], caller_of(request.scope).owner
        page = await self._require_store(request).inputs(
            identity, owner, after=query.after, limit=query.limit or 20, order=query.order or "desc"
        )
        return json_response(page.body())

    def _stop(self) -> None:
        self._background.stop()
        if self._store is not None:
            self._store.close()

    def _should_store(self, payload: ResponsesRequest) -> bool:
        """Whether the response is stored. Raises InvalidRequest where it has to be and can't."""
        if self._store is None:
            why = "nothing is kept by this server (responses_mb is 0)."
            for name, needed in (
                ("store", payload.store),
                ("background", payload.background),
                ("previous_response_id", payload.previous_response_id),
                ("conversation", payload.conversation_id),
            ):
                if needed:
                    raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
            return False
        if payload.background and self._background.full:
            raise TooManyRequests(
                f"'background': {MAX_RUNNING} responses run already; cancel some, or try again later.",
                retry_after=_BACKGROUND_RETRY_SECONDS,
                param="background",
            )
        return payload.store is not False

    def _require_store(self, request: Request) -> ResponseStore:
        if self._store is None:
            raise NotFound(f"The response {quoted(request.path_params['id'])} is not kept here: nothing is.")
        return self._store

    async def _input(self, request: Request, payload: ResponsesRequest) -> _Input:
        owner = caller_of(request.scope).owner
        earlier: list[Item] = []
        before = "previous_response_id" if payload.conversation_id is None else "conversation"
        if payload.previous_response_id is not None:
            assert self._store is not None, "it was looked at"
            earlier = await self._store.conversation(payload.previous_response_id, owner)
        elif payload.conversation_id is not None:
            assert self._store is not None, "it was looked at"
            earlier = await self._store.conversations.items(payload.conversation_id, owner)
        sent = payload.input
        if isinstance(sent, str):
            message: Item = {"role": "user", "content": [{"type": "input_text", "text": sent}]}
            items = [(message, "input")]
        else:
            items = [(item, f"input[{index}]") for index, item in enumerate(sent or [])]
        resolved = await self._resolved(items, earlier, owner)

        def make() -> _Input:
            all_items = [*((item, before) for item in earlier), *resolved]
            own = [with_type_and_id(item) for item, _ in resolved]
            return _Input(own, to_chat_messages(payload.instructions, all_items), tools_in_items(all_items))

        return await self._app.run_large(make, max(request.state.size, _ITEM_BYTES * (len(earlier) + len(resolved))))

    async def _resolved(self, items: list[tuple[Item, str]], earlier: list[Item], owner: str) -> list[tuple[Item, str]]:
        """The items, with references resolved."""
        references = [str(item.get("id")) for item, _ in items if item_type(item) == "item_reference"]
        if not references:
            return items
        found = {} if self._store is None else await self._store.outputs(references, owner)
        found |= {str(item["id"]): item for item in earlier}
        resolved: list[tuple[Item, str]] = []
        for item, path in items:
            if item_type(item) == "item_reference":
                identity = str(item.get("id"))
                if identity not in found:
                    raise InvalidRequest(
                        f"'{path}.id': the item {quoted(identity)} is not kept here.", param=f"{path}.id"
                    )
                item = found[identity]
            resolved.append((item, path))
        return resolved

    async def _start(
        self, request: Request, payload: ResponsesRequest, messages: ChatMessages, tools: Toolset, model: ServedModel
    ) -> Generation:
        """Begin. With ``truncation: "auto"`` a conversation that is too long loses its oldest turns, one, two, four
        and so on, until it fits.
        """
        removable = messages.turns - 1  #: turns that may go: the last stays
        cut, step = 0, 1
        while True:
            shortened = messages if cut == 0 else messages.without_oldest(cut)
            try:
                make = partial(prepare, payload, shortened, tools, model)
                wanted = await self._app.run_large(make, shortened.size)
                return await self._app.start_generation(request, model, wanted, in_background=bool(payload.background))
            except ContextLengthExceeded:
                if payload.truncation != "auto" or cut >= removable:
                    raise
            cut = min(removable, cut + step)
            step *= 2


def _store_nothing(response: dict[str, Any]) -> None:
    """The callback where storing is disabled."""
