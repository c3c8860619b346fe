"""Prompts that fit, as Ollama makes them: a conversation loses its oldest messages, and a prompt its oldest tokens.

Each look at a shorter conversation renders and tokenises it, so there are few, and none at one that is far too long.
The first is where the messages' lengths say that it might fit, and the next ones are around it.
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
from tailrace.server.generation import GenerationRequest
from tailrace.server.served_model import ServedModel

#: What Ollama keeps of a prompt's start where a request doesn't say.
_KEEP = 4
#: Characters of a prompt's beginning that are tokenised in any case.
_HEAD = 8192
#: Replies without a limit of their own end after so many contexts, as Ollama's do.
_CONTEXTS = 10


class Shorter(NamedTuple):
    """The shorter forms of a conversation: it may begin at each of ``starts``, rising."""

    starts: Sequence[int] = ()
    rest: Sequence[int] = (0,)  #: characters from each message on


class Fitting:
    """What is looked at for one request."""

    def __init__(self, app: AppState, request: Request, model: ServedModel) -> None:
        """One token of the model's context is left for the reply."""
        self._app = app
        self._request = request
        info = model.info
        self._context = info.context
        #: Characters of a prompt's end that surely fill the context: more aren't tokenised.
        self._most = info.context * max(1, model.vocabulary.max_token_bytes)
        self._begin = next((token for token, name in info.special_tokens.items() if name == info.bos_token), None)

    async def fitted(
        self,
        make: Callable[[int], GenerationRequest],
        shorter: Shorter,
        *,
        truncates: bool,
        shifts: bool,
        keep: int | None,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        """What ``make`` makes of the conversation from a message on, with its prompt as tokens, behind those ``before``
        it, that fit into the context. Raises InvalidRequest, and ContextLengthExceeded when it doesn't fit and mustn't
        be truncated.
        """
        # What surely doesn't fit isn't even rendered.
        possible = [0, *shorter.starts] if truncates else [0]
        first = next((start for start in possible if shorter.rest[start] <= self._most), possible[-1])
        wanted = await self._made(make, first)
        tokens = await self._tokens(wanted)
        if before:
            tokens = [*before, *(tokens[1:] if tokens[:1] == [self._begin] else tokens)]
        if len(tokens) >= self._context and truncates:
            wanted, tokens = await self._shortest(wanted, tokens, shorter, make, first)
        kept = _KEEP if keep is None else keep
        kept = min(kept if kept >= 0 else len(tokens), self._context - 2)
        if len(tokens) >= self._context:
            if not truncates:
                raise self._too_long(wanted.prompt_param, len(tokens))
            tokens = [*tokens[:kept], *tokens[kept - self._context + 1 :]]
        (text,) = wanted.prompts
        limit = wanted.params.max_tokens or _CONTEXTS * self._context
        params = wanted.params
        if params.max_tokens is None and shifts:
            params = msgspec.structs.replace(params, max_tokens=limit)
        return msgspec.structs.replace(
            wanted,
            prompts=[tokens],
            prompt_text=text if isinstance(text, PromptText) else None,
            params=params,
            window=ContextShift(
                context=self._context, keep=kept, limit=limit, shifts=shifts and params.grammar is None
            ),
        )

    async def _made(self, make: Callable[[int], GenerationRequest], start: int) -> GenerationRequest:
        return await self._app.run_large(partial(make, start), self._request.state.size)

    async def _shortest(
        self,
        wanted: GenerationRequest,
        tokens: list[int],
        shorter: Shorter,
        make: Callable[[int], GenerationRequest],
        first: int,
    ) -> tuple[GenerationRequest, list[int]]:
        """The longest of the shorter conversations that fits, or else the shortest of them, and its tokens. ``wanted``,
        which begins at message ``first``, doesn't fit.
        """
        rest, starts = shorter.rest, shorter.starts
        allowed = rest[first] * (self._context - 1) // max(1, len(tokens))
        #: Places in ``starts`` of one that doesn't fit and of one that does.
        long, fits = sum(start <= first for start in starts) - 1, len(starts)
        place = next((n for n in range(long + 1, fits) if rest[starts[n]] <= allowed), fits - 1)
        found, step, lowest = (wanted, tokens), 1, long
        while fits - long > 1:
            candidate = await self._made(make, starts[place])
            tokens = await self._tokens(candidate)
            if len(tokens) < self._context:
                fits, found = place, (candidate, tokens)
            else:
                long = place
                if fits == len(starts):
                    found = candidate, tokens
            if lowest < long and fits < len(starts):
                place = (long + fits) // 2
            else:  # Away from the guess, in growing steps: what is looked at is nearly as long as what fits.
                place = max(long + 1, place - step) if fits < len(starts) else min(fits - 1, place + step)
                step *= 2
        return found

    async def _tokens(self, wanted: GenerationRequest) -> list[int]:
        """The prompt's tokens; of one that is far too long those of its beginning and its end, more than fit."""
        (prompt,) = wanted.prompts
        assert isinstance(prompt, PromptText), "a prompt is text until it is fitted"
        shown = prompt
        if (left_out := len(prompt.text) - self._most - _HEAD) > 0:
            shown = prompt.slice(0, _HEAD).concat(prompt.slice(_HEAD + left_out))
        (told,) = await self._app.query_engine(
            self._request, lambda identity: Tokenize(id=identity, text=shown), param=wanted.prompt_param
        )
        assert isinstance(told, Tokenized), "a prompt's tokens were asked for"
        return told.tokens

    def _too_long(self, param: str, tokens: int) -> ContextLengthExceeded:
        error = ContextLengthExceeded(
            f"This model's maximum context length is {self._context} tokens, but the prompt has {tokens} tokens; one "
            "must be left for the reply. Shorten the prompt, or leave out 'truncate'.",
            param=param,
        )
        error.prompt_tokens, error.context = tokens, self._context
        return error
