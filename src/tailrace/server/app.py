"""The ASGI app: which route is answered by whom. The only module that knows the dialects."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from tailrace.errors import ModelNotFound
from tailrace.observe.metrics import CONTENT_TYPE, Metrics
from tailrace.server.client import EngineClient
from tailrace.server.decode import decode
from tailrace.server.dialects import openai_chat, openai_completions
from tailrace.server.dialects.openai_reply import ReplyHead
from tailrace.server.generate import Generation, GenerationRequest
from tailrace.server.guard import Guard, read_body
from tailrace.server.openapi import document
from tailrace.server.respond import json_response
from tailrace.server.streaming import Encoder, EventStream
from tailrace.server.transcript import transcribe
from tailrace.settings import Settings


class Server:
    """The process's one of each: settings, engine client, metrics."""

    def __init__(self, settings: Settings, model_name: str, replicas: int = 1) -> None:
        self.settings = settings
        self.model_name = model_name
        self.replicas = replicas
        self.created = int(time.time())
        self.engine = EngineClient(
            wait_seconds=settings.engine_wait_seconds,
            stall_seconds=settings.engine_stall_seconds,
            silence_seconds=settings.keepalive_seconds,
        )
        self.metrics = Metrics(model_name, self.engine)

    async def chat_completions(self, request: Request) -> Response:
        """``POST /v1/chat/completions``"""
        asked = decode(await self._body(request), openai_chat.decoder)
        self._check_model(asked.model)
        model = await self.engine.ready()
        wanted = openai_chat.prepare(asked, model.template, inline_reasoning=self.settings.reasoning == "inline")
        generation = await self._start(wanted)
        head = ReplyHead("chatcmpl", self.model_name)
        if asked.stream:
            return self._stream(
                generation,
                openai_chat.ChatStream(head, wanted.choices, wants_usage=asked.wants_usage, comments=self._comments),
            )
        transcript = await transcribe(generation, wanted.choices, request.receive)
        return self._whole(transcript.complete, lambda: openai_chat.completion(head, transcript))

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``"""
        asked = decode(await self._body(request), openai_completions.decoder)
        self._check_model(asked.model)
        wanted = openai_completions.prepare(asked)
        generation = await self._start(wanted)
        head = ReplyHead("cmpl", self.model_name)
        choices = len(wanted.prompts) * wanted.choices
        if asked.stream:
            return self._stream(
                generation,
                openai_completions.CompletionStream(
                    head, choices, wants_usage=asked.wants_usage, comments=self._comments
                ),
            )
        transcript = await transcribe(generation, choices, request.receive)
        return self._whole(transcript.complete, lambda: openai_completions.completion(head, transcript))

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``: answers whatever the engine is doing."""
        return json_response({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{id}``"""
        self._check_model(request.path_params["id"])
        return json_response(self._model_object())

    async def root(self, request: Request) -> Response:
        """``GET /``"""
        return json_response({"name": "tailrace", **self._status()})

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 while an engine's loop makes progress, else 503."""
        status = self._status()
        return json_response(status, 200 if status["status"] == "ok" else 503)

    async def metrics_text(self, request: Request) -> Response:
        """``GET /metrics``"""
        return Response(self.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """``GET /openapi.json``"""
        return json_response(document(openai_chat.ChatRequest, openai_completions.CompletionRequest))

    @property
    def _comments(self) -> bool:
        return self.settings.keepalive_style == "comment"

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self.settings.max_body_mb * 1_000_000)

    async def _start(self, wanted: GenerationRequest) -> Generation:
        return await Generation.start(self.engine, self.metrics, wanted)

    def _stream(self, generation: Generation, encoder: Encoder) -> EventStream:
        settings = self.settings
        return EventStream(
            generation, encoder, keepalive_seconds=settings.keepalive_seconds, bound=settings.slow_reader_tokens
        )

    def _whole(self, complete: bool, body: Callable[[], object]) -> Response:
        if not complete:
            raise ClientDisconnect  # Nobody is there to read a response.
        return json_response(body())

    def _status(self) -> dict[str, object]:
        """What is told without a key: where one is asked for, the model's name isn't part of it."""
        model = {} if self.settings.api_key else {"model": self.model_name}
        status: dict[str, object] = {"status": self.engine.state, **model}
        if self.replicas > 1:
            status |= {"replicas": self.replicas, "replicas_ready": self.engine.replicas_ready}
        return status

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.model_name:
            shown = name if len(name) <= 200 else f"{name[:200]}…"
            raise ModelNotFound(
                f"The model '{shown}' does not exist here; this server serves '{self.model_name}'.", param="model"
            )

    def _model_object(self) -> dict[str, object]:
        return {"id": self.model_name, "object": "model", "created": self.created, "owned_by": "tailrace"}


Handler = Callable[[Request], Awaitable[Response]]


def make_app(server: Server) -> ASGIApp:
    """The app around ``server``. Paths stand here without ``/v1``: the guard takes it off."""
    table: list[tuple[str, str, Handler]] = [
        ("/", "GET", server.root),
        ("/health", "GET", server.health),
        ("/metrics", "GET", server.metrics_text),
        ("/openapi.json", "GET", server.openapi),
        ("/models", "GET", server.models),
        ("/models/{id:path}", "GET", server.model),
        ("/chat/completions", "POST", server.chat_completions),
        ("/completions", "POST", server.completions),
    ]
    router = Router([Route(path, handler, methods=[method]) for path, method, handler in table], redirect_slashes=False)
    return Guard(router, server.settings, frozenset(path for path, _, _ in table), server.metrics.responded)
