"""Ollama's routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.server import ndjson
from tailrace.server.app_state import AppState
from tailrace.server.collected_reply import collect_reply
from tailrace.server.dialects.ollama import chat, generate, model_names, shared_fields
from tailrace.server.dialects.ollama.derived_model_request import CopyRequest, CreateRequest
from tailrace.server.dialects.ollama.embed_routes import EmbeddingsRequest, EmbedRequest, EmbedRoutes
from tailrace.server.dialects.ollama.keep_alive import seconds_of
from tailrace.server.dialects.ollama.model_routes import DeleteRequest, ModelRoutes, ShowRequest
from tailrace.server.dialects.ollama.options import TRUNCATED, with_defaults
from tailrace.server.dialects.ollama.prompt_truncation import PromptTruncator, TruncationPoints
from tailrace.server.dialects.ollama.pull_route import PullRequest, PullRoute
from tailrace.server.dialects.ollama.reply import ERRORS, ReplyHead, ReplyShape, ReplyStream, Stopwatch, reply_object
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint, Handler
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.json_response import json_response
from tailrace.server.served_model import ServedModel
from tailrace.server.waiting_stream import EncoderOpening, opens_with

Fields = TypeVar("Fields", bound=shared_fields.SharedFields)

#: A prompt that is no conversation has no points form.
_AS_IT_IS = TruncationPoints()
_ABOUT_MODELS = frozenset({400, 401, 404, 413, 415})
_STORE_ERRORS = _ABOUT_MODELS | {403}
_UNSUPPORTED = ("/api/push", "/api/blobs/{digest}")


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    replies, vectors, models = _Replies(app), EmbedRoutes(app), ModelRoutes(app)

    def get(path: str, handler: Handler, summary: str) -> Endpoint:
        return Endpoint("GET", path, handler, summary, errors=ERRORS, shown=path)

    def unsupported(method: Any, path: str) -> Endpoint:
        statuses = frozenset({401, 501})
        return Endpoint(
            method, path, models.unsupported, "Not supported", statuses=statuses, errors=ERRORS, hidden=True
        )

    def post(path: str, handler: Handler, summary: str, body: type, **more: Any) -> Endpoint:
        return Endpoint("POST", path, handler, summary, body, errors=ERRORS, shown=path, **more)

    streaming: dict[str, Any] = {"statuses": GENERATION_ERRORS, "streams": ndjson.MEDIA_TYPE}
    reading: dict[str, Any] = {"statuses": GENERATION_ERRORS}
    pulling: dict[str, Any] = {
        "statuses": _STORE_ERRORS | {429, 502},
        "streams": ndjson.MEDIA_TYPE,
        "fetches": True,
    }
    return [
        post("/api/chat", replies.chat, "Ollama's chat", chat.ChatRequest, **streaming),
        post("/api/generate", replies.generate, "Ollama's generation", generate.GenerateRequest, **streaming),
        post("/api/embed", vectors.embed, "Ollama's embeddings", EmbedRequest, **reading),
        post("/api/embeddings", vectors.embeddings, "Ollama's older embeddings", EmbeddingsRequest, **reading),
        get("/api/tags", models.tags, "The models"),
        get("/api/ps", models.running, "The loaded model"),
        get("/api/version", models.version, "The version of Ollama's API that is spoken"),
        post("/api/show", models.show, "What a model's file says", ShowRequest, statuses=_ABOUT_MODELS),
        post(
            "/api/create",
            models.create,
            "Make a model of another one",
            CreateRequest,
            statuses=_STORE_ERRORS,
            streams=ndjson.MEDIA_TYPE,
        ),
        post("/api/copy", models.copy, "Give a model another name", CopyRequest, statuses=_STORE_ERRORS),
        post("/api/pull", PullRoute(app).pull, "Fetch a model into the store", PullRequest, **pulling),
        Endpoint(
            "DELETE",
            "/api/delete",
            models.delete,
            "Delete a model from the store",
            DeleteRequest,
            statuses=_STORE_ERRORS,
            errors=ERRORS,
            shown="/api/delete",
        ),
        *(unsupported("POST", path) for path in _UNSUPPORTED),
        unsupported("HEAD", "/api/blobs/{digest}"),
    ]


class _Replies:
    def __init__(self, app: AppState) -> None:
        self._app = app
        self._inline = app.settings.reasoning == "inline"

    async def _open(
        self, request: Request, decoder: msgspec.json.Decoder[Fields], form: ReplyShape, check: Callable[[Fields], None]
    ) -> tuple[ReplyHead, Fields, ServedModel | None]:
        """The head of the reply, the request with its model's defaults, and the loaded model; None where the request
        only has it loaded or unloaded. ``check`` raises for what is wrong whatever the model is. Raises RequestError.
        """
        watch = Stopwatch()
        app = self._app
        payload = await app.read(request, decoder, truncated=TRUNCATED)
        name = model_names.check(app, payload.model)
        check(payload)
        head = ReplyHead(name, watch, form)
        kept = seconds_of(payload.keep_alive)
        service = app.models.resolve(payload.model or None).service
        if payload.is_empty and kept == 0:
            app.gate.unload(service)
            return head, payload, None
        if payload.streams:
            opens_with(request, lambda: EncoderOpening(ReplyStream(head), starts=False), ndjson.HEADERS)
        model = await app.model_for(request, payload.model or None, payload)
        if model.overrides is not None:
            payload.options = with_defaults(payload.options, model.overrides.parameters)
        if kept is not None:
            app.gate.keep_alive(service, kept)
        watch.loaded()
        return head, payload, None if payload.is_empty else model

    async def chat(self, request: Request) -> Response:
        head, payload, model = await self._open(request, chat.decoder, chat.SHAPE, chat.check_fields)
        if model is None or payload.messages is None:
            return _only_loaded(head, payload)

        def make(start: int) -> GenerationRequest:
            return chat.prepare(payload, model, inline_reasoning=self._inline, start=start)

        points = TruncationPoints(chat.truncation_starts(payload.messages), chat.remaining_chars(payload.messages))
        return await self._reply(
            request, head, payload, model, await self._truncated(request, payload, make, model, points)
        )

    async def generate(self, request: Request) -> Response:
        head, payload, model = await self._open(request, generate.decoder, generate.SHAPE, generate.check_fields)
        if model is None:
            return _only_loaded(head, payload)
        generate.check_context(payload, len(model.vocabulary))
        make = partial(generate.prepare, payload, model, inline_reasoning=self._inline)
        generation_request = await self._app.run_large(make, request.state.size)
        if generation_request.params.suffix is not None:
            return await self._reply(request, head, payload, model, generation_request)
        head.includes_context = not payload.raw
        truncated = await self._truncated(
            request, payload, lambda _: generation_request, model, before=payload.context or ()
        )
        return await self._reply(request, head, payload, model, truncated)

    async def _truncated(
        self,
        request: Request,
        payload: shared_fields.SharedFields,
        make: Callable[[int], GenerationRequest],
        model: ServedModel,
        points: TruncationPoints = _AS_IT_IS,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        return await PromptTruncator(self._app, request, model).truncate(
            make,
            points,
            truncates=payload.truncate is not False,
            shifts=payload.shift is not False,
            keep=payload.options.num_keep if payload.options is not None else None,
            before=before,
        )

    async def _reply(
        self,
        request: Request,
        head: ReplyHead,
        payload: shared_fields.SharedFields,
        model: ServedModel,
        generation_request: GenerationRequest,
    ) -> Response:
        app = self._app
        generation = await app.start_generation(request, model, generation_request)
        head.follow(generation)
        if payload.streams:
            return app.stream_response(generation, ReplyStream(head), ndjson.HEADERS)
        transcript = await collect_reply(generation, 1, request.receive)
        return await app.full_response(transcript, lambda: reply_object(head, transcript))


def _only_loaded(head: ReplyHead, payload: shared_fields.SharedFields) -> Response:
    """Ollama's reply to a request without a prompt, which loads the model, or unloads it with ``keep_alive`` 0."""
    reason = "unload" if seconds_of(payload.keep_alive) == 0 else "load"
    body = head.last(reason, head.watch.zero_counts())
    if payload.streams:
        return Response(ndjson.line(body), media_type=ndjson.MEDIA_TYPE)
    return json_response(body)
