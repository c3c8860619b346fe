"""OpenAI's routes."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import Embedded, Score, Scored, Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.collected_reply import CollectedChoice, CollectedReply, collect_reply
from tailrace.server.dialects.llama_server.props import listed
from tailrace.server.dialects.openai import chat, completions, embeddings, extensions, stored, tokens
from tailrace.server.dialects.openai.completion_store import CompletionStore
from tailrace.server.dialects.openai.completions import CompletionRequest
from tailrace.server.dialects.openai.echo import Echo, scored_echo
from tailrace.server.dialects.openai.reply import ReplyHead
from tailrace.server.dialects.openai.sampling import SharedParameters
from tailrace.server.dialects.openai.stored import check_store, store_of
from tailrace.server.dialects.openai.telemetry import telemetry, tracked, with_timings
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.events import Usage
from tailrace.server.generation import Generation
from tailrace.server.json_body import decode
from tailrace.server.json_response import json_response
from tailrace.server.prompt_token_count import count_input
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import Encoder


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    store = store_of(app)
    openai = _OpenAI(app, store)
    return [
        *stored.routes(app, store),
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
            "/chat/completions/input_tokens",
            openai.input_tokens,
            "A chat completion's prompt in tokens",
            body=chat.ChatRequest,
            statuses=GENERATION_ERRORS,
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
        Endpoint(
            "POST",
            "/embeddings",
            openai.embeddings,
            "Embeddings of texts",
            body=embeddings.EmbeddingRequest,
            statuses=GENERATION_ERRORS,
        ),
        Endpoint(
            "POST",
            "/tokenize",
            openai.tokenize,
            "The tokens of a text, or of messages as the model gets them",
            body=tokens.TokenizeRequest,
            statuses=GENERATION_ERRORS,
            shown="/tokenize",
        ),
        Endpoint(
            "POST",
            "/detokenize",
            openai.detokenize,
            "The text of tokens",
            body=tokens.DetokenizeRequest,
            statuses=GENERATION_ERRORS,
            shown="/detokenize",
        ),
        Endpoint(
            "POST",
            "/apply-template",
            openai.apply_template,
            "The prompt that the model's template makes of messages",
            body=tokens.TemplateRequest,
            statuses=GENERATION_ERRORS,
            shown="/apply-template",
        ),
        Endpoint("GET", "/models", openai.models, "The served models"),
        Endpoint("GET", "/models/{id:path}", openai.model, "One served model", statuses=frozenset({401, 404})),
    ]


class _OpenAI:
    def __init__(self, app: AppState, store: CompletionStore | None) -> None:
        self._app = app
        self._store = store
        self._comments = app.settings.keepalive_style == "comment"

    async def chat_completions(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), chat.decoder)
        check_store(asked, self._store)
        model = await app.model_for(asked.model, asked)
        inline = app.settings.reasoning == "inline"
        make = partial(chat.prepare, asked, model, inline_reasoning=inline)
        wanted = await app.run_large(make, request.state.size)
        wanted = tracked(asked, wanted)
        generation = await app.start_generation(request, wanted)
        head = ReplyHead("chatcmpl", app.model_name, app.fingerprint(model))
        hides_thoughts = extensions.hides_thoughts(asked)

        def whole(transcript: CollectedReply) -> dict[str, Any]:
            return chat.completion(head, transcript, chat.offered(asked), hides_thoughts=hides_thoughts)

        if asked.stream:
            stream = chat.ChatStream(
                head,
                wanted.choices,
                wants_usage=asked.wants_usage,
                comments=self._comments,
                tools=chat.offered(asked),
                hides_thoughts=hides_thoughts,
            )
            encoder = telemetry(stream, asked, generation)
            if asked.store and self._store is not None:
                told = CollectedReply([CollectedChoice() for _ in range(wanted.choices)])
                encoder = stored.Keeping(encoder, told, lambda: self._kept(asked, whole(told)))
            return self._stream(generation, encoder, asked)
        transcript = await collect_reply(generation, wanted.choices, request.receive)

        def body() -> dict[str, Any]:
            return with_timings(self._kept(asked, whole(transcript)), asked, generation)

        return app.full_response(transcript.complete, body)

    def _kept(self, asked: chat.ChatRequest, body: dict[str, Any]) -> dict[str, Any]:
        """The completion, which is stored where that is asked for."""
        if asked.store and self._store is not None:
            stored.keep(self._store, asked, body)
        return body

    def _stream(self, generation: Generation, encoder: Encoder, asked: SharedParameters) -> Response:
        """The streamed response, with the signs of life that the request wants."""
        return self._app.stream_response(generation, encoder, keepalive_seconds=asked.keepalive_seconds)

    async def input_tokens(self, request: Request) -> Response:
        """The same prompt as a reply's, counted by the engine as it would read it."""
        app = self._app
        asked = decode(await app.read_body(request), chat.decoder)
        make = partial(chat.prepare, asked, await app.model_for(asked.model, asked), inline_reasoning=False)
        wanted = await app.run_large(make, request.state.size)
        return json_response(await count_input(app, request, wanted))

    async def completions(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), completions.decoder)
        model = await app.model_for(asked.model, asked)
        wanted = completions.prepare(asked)
        if wanted.params.suffix is not None and not model.info.infill:
            raise InvalidRequest("'suffix': this model has no tokens for filling in the middle.", param="suffix")
        if asked.add_special_tokens is False:
            bare = [await self._bare(request, prompt) for prompt in wanted.prompts]
            wanted = msgspec.structs.replace(wanted, prompts=bare)
        echoes = [await self._echo(request, asked, prompt, model) for prompt in wanted.prompts] if asked.echo else []
        choices = len(wanted.prompts) * wanted.choices
        head = ReplyHead("cmpl", app.model_name, app.fingerprint(model))
        if asked.max_tokens == 0:
            replies = [CollectedChoice(finish_reason="length") for _ in range(choices)]
            nothing = CollectedReply(replies, Usage(sum(echo.tokens for echo in echoes), 0, 0))
            return json_response(completions.completion(head, asked, nothing, echoes))
        generation = await app.start_generation(request, tracked(asked, wanted))
        if asked.stream:
            stream = completions.CompletionStream(
                head, choices, wants_usage=asked.wants_usage, comments=self._comments, echoes=echoes
            )
            return self._stream(generation, telemetry(stream, asked, generation), asked)
        transcript = await collect_reply(generation, choices, request.receive)

        def body() -> dict[str, Any]:
            return with_timings(completions.completion(head, asked, transcript, echoes), asked, generation)

        return app.full_response(transcript.complete, body)

    async def _bare(self, request: Request, prompt: PromptText | list[int]) -> list[int]:
        """The prompt as tokens, without those that the model wants around a text."""
        if isinstance(prompt, list):
            return prompt
        (told,) = await self._app.query_engine(
            request, lambda identity: Tokenize(id=identity, text=prompt, add_special=False), param="prompt"
        )
        assert isinstance(told, Tokenized)
        return told.tokens

    async def _echo(
        self, request: Request, asked: CompletionRequest, prompt: PromptText | list[int], model: ServedModel
    ) -> Echo:
        """The prompt as it is repeated; its tokens are scored or counted where that is asked for."""
        if isinstance(prompt, list):
            text = tokens.text_of(prompt, model.vocabulary, model.info, param="prompt")
        else:
            text = prompt.text
        given = prompt if isinstance(prompt, list) else text
        if (top := asked.wanted_logprobs) is not None:
            (told,) = await self._app.query_engine(
                request, lambda identity: Score(id=identity, prompt=given, top=top), param="prompt"
            )
            assert isinstance(told, Scored)
            return scored_echo(text, told, model.vocabulary, model.info)
        if asked.max_tokens == 0 and isinstance(prompt, PromptText):
            (told,) = await self._app.query_engine(
                request, lambda identity: Tokenize(id=identity, text=prompt), param="prompt"
            )
            assert isinstance(told, Tokenized)
            return Echo(text, len(told.tokens))
        return Echo(text, len(given))

    async def embeddings(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), embeddings.decoder)
        app.check_model(asked.model)
        texts = embeddings.inputs(asked)
        model = await app.engine.ready()
        embeddings.check_dimensions(asked, model.info.embedding_width)
        told = await app.query_engine(
            request, lambda identity: embeddings.inquiry(identity, asked, texts), len(texts), param="input"
        )
        vectors = [answer for answer in told if isinstance(answer, Embedded)]
        return json_response(embeddings.embeddings(asked, app.model_name, vectors))

    async def tokenize(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), tokens.tokenize_decoder)
        app.check_model(asked.model)
        templated = tokens.template_of(asked)
        model = await app.engine.ready()
        rendered = None if templated is None else await self._render(request, templated, model)
        (told,) = await app.query_engine(
            request, lambda identity: tokens.inquiry(identity, asked, rendered), param=tokens.text_param(asked)
        )
        assert isinstance(told, Tokenized)
        return json_response(tokens.tokenized(asked, told.tokens, model.vocabulary, model.info))

    async def detokenize(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), tokens.detokenize_decoder)
        model = await app.model_for(asked.model, asked)
        return json_response(tokens.detokenized(asked, model.vocabulary, model.info))

    async def apply_template(self, request: Request) -> Response:
        app = self._app
        asked = decode(await app.read_body(request), tokens.template_decoder)
        model = await app.model_for(asked.model, asked)
        return json_response({"prompt": (await self._render(request, asked, model)).text})

    async def _render(self, request: Request, asked: tokens.TemplateRequest, model: ServedModel) -> PromptText:
        make = partial(chat.prepare, tokens.as_chat(asked), model, inline_reasoning=False)
        (prompt,) = (await self._app.run_large(make, request.state.size)).prompts
        assert isinstance(prompt, PromptText), "a template makes text"
        return prompt

    async def models(self, request: Request) -> Response:
        """Answers whatever the engine is doing."""
        app = self._app
        data = [self._model_object(name) for name in (app.model_name, *app.derived_names)]
        told = {"object": "list", "data": data, "models": [listed(app, app.engine.model)]}
        return json_response(told)

    async def model(self, request: Request) -> Response:
        return json_response(self._model_object(self._app.listed_name(request.path_params["id"])))

    def _model_object(self, name: str) -> dict[str, object]:
        app = self._app
        known: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": app.created,
            "owned_by": "tailrace",
        }
        if (model := app.engine.model) is None:
            return known
        info = model.info
        return {
            **known,
            "max_model_len": info.context,  # vLLM's name, and OpenRouter's
            "context_length": info.context,
            "meta": {  # llama-server's
                "n_vocab": len(model.vocabulary),
                "n_ctx": info.context,
                "n_ctx_train": info.context_trained,
                "n_embd": info.embedding_width,
                "n_params": info.parameters,
                "size": info.size_bytes,
            },
        }
