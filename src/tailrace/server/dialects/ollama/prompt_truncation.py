"""Truncates prompts as Ollama does: a conversation loses its oldest messages, and a prompt its oldest tokens.

Each candidate has to be rendered and tokenised, so there are few, and none that is far too long. The first is estimated
from the messages' lengths; the next ones are near it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from tailrace.errors import ContextLengthExceeded
from tailrace.prompt_text import PromptText
from tailrace.protocol import Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.context_shift import ContextShift
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

#: Ollama's default of ``num_keep``, in tokens.
_DEFAULT_KEEP = 4
#: Characters of a prompt's beginning that are tokenised in any case.
_HEAD_CHARS = 8192
#: Replies without a limit of their own end after so many contexts, as Ollama's do.
_MAX_CONTEXTS = 10


class TruncationPoints(NamedTuple):
    """The points forms of a conversation: it may begin at each of ``starts``, rising."""

    starts: Sequence[int] = ()
    remaining_chars: Sequence[int] = (0,)  #: characters from each message on


class PromptTruncator:
    """Truncates the prompt of one request."""

    def __init__(self, app: AppState, request: Request, model: ServedModel) -> None:
        """One token of the model's context is left for the reply."""
        self._app = app
        self._request = request
        self._model = model
        info = model.info
        self._context = info.context
        #: Characters of a prompt's end that surely fill the context: more aren't tokenised.
        self._max_chars = info.context * max(1, model.vocabulary.max_token_bytes)
        self._bos_token = next((token for token, name in info.special_tokens.items() if name == info.bos_token), None)

    async def truncate(
        self,
        make: Callable[[int], GenerationRequest],
        points: TruncationPoints,
        *,
        truncates: bool,
        shifts: bool,
        keep: int | None,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        """The generation with a prompt that fits into the context, as tokens.

        ``make`` makes the generation of a conversation that begins at a message; ``before`` are tokens in front of its
        prompt. Raises InvalidRequest, and ContextLengthExceeded when the prompt is too long and ``truncates`` is False.
        """
        # Conversations that are surely too long aren't rendered.
        possible = [0, *points.starts] if truncates else [0]
        first = next((start for start in possible if points.remaining_chars[start] <= self._max_chars), possible[-1])
        generation_request = await self._render(make, first)
        tokens = await self._tokenize(generation_request)
        if before:
            tokens = [*before, *(tokens[1:] if tokens[:1] == [self._bos_token] else tokens)]
        if len(tokens) >= self._context and truncates:
            generation_request, tokens = await self._longest_that_fits(generation_request, tokens, points, make, first)
        kept = _DEFAULT_KEEP if keep is None else keep
        kept = min(kept if kept >= 0 else len(tokens), self._context - 2)
        if len(tokens) >= self._context:
            if not truncates:
                raise self._too_long(generation_request.prompt_param, len(tokens))
            tokens = [*tokens[:kept], *tokens[kept - self._context + 1 :]]
        (text,) = generation_request.prompts
        limit = generation_request.params.max_tokens or _MAX_CONTEXTS * self._context
        params = generation_request.params
        if params.max_tokens is None and shifts:
            params = msgspec.structs.replace(params, max_tokens=limit)
        return msgspec.structs.replace(
            generation_request,
            prompts=[tokens],
            prompt_text=text if isinstance(text, PromptText) else None,
            params=params,
            context_shift=ContextShift(
                context=self._context, keep=kept, limit=limit, shifts=shifts and params.grammar is None
            ),
        )

    async def _render(self, make: Callable[[int], GenerationRequest], start: int) -> GenerationRequest:
        return await self._app.run_large(partial(make, start), self._request.state.size)

    async def _longest_that_fits(
        self,
        generation_request: GenerationRequest,
        tokens: list[int],
        points: TruncationPoints,
        make: Callable[[int], GenerationRequest],
        first: int,
    ) -> tuple[GenerationRequest, list[int]]:
        """The longest truncated conversation that fits, or else the shortest one, with its tokens.

        ``generation_request``, which begins at message ``first``, doesn't fit.
        """
        remaining, starts = points.remaining_chars, points.starts
        allowed = remaining[first] * (self._context - 1) // max(1, len(tokens))
        #: Places in ``starts`` of one that doesn't fit and of one that does.
        long, fits = sum(start <= first for start in starts) - 1, len(starts)
        place = next((n for n in range(long + 1, fits) if remaining[starts[n]] <= allowed), fits - 1)
        found, step, lowest = (generation_request, tokens), 1, long
        while fits - long > 1:
            candidate = await self._render(make, starts[place])
            tokens = await self._tokenize(candidate)
            if len(tokens) < self._context:
                fits, found = place, (candidate, tokens)
            else:
                long = place
                if fits == len(starts):
                    found = candidate, tokens
            if lowest < long and fits < len(starts):
                place = (long + fits) // 2
            else:  # Search from the estimate in growing steps, so candidates are about as long as the result.
                place = max(long + 1, place - step) if fits < len(starts) else min(fits - 1, place + step)
                step *= 2
        return found

    async def _tokenize(self, generation_request: GenerationRequest) -> list[int]:
        """The prompt's tokens; of one that is far too long those of its beginning and its end, more than fit."""
        (prompt,) = generation_request.prompts
        assert isinstance(prompt, PromptText), "a prompt is text until it is fitted"
        shown = prompt
        if (left_out := len(prompt.text) - self._max_chars - _HEAD_CHARS) > 0:
            shown = prompt.slice(0, _HEAD_CHARS).concat(prompt.slice(_HEAD_CHARS + left_out))
        (answer,) = await self._app.queries.ask(
            self._request,
            self._model,
            lambda identity: Tokenize(id=identity, text=shown),
            param=generation_request.prompt_param,
        )
        assert isinstance(answer, Tokenized), "Tokenize is answered with Tokenized"
        return answer.tokens

    def _too_long(self, param: str, tokens: int) -> ContextLengthExceeded:
        error = ContextLengthExceeded(
            f"This model's maximum context length is {self._context} tokens, but the prompt has {tokens} tokens; one "
            "must be left for the reply. Shorten the prompt, or leave out 'truncate'.",
            param=param,
        )
        error.prompt_tokens, error.context = tokens, self._context
        return error
