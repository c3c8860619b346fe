"""OpenAI's routes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import Embedded, Score, Scored, Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.choice_group import estimated_tokens
from tailrace.server.collected_reply import CollectedChoice, CollectedReply, collect_reply
from tailrace.server.dialects.llama_server.model_routes import model_status
from tailrace.server.dialects.llama_server.props import model_entry
from tailrace.server.dialects.openai import (
    chat,
    chat_llama_vllm_fields,
    completions,
    embeddings,
    stored_completion_routes,
    tokenize_bodies,
)
from tailrace.server.dialects.openai.completion_store import CompletionStore
from tailrace.server.dialects.openai.completions import CompletionRequest
from tailrace.server.dialects.openai.echo import MAX_ENTRIES, Echo, scored_echo
from tailrace.server.dialects.openai.generation_params import SharedParameters
from tailrace.server.dialects.openai.reply import ReplyHead
from tailrace.server.dialects.openai.stored_completion_routes import check_store, store_of, stored_form
from tailrace.server.dialects.openai.timing_fields import telemetry, tracked, with_timings
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.events import Usage
from tailrace.server.generation import Generation
from tailrace.server.json_response import json_response
from tailrace.server.models.model_service import ModelService
from tailrace.server.prompt_token_count import count_input
from tailrace.server.served_model import ServedModel
from tailrace.server.stream_encoder import Encoder
from tailrace.server.waiting_stream import EncoderOpening, Opening, is_open, opens_with

#: The size that a log probability counts with, where the work for a reply decides whether a thread does it.
_ENTRY_BYTES = 16


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    store = store_of(app)
    openai = _OpenAI(app, store)
    return [
        *stored_completion_routes.routes(app, store),
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
            body=tokenize_bodies.TokenizeRequest,
            statuses=GENERATION_ERRORS,
            shown="/tokenize",
        ),
        Endpoint(
            "POST",
            "/detokenize",
            openai.detokenize,
            "The text of tokens",
            body=tokenize_bodies.DetokenizeRequest,
            statuses=GENERATION_ERRORS,
            shown="/detokenize",
        ),
        Endpoint(
            "POST",
            "/apply-template",
            openai.apply_template,
            "The prompt that the model's template makes of messages",
            body=tokenize_bodies.TemplateRequest,
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
        payload = await app.read(request, chat.decoder)
        check_store(payload, self._store)
        head = ReplyHead("chatcmpl", app.models.resolve(payload.model).service.name)
        hides_reasoning = chat_llama_vllm_fields.hides_reasoning(payload)

        def make_stream() -> chat.ChatStream:
            return chat.ChatStream(
                head,
                payload.choices,
                wants_usage=payload.wants_usage,
                comments=self._comments,
                tools=chat.offered(payload),
                hides_reasoning=hides_reasoning,
            )

        def opening() -> Opening:
            chat.check_fields(payload)
            return EncoderOpening(make_stream(), starts=True)

        # A request that isn't streamed is checked before it waits, too.
        opens_with(request, opening, keepalive_seconds=payload.keepalive_seconds if payload.stream else math.inf)
        model = await app.model_for(request, payload.model, payload)
        inline = app.settings.reasoning == "inline"
        make = partial(chat.prepare, payload, model, inline_reasoning=inline)
        generation_request = await app.run_large(make, request.state.size)
        generation_request = tracked(payload, generation_request)
        generation = await app.start_generation(request, model, generation_request)
        if not is_open(request.scope):  # All chunks of a stream have the same head, and its first ones were before.
            head.fingerprint = app.models.service(model.name).fingerprint(model)
        owner = caller_of(request.scope).owner

        def full_body(transcript: CollectedReply) -> dict[str, Any]:
            return chat.completion(head, transcript, chat.offered(payload), hides_reasoning=hides_reasoning)

        if payload.stream:
            encoder = telemetry(make_stream(), generation, timings=bool(payload.timings_per_token))
            before_end = None
            if payload.store and self._store is not None:
                # A client that has the end may go to another server, which has to find the completion.
                before_end = self._store.settled if self._store.is_shared else None
                collected = CollectedReply([CollectedChoice() for _ in range(generation_request.choices)])
                encoder = stored_completion_routes.StoringStream(
                    encoder, collected, partial(self._store_stream, payload, owner, lambda: full_body(collected))
                )
            return self._stream(generation, encoder, payload, before_end)
        transcript = await collect_reply(generation, generation_request.choices, request.receive)

        if payload.store and self._store is not None and transcript.complete:
            stored = await app.run_large(lambda: stored_form(payload, full_body(transcript)), transcript.size)
            # A client that asks for a stored completion has to learn where it isn't stored.
            await self._store.save(*stored, owner)
        return await app.full_response(transcript, lambda: with_timings(full_body(transcript), payload, generation))

    def _store_stream(self, payload: chat.ChatRequest, owner: str, full_body: Callable[[], dict[str, Any]]) -> None:
        """Store a streamed completion at its end."""
        assert self._store is not None, "it was looked at"
        self._store.put(*stored_form(payload, full_body()), owner)

    def _stream(
        self,
        generation: Generation,
        encoder: Encoder,
        payload: SharedParameters,
        before_end: Callable[[], Awaitable[None]] | None = None,
    ) -> Response:
        """The streamed response, with the request's keep-alive interval."""
        return self._app.stream_response(
            generation, encoder, keepalive_seconds=payload.keepalive_seconds, before_end=before_end
        )

    async def input_tokens(self, request: Request) -> Response:
        """The same prompt as a reply's, counted by the engine as it would read it."""
        app = self._app
        payload = await app.read(request, chat.decoder)
        model = await app.model_for(request, payload.model, payload)
        make = partial(chat.prepare, payload, model, inline_reasoning=False)
        generation_request = await app.run_large(make, request.state.size)
        return json_response(await count_input(app, request, model, generation_request))

    async def completions(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, completions.decoder)
        head = ReplyHead("cmpl", app.models.resolve(payload.model).service.name)

        def opening() -> Opening:
            completions.prepare(payload)  # It says what is wrong whatever the model is.
            stream = completions.CompletionStream(head, 1, wants_usage=False, comments=self._comments)
            return EncoderOpening(stream, starts=False)

        streams = payload.stream and payload.max_tokens != 0
        opens_with(request, opening, keepalive_seconds=payload.keepalive_seconds if streams else math.inf)
        model = await app.model_for(request, payload.model, payload)
        generation_request = completions.prepare(payload)
        if generation_request.params.suffix is not None and not model.info.infill:
            raise InvalidRequest("'suffix': this model has no tokens for filling in the middle.", param="suffix")
        if payload.add_special_tokens is False:
            prompts = [
                await self._without_special_tokens(request, model, prompt) for prompt in generation_request.prompts
            ]
            generation_request = msgspec.structs.replace(generation_request, prompts=prompts)
        echoes = await self._echoes(request, payload, generation_request.prompts, model) if payload.echo else []
        size = _ENTRY_BYTES * sum(len(echo.entries) * (1 + (payload.requested_logprobs or 0)) for echo in echoes)
        choices = len(generation_request.prompts) * generation_request.choices
        if not is_open(request.scope):  # All chunks of a stream have the same head, and its first ones were before.
            head.fingerprint = app.models.service(model.name).fingerprint(model)
        if payload.max_tokens == 0:
            replies = [CollectedChoice(finish_reason="length") for _ in range(choices)]
            collected = CollectedReply(replies, Usage(sum(echo.tokens for echo in echoes), 0, 0))
            return await app.run_large(
                lambda: json_response(completions.completion(head, payload, collected, echoes)), size
            )
        generation = await app.start_generation(request, model, tracked(payload, generation_request))
        if payload.stream:
            stream = completions.CompletionStream(
                head, choices, wants_usage=payload.wants_usage, comments=self._comments, echoes=echoes
            )
            await app.run_large(stream.prepare, size)
            return self._stream(
                generation, telemetry(stream, generation, timings=bool(payload.timings_per_token)), payload
            )
        transcript = await collect_reply(generation, choices, request.receive)

        def body() -> dict[str, Any]:
            return with_timings(completions.completion(head, payload, transcript, echoes), payload, generation)

        return await app.full_response(transcript, body, size)

    async def _without_special_tokens(
        self, request: Request, model: ServedModel, prompt: PromptText | list[int]
    ) -> list[int]:
        """The prompt's tokens, without the special tokens that the model adds around a text."""
        if isinstance(prompt, list):
            return prompt
        (answer,) = await self._app.queries.ask(
            request, model, lambda identity: Tokenize(id=identity, text=prompt, add_special=False), param="prompt"
        )
        assert isinstance(answer, Tokenized)
        return answer.tokens

    async def _echoes(
        self, request: Request, payload: CompletionRequest, prompts: list[PromptText | list[int]], model: ServedModel
    ) -> list[Echo]:
        """An echo of each prompt. Raises InvalidRequest where they have too many log probabilities together."""
        top = payload.requested_logprobs
        echoes: list[Echo] = []
        entries = 0
        for prompt in prompts:
            if top is not None and entries + estimated_tokens(prompt, model.info.context) * (1 + top) > MAX_ENTRIES:
                raise InvalidRequest(
                    f"'logprobs': the echo of one request may have {MAX_ENTRIES} log probabilities; send fewer "
                    "prompts, or ask for fewer likely tokens.",
                    param="logprobs",
                )
            echoes.append(await self._echo(request, payload, prompt, model))
            entries += len(echoes[-1].entries) * (1 + (top or 0))
        return echoes

    async def _echo(
        self, request: Request, payload: CompletionRequest, prompt: PromptText | list[int], model: ServedModel
    ) -> Echo:
        """The echoed prompt; its tokens are scored or counted where the request asks for it."""
        if isinstance(prompt, list):
            text = tokenize_bodies.text_of(prompt, model.vocabulary, model.info, param="prompt")
        else:
            text = prompt.text
        given = prompt if isinstance(prompt, list) else text
        if (top := payload.requested_logprobs) is not None:
            (answer,) = await self._app.queries.ask(
                request, model, lambda identity: Score(id=identity, prompt=given, top=top), param="prompt"
            )
            assert isinstance(answer, Scored)
            make = partial(scored_echo, text, answer, model.vocabulary, model.info)
            return await self._app.run_large(make, _ENTRY_BYTES * len(answer.tokens) * (1 + top))
        if payload.max_tokens == 0 and isinstance(prompt, PromptText):
            (answer,) = await self._app.queries.ask(
                request, model, lambda identity: Tokenize(id=identity, text=prompt), param="prompt"
            )
            assert isinstance(answer, Tokenized)
            return Echo(text, len(answer.tokens))
        return Echo(text, len(given))

    async def embeddings(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, embeddings.decoder)
        app.models.resolve(payload.model)
        texts = embeddings.inputs(payload)
        model = await app.loaded_model(request, payload.model)
        embeddings.check_dimensions(payload, model.info.embedding_width)
        answers = await app.queries.ask(
            request, model, lambda identity: embeddings.embed_query(identity, payload, texts), len(texts), param="input"
        )
        vectors = [answer for answer in answers if isinstance(answer, Embedded)]
        return json_response(embeddings.embeddings(payload, model.name, vectors))

    async def tokenize(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, tokenize_bodies.tokenize_decoder)
        app.models.resolve(payload.model)
        templated = tokenize_bodies.template_of(payload)
        model = await app.loaded_model(request, payload.model)
        rendered = None if templated is None else await self._render(request, templated, model)
        (answer,) = await app.queries.ask(
            request,
            model,
            lambda identity: tokenize_bodies.tokenize_query(identity, payload, rendered),
            param=tokenize_bodies.text_param(payload),
        )
        assert isinstance(answer, Tokenized)
        return json_response(tokenize_bodies.tokenized(payload, answer.tokens, model.vocabulary, model.info))

    async def detokenize(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, tokenize_bodies.detokenize_decoder)
        model = await app.model_for(request, payload.model, payload)
        return json_response(tokenize_bodies.detokenized(payload, model.vocabulary, model.info))

    async def apply_template(self, request: Request) -> Response:
        app = self._app
        payload = await app.read(request, tokenize_bodies.template_decoder)
        model = await app.model_for(request, payload.model, payload)
        return json_response({"prompt": (await self._render(request, payload, model)).text})

    async def _render(
        self, request: Request, payload: tokenize_bodies.TemplateRequest, model: ServedModel
    ) -> PromptText:
        make = partial(chat.prepare, tokenize_bodies.as_chat(payload), model, inline_reasoning=False)
        (prompt,) = (await self._app.run_large(make, request.state.size)).prompts
        assert isinstance(prompt, PromptText), "a template makes text"
        return prompt

    async def models(self, request: Request) -> Response:
        """Answers in any state of the engine."""
        app = self._app
        data = [self._model_object(name, named.service) for name, named in app.models.listed]
        usable = app.models.usable
        await app.abilities.read(usable)
        entries = [model_entry(service, app.abilities.of(service)) for service in usable]
        return json_response({"object": "list", "data": data, "models": entries})

    async def model(self, request: Request) -> Response:
        name = request.path_params["id"]
        service = self._app.models.resolve(name).service
        return json_response(self._model_object(self._app.models.listed_name(name), service))

    def _model_object(self, name: str, service: ModelService) -> dict[str, object]:
        known: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._app.created,
            "owned_by": "tailrace",
            "status": model_status(service),  # llama-server's
        }
        if (info := service.info) is None:
            return known
        return {
            **known,
            "max_model_len": info.context,  # vLLM's name, and OpenRouter's
            "context_length": info.context,
            "meta": {  # llama-server's
                "n_vocab": service.vocabulary_size,
                "n_ctx": info.context,
                "n_ctx_train": info.context_trained,
                "n_embd": info.embedding_width,
                "n_params": info.parameters,
                "size": info.size_bytes,
            },
        }
