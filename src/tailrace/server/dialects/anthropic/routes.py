"""Anthropic's routes."""

from __future__ import annotations

import math
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.protocol import Tokenize, Tokenized
from tailrace.server import sse
from tailrace.server.app_state import AppState
from tailrace.server.collected_reply import collect_reply
from tailrace.server.dialects.anthropic import models, reply
from tailrace.server.dialects.anthropic.errors import ERRORS, REQUEST_ID
from tailrace.server.dialects.anthropic.prepare import check_fields, hides_reasoning, prepare, prompt_text
from tailrace.server.dialects.anthropic.request import CountRequest, MessagesRequest
from tailrace.server.dialects.anthropic.stream import MessageStream
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.request_id import request_id
from tailrace.server.waiting_stream import EncoderOpening, Opening, opens_with

#: Clients of Anthropic's API send this header, others don't.
VERSION = "anthropic-version"

_messages_decoder = msgspec.json.Decoder(MessagesRequest)
_count_decoder = msgspec.json.Decoder(CountRequest)


def routes(app: AppState) -> list[Endpoint]:
    """The routes. The path of the model list is OpenAI's, too; the version header tells them apart."""
    anthropic = _Anthropic(app)
    return [
        Endpoint(
            "POST",
            "/messages",
            anthropic.messages,
            "Message (Anthropic's dialect)",
            body=MessagesRequest,
            statuses=GENERATION_ERRORS,
            streams="text/event-stream",
            errors=ERRORS,
        ),
        Endpoint(
            "POST",
            "/messages/count_tokens",
            anthropic.count_tokens,
            "A message's prompt in tokens (Anthropic's dialect)",
            body=CountRequest,
            statuses=GENERATION_ERRORS,
            errors=ERRORS,
        ),
        Endpoint("GET", "/models", anthropic.models, "", errors=ERRORS, header=VERSION, hidden=True),
        Endpoint("GET", "/models/{id:path}", anthropic.model, "", errors=ERRORS, header=VERSION, hidden=True),
    ]


class _Anthropic:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def messages(self, request: Request) -> Response:
        app = self._app
        identity = request_id(request.scope)
        payload = await app.read(request, _messages_decoder)
        head = reply.MessageHead(app.models.resolve(payload.model).service.name)
        hides = hides_reasoning(payload)
        headers = [*sse.HEADERS, (REQUEST_ID.encode(), identity.encode())]

        def opening() -> Opening:
            check_fields(payload)
            # The message's start has the prompt's tokens, so it waits for them; a ping may come before it.
            return EncoderOpening(MessageStream(head, identity, 0, hides_reasoning=hides), starts=False)

        # A request that isn't streamed is checked before it waits, too.
        opens_with(request, opening, headers, keepalive_seconds=None if payload.stream else math.inf)
        model = await app.model_for(request, payload.model, payload)
        generation_request = await app.run_large(partial(prepare, payload, model), request.state.size)
        generation = await app.start_generation(request, model, generation_request)
        if payload.stream:
            encoder = MessageStream(head, identity, generation.prompt_tokens, hides_reasoning=hides)
            return app.stream_response(generation, encoder, headers)
        transcript = await collect_reply(generation, 1, request.receive)
        response = await app.full_response(
            transcript,
            lambda: reply.message_object(head, transcript, hides_reasoning=hides, split_usage=payload.marks_cache),
        )
        response.headers[REQUEST_ID] = identity
        return response

    async def count_tokens(self, request: Request) -> Response:
        """The same prompt as a message's, counted by the engine as it would read it."""
        app = self._app
        payload = await app.read(request, _count_decoder)
        model = await app.model_for(request, payload.model, payload)
        prompt = await app.run_large(partial(prompt_text, payload, model), request.state.size)
        (tokenized,) = await app.queries.ask(
            request,
            model,
            lambda identity: Tokenize(id=identity, text=prompt),
            param="messages",
        )
        assert isinstance(tokenized, Tokenized)
        return self._respond(request, {"input_tokens": len(tokenized.tokens)})

    async def models(self, request: Request) -> Response:
        """Answers in any state of the engine."""
        app = self._app
        return self._respond(request, models.model_list([name for name, _ in app.models.listed], app.created))

    async def model(self, request: Request) -> Response:
        name = self._app.models.listed_name(request.path_params["id"])
        return self._respond(request, models.model_object(name, self._app.created))

    def _respond(self, request: Request, body: object) -> Response:
        return json_response(body, headers={REQUEST_ID: request_id(request.scope)})
