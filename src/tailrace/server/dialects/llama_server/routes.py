"""llama-server's routes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import EngineUnavailable, InvalidRequest, NotSupported
from tailrace.protocol import Embed, Embedded
from tailrace.server.app_state import AppState
from tailrace.server.collected_reply import collect_reply
from tailrace.server.dialects.llama_server import embeddings, model_routes, request_fields
from tailrace.server.dialects.llama_server.errors import ERRORS
from tailrace.server.dialects.llama_server.piecewise_prompt import PieceTokenizer
from tailrace.server.dialects.llama_server.prepare import check_fields, limit_of, prepare
from tailrace.server.dialects.llama_server.prompt import infill_prompt, prompts_of
from tailrace.server.dialects.llama_server.props import props, slots
from tailrace.server.dialects.llama_server.reply import NativeStream, ReplyBuilder, error_event, reply_body
from tailrace.server.dialects.llama_server.request_fields import AdapterScale, NativeFields
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.served_model import ServedModel
from tailrace.server.waiting_stream import CommentOpening, Opening, opens_with

_STREAM = "text/event-stream"
#: One reply, or a list of several.
_ONE_OR_SEVERAL: Any = dict[str, Any] | list[dict[str, Any]]
_adapters = msgspec.json.Decoder(list[AdapterScale])


class SlotsQuery(msgspec.Struct):
    """The query parameters of ``/slots``."""

    fail_on_no_slot: str | None = None


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    native = _LlamaServer(app)
    unsupported = {
        "/props": "changing properties while the server runs",
        "/slots/{id}": "saving, restoring and erasing slots: prefixes are found again by themselves",
    }
    return [
        Endpoint(
            "POST",
            "/completion",
            native.completion,
            "llama-server's completion",
            body=request_fields.CompletionRequest,
            statuses=GENERATION_ERRORS,
            replies={200: _ONE_OR_SEVERAL},
            streams=_STREAM,
            errors=ERRORS,
            shown="/completion",
        ),
        Endpoint(
            "POST",
            "/infill",
            native.infill,
            "What belongs into a gap of a file, for models with tokens for it",
            body=request_fields.InfillRequest,
            statuses=GENERATION_ERRORS | {501},
            replies={200: _ONE_OR_SEVERAL},
            streams=_STREAM,
            errors=ERRORS,
            shown="/infill",
        ),
        Endpoint(
            "POST",
            "/embedding",
            native.embedding,
            "llama-server's embeddings of texts",
            body=embeddings.NativeEmbeddingRequest,
            statuses=GENERATION_ERRORS,
            errors=ERRORS,
            replies={200: list[dict[str, Any]]},
            shown="/embedding",
        ),
        Endpoint(
            "GET",
            "/props",
            native.props,
            "The server's properties, as llama-server reports them",
            statuses=frozenset({401, 503}),
            errors=ERRORS,
            shown="/props",
        ),
        Endpoint(
            "GET",
            "/slots",
            native.slots,
            "Which of the places for running requests are taken",
            query=SlotsQuery,
            statuses=frozenset({401, 503}),
            replies={200: list[dict[str, Any]]},
            errors=ERRORS,
            shown="/slots",
        ),
        Endpoint(
            "GET",
            "/lora-adapters",
            native.adapters,
            "The LoRA adapters: none",
            errors=ERRORS,
            replies={200: list[dict[str, Any]]},
            shown="/lora-adapters",
        ),
        Endpoint("POST", "/lora-adapters", native.set_adapters, "Scales", errors=ERRORS, hidden=True),
        *(
            Endpoint("POST", path, _refusing(what), what, errors=ERRORS, hidden=True)
            for path, what in unsupported.items()
        ),
        *model_routes.routes(app),
    ]


def _refusing(what: str) -> Any:
    async def refuse(request: Request) -> Response:
        raise NotSupported(f"This server does not support {what}.")

    return refuse


def _keepalive_seconds(payload: NativeFields) -> float | None:
    """Seconds of it before a stream's comment; None leaves it to the server."""
    interval = payload.sse_ping_interval
    return None if not interval else math.inf if interval < 0 else interval


