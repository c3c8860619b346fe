"""OpenAI's routes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tailrace.server.decode import decode
from tailrace.server.dialects.openai import chat, completions
from tailrace.server.dialects.openai.reply import ReplyHead
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.respond import json_response
from tailrace.server.server import Server
from tailrace.server.transcript import transcribe


def routes(server: Server) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    openai = _OpenAI(server)
    return [
        Endpoint(
            "POST",
            "/chat/completions",
            openai.chat_completions,
            "Chat completion",
            body=chat.ChatRequest,
            statuses=GENERATION_ERRORS,
            streams="text/event-stream",
        ),
        Endpoint(
            "POST",
            "/completions",
            openai.completions,
            "Text completion",
            body=completions.CompletionRequest,
            statuses=GENERATION_ERRORS,
            streams="text/event-stream",
        ),
        Endpoint("GET", "/models", openai.models, "The served models"),
        Endpoint("GET", "/models/{id:path}", openai.model, "One served model", statuses=frozenset({401, 404})),
    ]


class _OpenAI:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._comments = server.settings.keepalive_style == "comment"

    async def chat_completions(self, request: Request) -> Response:
        server = self._server
        asked = decode(await server.body(request), chat.decoder)
        server.check_model(asked.model)
        model = await server.engine.ready()
        wanted = chat.prepare(asked, model, inline_reasoning=server.settings.reasoning == "inline")
        generation = await server.start(wanted)
        head = ReplyHead("chatcmpl", server.model_name)
        if asked.stream:
            return server.stream(
                generation,
                chat.ChatStream(head, wanted.choices, wants_usage=asked.wants_usage, comments=self._comments),
            )
        transcript = await transcribe(generation, wanted.choices, request.receive)
        return server.whole(transcript.complete, lambda: chat.completion(head, transcript))

    async def completions(self, request: Request) -> Response:
        server = self._server
        asked = decode(await server.body(request), completions.decoder)
        server.check_model(asked.model)
        wanted = completions.prepare(asked)
        generation = await server.start(wanted)
        head = ReplyHead("cmpl", server.model_name)
        choices = len(wanted.prompts) * wanted.choices
        if asked.stream:
            return server.stream(
                generation,
                completions.CompletionStream(head, choices, wants_usage=asked.wants_usage, comments=self._comments),
            )
        transcript = await transcribe(generation, choices, request.receive)
        return server.whole(transcript.complete, lambda: completions.completion(head, transcript))

    async def models(self, request: Request) -> Response:
        """Answers whatever the engine is doing."""
        return json_response({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        self._server.check_model(request.path_params["id"])
        return json_response(self._model_object())

    def _model_object(self) -> dict[str, object]:
        server = self._server
        return {"id": server.model_name, "object": "model", "created": server.created, "owned_by": "tailrace"}
