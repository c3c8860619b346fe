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
from tailrace.server.dialects.ollama import fields, names, options
from tailrace.server.dialects.ollama.options import Options
from tailrace.server.dialects.ollama.reply import Stopwatch
from tailrace.server.embedding_vector import vector_of
from tailrace.server.json_body import decode
from tailrace.server.json_response import json_response

#: As in OpenAI's dialect.
_MOST_INPUTS = 2048


class EmbedRequest(msgspec.Struct):
    """The body of ``/api/embed``. Without an input it only asks for the model to be loaded."""

    model: str | None = None
    input: str | Annotated[list[str], Meta(max_length=_MOST_INPUTS)] | None = None
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


class Embeddings:
    """The handlers."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    async def embed(self, request: Request) -> Response:
        """Vectors of several texts, and what that took."""
        watch = Stopwatch()
        asked = decode(await self._app.read_body(request), _embed, truncated=options.TRUNCATED)
        name = await self._ready(asked)
        watch.loaded()
        texts = [asked.input] if isinstance(asked.input, str) and asked.input else asked.input or []
        told = await self._vectors(request, list(texts), asked.truncate is not False, asked.dimensions, "input")
        body: dict[str, Any] = {"model": name, "embeddings": [vector for vector, _ in told]}
        return json_response(body | watch.reading(sum(tokens for _, tokens in told)))

    async def embeddings(self, request: Request) -> Response:
        """One text's vector."""
        asked = decode(await self._app.read_body(request), _embeddings, truncated=options.TRUNCATED)
        await self._ready(asked)
        texts = [asked.prompt] if asked.prompt else []
        told = await self._vectors(request, texts, True, None, "prompt")
        return json_response({"embedding": told[0][0] if told else []})

    async def _ready(self, asked: EmbedRequest | EmbeddingsRequest) -> str:
        """The name to repeat, once the model is there. Raises RequestError."""
        name = names.check(self._app, asked.model)
        fields.unloads(asked.keep_alive)
        options.refuse_unsupported(asked.options or Options())
        await self._app.engine.ready()
        return name

    async def _vectors(
        self, request: Request, texts: list[str], truncate: bool, dimensions: int | None, param: str
    ) -> list[tuple[list[float], int]]:
        """Each text's vector and how many tokens it was read as. Raises InvalidRequest, naming ``param``."""
        if not texts:
            return []
        info = (await self._app.engine.ready()).info
        if dimensions is not None and dimensions > info.embedding_width > 0:
            raise InvalidRequest(
                f"'dimensions' must be at most {info.embedding_width}, this model's own.", param="dimensions"
            )
        try:
            told = await self._embedded(request, [*texts], param)
        except ContextLengthExceeded:
            if not truncate:
                raise
            told = await self._embedded(request, await self._cut(request, texts, info.context, param), param)
        return [
            (vector_of(answer, dimensions).tolist(), answer.tokens)
            for answer in sorted(told, key=lambda answer: answer.index)
        ]

    async def _embedded(self, request: Request, inputs: list[str | list[int]], param: str) -> list[Embedded]:
        told = await self._app.query_engine(
            request, lambda identity: Embed(id=identity, inputs=inputs), len(inputs), param=param
        )
        return [answer for answer in told if isinstance(answer, Embedded)]

    async def _cut(self, request: Request, texts: list[str], context: int, param: str) -> list[str | list[int]]:
        """The texts' first tokens, as many as fit."""
        cut: list[str | list[int]] = []
        for text in texts:

            def make(identity: int, text: str = text) -> Tokenize:
                return Tokenize(id=identity, text=PromptText(text), parse_special=False, add_special=True)

            (tokenized,) = await self._app.query_engine(request, make, param=param)
            assert isinstance(tokenized, Tokenized), "a text's tokens were asked for"
            cut.append(tokenized.tokens[:context])
        return cut
