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
from tailrace.server.dialects.ollama import chat, fields, generate, names
from tailrace.server.dialects.ollama.create import CopyRequest, CreateRequest
from tailrace.server.dialects.ollama.embed import Embeddings, EmbeddingsRequest, EmbedRequest
from tailrace.server.dialects.ollama.fit import Fitting, Shorter
from tailrace.server.dialects.ollama.manage import DeleteRequest, Management, PullRequest, ShowRequest
from tailrace.server.dialects.ollama.options import TRUNCATED, with_defaults
from tailrace.server.dialects.ollama.reply import ERRORS, Form, ReplyHead, ReplyStream, Stopwatch, whole
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint, Handler
from tailrace.server.generation import GenerationRequest
from tailrace.server.json_body import decode
from tailrace.server.json_response import json_response
from tailrace.server.served_model import ServedModel

Fields = TypeVar("Fields", bound=fields.SharedFields)

#: A prompt that is no conversation has no shorter form.
_AS_IT_IS = Shorter()
_ABOUT_MODELS = frozenset({400, 401, 404, 413, 415})
_STORE_ERRORS = _ABOUT_MODELS | {403}
_UNSUPPORTED = ("/api/push", "/api/blobs/{digest}")


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    replies, vectors, models = _Replies(app), Embeddings(app), Management(app)

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
    pulling: dict[str, Any] = {"statuses": _STORE_ERRORS | {502}, "streams": ndjson.MEDIA_TYPE}
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
        post("/api/pull", models.pull, "Fetch a model into the store", PullRequest, **pulling),
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
        self, request: Request, decoder: msgspec.json.Decoder[Fields], form: Form
    ) -> tuple[ReplyHead, Fields, ServedModel]:
        """The head of the reply, the request with its model's defaults, and the loaded model. Raises RequestError."""
        watch = Stopwatch()
        app = self._app
        asked = decode(await app.read_body(request), decoder, truncated=TRUNCATED)
        name = names.check(app, asked.model)
        fields.check(asked)
        model = await app.model_for(asked.model or None, asked)
        if (entry := app.derived_model(asked.model)) is not None:
            asked.options = with_defaults(asked.options, entry.parameters)
        watch.loaded()
        return ReplyHead(name, watch, form), asked, model

    async def chat(self, request: Request) -> Response:
        head, asked, model = await self._open(request, chat.decoder, chat.FORM)
        if not asked.messages:
            return _only_loaded(head, asked)

        def make(start: int) -> GenerationRequest:
            return chat.prepare(asked, model, inline_reasoning=self._inline, start=start)

        shorter = Shorter(chat.starts(asked.messages), chat.rest(asked.messages))
        return await self._reply(request, head, asked, await self._fitted(request, asked, make, model, shorter))

    async def generate(self, request: Request) -> Response:
        head, asked, model = await self._open(request, generate.decoder, generate.FORM)
        if not asked.prompt and not asked.suffix and not asked.images:
            return _only_loaded(head, asked)
        generate.check_context(asked, len(model.vocabulary))
        make = partial(generate.prepare, asked, model, inline_reasoning=self._inline)
        wanted = await self._app.run_large(make, request.state.size)
        if wanted.params.suffix is not None:
            return await self._reply(request, head, asked, wanted)
        head.remembers = not asked.raw
        fitted = await self._fitted(request, asked, lambda _: wanted, model, before=asked.context or ())
        return await self._reply(request, head, asked, fitted)

    async def _fitted(
        self,
        request: Request,
        asked: fields.SharedFields,
        make: Callable[[int], GenerationRequest],
        model: ServedModel,
        shorter: Shorter = _AS_IT_IS,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        return await Fitting(self._app, request, model).fitted(
            make,
            shorter,
            truncates=asked.truncate is not False,
            shifts=asked.shift is not False,
            keep=asked.options.num_keep if asked.options is not None else None,
            before=before,
        )

    async def _reply(
        self, request: Request, head: ReplyHead, asked: fields.SharedFields, wanted: GenerationRequest
    ) -> Response:
        app = self._app
        generation = await app.start_generation(request, wanted)
        head.follow(generation)
        if asked.streams:
            return app.stream_response(generation, ReplyStream(head), ndjson.HEADERS)
        transcript = await collect_reply(generation, 1, request.receive)
        return app.full_response(transcript.complete, lambda: whole(head, transcript))


def _only_loaded(head: ReplyHead, asked: fields.SharedFields) -> Response:
    """What Ollama says to a request without a prompt: it loads the model, or with ``keep_alive`` 0 unloads it. Here the
    model was loaded and stays so.
    """
    reason = "unload" if fields.unloads(asked.keep_alive) else "load"
    body = head.last(reason, head.watch.nothing())
    if asked.streams:
        return Response(ndjson.line(body), media_type=ndjson.MEDIA_TYPE)
    return json_response(body)
