"""Prompts that fit, as Ollama makes them: a conversation loses its oldest messages, and a prompt its oldest tokens.

Each look at a shorter conversation renders and tokenises it, so there are few: the next is where the messages' lengths
say that it might fit, and at the latest in the middle of what is left to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from tailrace.chat.prompt import plain_ranges
from tailrace.errors import ContextLengthExceeded
from tailrace.messages import ModelInfo, Tokenize, Tokenized
from tailrace.server.generate import GenerationRequest
from tailrace.server.server import Server
from tailrace.server.window import Window

#: What Ollama keeps of a prompt's start where a request doesn't say.
_KEEP = 4
#: Replies without a limit of their own end after so many contexts, as Ollama's do.
_CONTEXTS = 10


class Shorter(NamedTuple):
    """The shorter forms of a conversation: it may begin at each of ``starts``, rising."""

    starts: Sequence[int]
    lengths: Sequence[int]  #: of all messages, in characters
    make: Callable[[int], GenerationRequest]


class Fitting:
    """What is looked at for one request."""

    def __init__(self, server: Server, request: Request, model: ModelInfo) -> None:
        """One token of the model's context is left for the reply."""
        self._server = server
        self._request = request
        self._context = model.context
        self._begin = next((token for token, name in model.special_tokens.items() if name == model.bos_token), None)

    async def fitted(
        self,
        wanted: GenerationRequest,
        shorter: Shorter | None,
        *,
        truncates: bool,
        shifts: bool,
        keep: int | None,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        """``wanted`` with its prompt as tokens, behind those ``before`` it, that fit into the context. Raises
        InvalidRequest, and ContextLengthExceeded when it doesn't fit and mustn't be truncated.
        """
        tokens = await self._tokens(wanted)
        if before:
            tokens = [*before, *(tokens[1:] if tokens[:1] == [self._begin] else tokens)]
        if len(tokens) >= self._context and truncates and shorter is not None and shorter.starts:
            wanted, tokens = await self._shortest(wanted, tokens, shorter)
        kept = _KEEP if keep is None else keep
        kept = min(kept if kept >= 0 else len(tokens), self._context - 2)
        if len(tokens) >= self._context:
            if not truncates:
                raise self._too_long(wanted.prompt_param, len(tokens))
            tokens = [*tokens[:kept], *tokens[kept - self._context + 1 :]]
        (text,) = wanted.prompts
        limit = wanted.max_tokens or _CONTEXTS * self._context
        return msgspec.structs.replace(
            wanted,
            prompts=[tokens],
            prompt_text=text if isinstance(text, str) else None,
            max_tokens=wanted.max_tokens if wanted.max_tokens is not None or not shifts else limit,
            window=Window(context=self._context, keep=kept, limit=limit, shifts=shifts and wanted.grammar is None),
        )

    async def _shortest(
        self, wanted: GenerationRequest, tokens: list[int], shorter: Shorter
    ) -> tuple[GenerationRequest, list[int]]:
        """The longest of the shorter conversations that fits, or else the shortest of them, and its tokens."""
        rest = [0, *accumulate(reversed(shorter.lengths))][::-1]  #: characters from each message on
        starts = shorter.starts
        long, fits = -1, len(starts)  #: places in ``starts`` of one that doesn't fit and of one that does
        found = wanted, tokens
        characters, looks = rest[0], 0
        while fits - long > 1:
            allowed = characters * (self._context - 1) // max(1, len(tokens))
            guess = next((place for place in range(long + 1, fits) if rest[starts[place]] <= allowed), fits - 1)
            place = (long + fits) // 2 if looks % 2 else guess
            looks += 1
            candidate = shorter.make(starts[place])
            tokens = await self._tokens(candidate)
            characters = rest[starts[place]]
            if len(tokens) < self._context:
                fits, found = place, (candidate, tokens)
            else:
                long = place
                if fits == len(starts):
                    found = candidate, tokens
        return found

    async def _tokens(self, wanted: GenerationRequest) -> list[int]:
        (prompt,) = wanted.prompts
        assert isinstance(prompt, str), "a prompt is text until it is fitted"
        (told,) = await self._server.ask(
            self._request,
            lambda identity: Tokenize(id=identity, text=str(prompt), plain=plain_ranges(prompt)),
            param=wanted.prompt_param,
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