class _LlamaServer:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def completion(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, request_fields.completion_decoder)
        self._opens_stream(request, payload)
        model = await app.model_for(request, app.models.routed(payload.model), payload)
        tokens = PieceTokenizer(app, request, model)
        prompts = await prompts_of(payload.prompt, tokens, "prompt")
        return await self._reply(request, payload, prompts, model, tokens, "prompt")

    async def infill(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, request_fields.infill_decoder)
        self._opens_stream(request, payload)
        model = await app.model_for(request, app.models.routed(payload.model), payload)
        tokens = PieceTokenizer(app, request, model)
        prompt = await infill_prompt(payload, model.info, tokens, limit_of(payload))
        return await self._reply(request, payload, [prompt], model, tokens, "input_prefix")

    def _opens_stream(self, request: Request, payload: NativeFields) -> None:
        """Check the request before it waits for its model, and open the stream meanwhile, where it is streamed."""

        def opening() -> Opening:
            check_fields(payload)
            return CommentOpening(error_event)

        seconds = _keepalive_seconds(payload) if payload.stream else math.inf
        opens_with(request, opening, keepalive_seconds=seconds)

    async def _reply(
        self,
        request: Request,
        payload: NativeFields,
        prompts: list[str | list[int]],
        model: ServedModel,
        tokens: PieceTokenizer,
        prompt_param: str,
    ) -> Response:
        app = self._app
        generation_request = await prepare(payload, prompts, model, tokens, prompt_param=prompt_param)
        generation = await app.start_generation(request, model, generation_request)
        reporter = ReplyBuilder(payload, generation_request, generation, model, model.name)
        if payload.stream:
            return app.stream_response(
                generation,
                NativeStream(reporter),
                keepalive_seconds=_keepalive_seconds(payload),
            )
        transcript = await collect_reply(generation, len(prompts) * generation_request.choices, request.receive)
        return await app.full_response(
            transcript, lambda: reply_body(reporter, transcript, tokens=bool(payload.return_tokens))
        )

    async def embedding(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, embeddings.decoder)
        given, param = embeddings.texts_of(payload)
        model = await app.loaded_model(request, app.models.routed(payload.model))
        texts = await prompts_of(given, PieceTokenizer(app, request, model), param)
        embeddings.check(texts, param)
        answers = await app.queries.ask(
            request, model, lambda identity: Embed(id=identity, inputs=texts), len(texts), param=param
        )
        return json_response(embeddings.embedded([answer for answer in answers if isinstance(answer, Embedded)]))

    async def props(self, request: Request) -> Response:
        """Of a model that was loaded before, without loading it again."""
        name = self._app.models.routed(request.query_params.get("model"))
        service = self._app.models.resolve(name).service
        model = service.engine.model or await self._app.loaded_model(request, name)
        return json_response(props(service, model))

    async def slots(self, request: Request) -> Response:
        """A model that isn't loaded has none, where models are loaded on demand. A look at them is no use of it."""
        app = self._app
        name = app.models.routed(request.query_params.get("model"))
        service = app.models.resolve(name).service
        if app.loads_on_demand:
            model = service.engine.model if service.is_loaded else None
        else:
            model = await app.loaded_model(request, name)
        found = [] if model is None else slots(service, model)
        if request.query_params.get("fail_on_no_slot") and all(slot["is_processing"] for slot in found):
            raise EngineUnavailable("No slot is available: all are processing.")
        return json_response(found)

    async def adapters(self, request: Request) -> Response:
        return json_response([])

    async def set_adapters(self, request: Request) -> Response:
        if await self._app.read(request, _adapters):
            raise InvalidRequest("No LoRA adapter is loaded, so none can be scaled.")
        return json_response({"success": True})
