"""A model in this very process: the engine's loop with one caller and no socket. Owns the backend; knows no terminal.

The prompt is made, sampled and parsed by the code that serves the API, so that the same conversation gets the same
reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from typing import Literal

from tailrace.chat.chat_format import ChatFormat
from tailrace.chat.reply_parts import ReplyPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.cli.chat_history import ChatHistory, Parameters
from tailrace.cli.chat_model import Stats
from tailrace.engine.backends.base import Backend
from tailrace.engine.load import make_loop
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import build_sequence, prompt_texts
from tailrace.engine.tokenising.tokenizer import TokenizationFailed, Tokenizer
from tailrace.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest
from tailrace.generation_params import GenerationParams
from tailrace.protocol import Refused, Submit
from tailrace.settings import Settings


class LocalModel:
    """A loaded model that answers conversations, one at a time."""

    def __init__(self, backend: Backend, settings: Settings, draft: Backend | None = None) -> None:
        """``draft`` is from ``load_draft`` with the same settings; it and ``backend`` are closed with this."""
        self.info = backend.info
        self._backend = backend
        self._draft = draft
        self._loop = make_loop(backend, settings, draft=draft)
        self._tokenizer = Tokenizer(backend)
        self._format = ChatFormat(backend.info, backend.vocabulary)
        self._vocabulary = self._format.vocabulary_showing(self._format.family.markup({}).markers)
        self._ids = count(1)

    def reply(self, conversation: ChatHistory) -> LocalReply:
        """The next assistant message, which is computed as it is iterated over.

        Raises ContextLengthExceeded, naming both numbers, and InvalidRequest when the template refuses.
        """
        prompt = self._format.template.render(conversation.messages)
        parameters = conversation.parameters
        assert isinstance(parameters, Parameters)
        submit = Submit(
            id=next(self._ids),
            prompt=prompt,
            params=GenerationParams(max_tokens=parameters.max_tokens, sampling=parameters.sampling),
        )
        asked_at = time.monotonic()
        sequence = self._sequence(submit)
        if isinstance(sequence, Refused):
            if sequence.code == "context_length_exceeded":
                raise ContextLengthExceeded(sequence.message)
            raise InvalidRequest(sequence.message)
        pipeline = ReplyPipeline(self._vocabulary, (), self._format.family.parser(prompt, {}))
        return LocalReply(self._loop, sequence, pipeline, asked_at, max_tokens=parameters.max_tokens)

    def _sequence(self, submit: Submit) -> Sequence | Refused:
        texts = prompt_texts(self._backend, submit)
        if isinstance(texts, Refused):
            return texts
        try:
            return build_sequence(self._backend, submit, self._tokenizer.tokens_of(texts))
        except TokenizationFailed as error:
            return error.refusal(submit.id)

    def close(self) -> None:
        """Give back the memory."""
        self._tokenizer.close()
        self._loop.close()
        if self._draft is not None:
            self._draft.close()
        self._backend.close()


class LocalReply:
    """One reply in the making. Iterating computes it: each item is what one engine step brought, often nothing while
    the prompt is read, so that the caller gets to act between any two steps.
    """

    def __init__(
        self, loop: EngineLoop, sequence: Sequence, pipeline: ReplyPipeline, asked_at: float, *, max_tokens: int | None
    ) -> None:
        """``asked_at``: when the question was asked, by the monotonic clock. Use ``LocalModel.reply``."""
        self._loop = loop
        self._sequence = sequence
        self._pipeline = pipeline
        self._asked_at = asked_at
        self._max_tokens = max_tokens
        self._first: float | None = None
        self._last = asked_at
        self._cancelled = False
        loop.inbox.put(sequence)

    def __iter__(self) -> Iterator[list[ReplyPart]]:
        finished = False
        while not finished:
            self._loop.take()
            if self._cancelled:
                break
            step = self._loop.step()
            if step is None:
                raise AssertionError("the engine's loop is idle while a reply isn't finished")
            if step.failed:
                raise GenerationFailed(f"The reply can't be continued: {step.failed[0].message}.")
            finished = bool(step.finished)
            if self._sequence.generated:
                self._last = time.monotonic()
                self._first = self._first or self._last
            yield [part for token in step.tokens for part in self._pipeline.feed(token)]
        yield self._pipeline.finish()

    def cancel(self) -> None:
        """Stop: the iteration ends with what was held back. What was computed stays ready for the next turn."""
        self._cancelled = True
        self._loop.inbox.put(self._sequence.id)

    @property
    def stats(self) -> Stats:
        """The figures of the reply, once the iteration is over."""
        sequence = self._sequence
        first = self._first if self._first is not None else self._last
        return Stats(
            prompt_tokens=sequence.prompt_length,
            cached_tokens=sequence.cached_tokens or 0,
            tokens=sequence.generated,
            first_token=first - self._asked_at,
            decoding=self._last - first,
            ended=self._ended(),
        )

    def _ended(self) -> Literal["stop", "max_tokens", "context", "cancelled"]:
        if self._cancelled:
            return "cancelled"
        if self._sequence.tokens[-1] in self._sequence.stop_tokens:
            return "stop"
        return "max_tokens" if self._sequence.generated == self._max_tokens else "context"
