"""Ollama's embeddings: ``POST /api/embed``, and the older ``POST /api/embeddings`` for one text."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import Embed, Embedded, Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama import model_names, options
from tailrace.server.dialects.ollama.keep_alive import seconds_of
from tailrace.server.dialects.ollama.options import Options
from tailrace.server.dialects.ollama.reply import Stopwatch
from tailrace.server.embedding_vector import vector_of
from tailrace.server.json_response import json_response
from tailrace.server.served_model import ServedModel

#: As in OpenAI's dialect.
_MAX_INPUTS = 2048


class EmbedRequest(msgspec.Struct):
    """The body of ``/api/embed``. A request without an input only loads the model."""

    model: str | None = None
    input: str | Annotated[list[str], Meta(max_length=_MAX_INPUTS)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    keep_alive: float | str | None = None
    options: Options | None = None


class EmbeddingsRequest(msgspec.Struct):
    """The body of ``/api/embeddings``."""

    model: str | None = None
    prompt: str | None = None
    keep_alive: float | str | None = None
    options: Options | None = None


_embed = msgspec.json.Decoder(EmbedRequest)
_embeddings = msgspec.json.Decoder(EmbeddingsRequest)


class EmbedRoutes:
    """The handlers."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    async def embed(self, request: Request) -> Response:
        """The vectors of several texts, and the durations."""
        watch = Stopwatch()
        payload = await self._app.read(request, _embed, truncated=options.TRUNCATED)
        name, model = await self._ready(request, payload)
        watch.loaded()
        texts = [payload.input] if isinstance(payload.input, str) and payload.input else payload.input or []
        answers = await self._vectors(
            request, model, list(texts), payload.truncate is not False, payload.dimensions, "input"
        )
        body: dict[str, Any] = {"model": name, "embeddings": [vector for vector, _ in answers]}
        return json_response(body | watch.reading(sum(tokens for _, tokens in answers)))

    async def embeddings(self, request: Request) -> Response:
        """One text's vector."""
        payload = await self._app.read(request, _embeddings, truncated=options.TRUNCATED)
        _, model = await self._ready(request, payload)
        texts = [payload.prompt] if payload.prompt else []
        answers = await self._vectors(request, model, texts, True, None, "prompt")
        return json_response({"embedding": answers[0][0] if answers else []})

    async def _ready(self, request: Request, payload: EmbedRequest | EmbeddingsRequest) -> tuple[str, ServedModel]:
        """The name to repeat, and the model once it is there. Raises RequestError."""
        name = model_names.check(self._app, payload.model)
        kept = seconds_of(payload.keep_alive)
        options.refuse_unsupported(payload.options or Options())
        model = await self._app.loaded_model(request, payload.model or None)
        if kept is not None:
            self._app.gate.keep_alive(self._app.models.service(model.name), kept)
        return name, model

    async def _vectors(
        self,
        request: Request,
        model: ServedModel,
        texts: list[str],
        truncate: bool,
        dimensions: int | None,
        param: str,
    ) -> list[tuple[list[float], int]]:
        """Each text's vector and how many tokens it was read as. Raises InvalidRequest, naming ``param``."""
        if not texts:
            return []
        info = model.info
        if dimensions is not None and dimensions > info.embedding_width > 0:
            raise InvalidRequest(
                f"'dimensions' must be at most {info.embedding_width}, this model's own.", param="dimensions"
            )
        try:
            answers = await self._embedded(request, model, [*texts], param)
        except ContextLengthExceeded:
            if not truncate:
                raise
            cut = await self._cut(request, model, texts, param)
            answers = await self._embedded(request, model, cut, param)
        return [
            (vector_of(answer, dimensions).tolist(), answer.tokens)
            for answer in sorted(answers, key=lambda answer: answer.index)
        ]

    async def _embedded(
        self, request: Request, model: ServedModel, inputs: list[str | list[int]], param: str
    ) -> list[Embedded]:
        answers = await self._app.queries.ask(
            request, model, lambda identity: Embed(id=identity, inputs=inputs), len(inputs), param=param
        )
        return [answer for answer in answers if isinstance(answer, Embedded)]

    async def _cut(self, request: Request, model: ServedModel, texts: list[str], param: str) -> list[str | list[int]]:
        """The texts' first tokens, as many as fit."""
        cut: list[str | list[int]] = []
        for text in texts:

            def make(identity: int, text: str = text) -> Tokenize:
                return Tokenize(id=identity, text=PromptText(text), parse_special=False, add_special=True)

            (tokenized,) = await self._app.queries.ask(request, model, make, param=param)
            assert isinstance(tokenized, Tokenized), "Tokenize is answered with Tokenized"
            cut.append(tokenized.tokens[: model.info.context])
        return cut
