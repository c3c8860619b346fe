"""One reply in the making: the engine's tokens in, events out, each before the next token is looked at.

It knows one choice and nothing of the others; what concerns the whole request it leaves to its ``ChoiceOwner``.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_parts import CallArguments, CallStart, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.errors import RequestError
from tailrace.protocol import Accepted, Finished, Predicted, Progress, Refused, TokenLogprobs
from tailrace.server.callbacks import ReceiverState
from tailrace.server.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)

#: Bounds of one event, so that its line stays under 60,000 bytes even when every character is escaped (to six bytes):
#: one-api's scanner silently ends a stream at 64 KiB.
MAX_EVENT_CHARACTERS = 8192
MAX_EVENT_BYTES = 55_000


class ChoiceOwner(Protocol):
    """What a choice needs of the request that it belongs to."""

    def emit(self, event: Event) -> None:
        """Pass an event on."""
        ...

    def answered(self, choice: Choice, answer: Accepted | Refused) -> None:
        """The engine has looked at the choice's submit."""
        ...

    def begun(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """The choice's prompt has been read."""
        ...

    def first_token(self) -> None:
        """A choice has got its first token."""
        ...

    def closed(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """The choice's ``Finish`` has been told."""
        ...

    def failed(self, error: RequestError) -> None:
        """The engine is gone."""
        ...

    def broke(self, error: Exception) -> None:
        """A defect."""
        ...


class Choice:
    """One reply, and the engine's ``GenerationCallbacks`` for it."""

    __slots__ = (
        "_calling",
        "_inline",
        "_logprobs",
        "_most_calls",
        "_pipeline",
        "_request",
        "_silent",
        "_thinking",
        "_tool_calls",
        "_vocabulary",
        "accepted",
        "identity",
        "index",
        "prompt_tokens",
        "reasoning_tokens",
        "rejected",
        "seen",
        "state",
    )

    def __init__(
        self,
        request: ChoiceOwner,
        index: int,
        vocabulary: PieceTable,
        pipeline: ReplyPipeline,
        *,
        most_calls: int,
        inline_reasoning: bool,
    ) -> None:
        """``index`` is the choice's number in the request; ``most_calls`` tool calls end the reply."""
        self.index = index
        self.identity = 0  #: the engine's id for it, once submitted
        self.state: ReceiverState = "submitted"
        self.prompt_tokens = 0  #: known once it is accepted
        self._request = request
        self._vocabulary = vocabulary
        self._pipeline = pipeline
        self._most_calls = most_calls
        self._inline = inline_reasoning
        self.seen = 0  #: tokens so far: what counts when a stop string ends the reply
        self.reasoning_tokens = 0  #: of them, those of reasoning
        self.accepted = 0  #: draft tokens from the request's prediction that were accepted
        self.rejected = 0  #: and those that were rejected
        self._silent = 0  #: the last tokens, which haven't completed a part yet
        self._tool_calls = 0
        self._calling = False  #: the last call isn't whole
        self._thinking = False  #: an inline <think> is open
        self._logprobs: list[TokenLogprob] = []  #: of tokens whose text is held back

    # What the engine's client calls

    def answered(self, answer: Accepted | Refused) -> None:
        """See ``GenerationCallbacks``."""
        if isinstance(answer, Accepted):
            self.state = "accepted"
        self._request.answered(self, answer)

    def begun(self, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``GenerationCallbacks``."""
        self._request.begun(self, cached_tokens, prompt_seconds)

    def progressed(self, progress: Progress) -> None:
        """See ``GenerationCallbacks``: only a ``TrackedChoice`` asks for it."""
        raise AssertionError("nobody asked for the prompt's progress")

    def predicted(self, predicted: Predicted) -> None:
        """See ``GenerationCallbacks``."""
        self.accepted += predicted.accepted
        self.rejected += predicted.rejected

    def token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See ``GenerationCallbacks``."""
        if not self.seen:
            self._request.first_token()
        self.seen += 1
        if logprobs is None:
            # Most tokens of most replies: on caches that the model's step has left cold, what counts is how little
            # code they go through.
            text = self._pipeline.fast_text(token)
            if text is not None:
                if text:
                    self._request.emit(TextDelta(self.index, text))
                return
        else:
            self._logprobs.append(self._logprob(token, logprobs))
        self._silent += 1
        if parts := self._pipeline.feed(token):
            self._count(parts)
            self._tell(parts)
        if self._pipeline.stopped or (self._tool_calls >= self._most_calls and not self._calling):
            self._finish("stop", self.seen)

    def ended(self, finished: Finished) -> None:
        """See ``GenerationCallbacks``."""
        self._finish(finished.reason, finished.completion_tokens)

    def failed(self, error: RequestError) -> None:
        """See ``GenerationCallbacks``."""
        self._request.failed(error)

    def broke(self, error: Exception) -> None:
        """See ``GenerationCallbacks``."""
        self._request.broke(error)

    # What the request calls

    def close_thought(self) -> None:
        """End an inline thought that is open."""
        if self._thinking:
            self._thinking = False
            self._request.emit(TextDelta(self.index, "</think>"))

    def _finish(self, reason: FinishReason, completion_tokens: int) -> None:
        parts = self._pipeline.finish(cut=reason == "length")
        self._count(parts)
        self._tell(parts)
        self.close_thought()
        while self._logprobs:
            self._tell_text("")
        if self._tool_calls and not self._calling:
            reason = "tool_calls"
        self._request.emit(Finish(self.index, reason, self._pipeline.stop_string))
        self._request.closed(self, reason, completion_tokens)

    def _count(self, parts: list[ReplyPart]) -> None:
        if any(isinstance(part, ReasoningPart) for part in parts):
            self.reasoning_tokens += self._silent
        self._silent = 0

    def _tell(self, parts: list[ReplyPart]) -> None:
        for part in parts:
            if isinstance(part, TextPart):
                self.close_thought()
                self._tell_text(part.text)
            elif isinstance(part, ReasoningPart):
                self._tell_reasoning(part.text)
            elif isinstance(part, CallStart):
                self.close_thought()
                self._begin_call(part.name)
            elif isinstance(part, CallArguments):
                self._tell_arguments(part.text)
            else:
                self._calling = False
                if self._tool_calls >= self._most_calls:
                    return  # What follows isn't wanted.

    def _tell_text(self, text: str) -> None:
        for piece in pieces(text):
            fits = fitting(self._logprobs, MAX_EVENT_BYTES - 6 * len(piece)) if self._logprobs else 0
            if not piece:
                fits = max(1, fits)  # They must go out somewhere.
            held = self._logprobs[:fits] or None
            del self._logprobs[:fits]
            self._request.emit(TextDelta(self.index, piece, held))

    def _tell_reasoning(self, text: str) -> None:
        if not self._inline:
            for piece in pieces(text):
                self._request.emit(ReasoningDelta(self.index, piece))
            return
        if not self._thinking:
            self._thinking = True
            self._request.emit(TextDelta(self.index, "<think>"))
        for piece in pieces(text):
            self._request.emit(TextDelta(self.index, piece))

    def _begin_call(self, name: str) -> None:
        number = self._tool_calls
        self._tool_calls += 1
        self._calling = True
        self._request.emit(ToolCallDelta(self.index, number, id=f"call_{secrets.token_hex(12)}", name=name))

    def _tell_arguments(self, arguments: str) -> None:
        for piece in pieces(arguments):
            self._request.emit(ToolCallDelta(self.index, self._tool_calls - 1, arguments=piece))
        while self._logprobs:
            self._tell_text("")

    def _logprob(self, token: int, logprobs: TokenLogprobs) -> TokenLogprob:
        known = self._vocabulary.pieces

        names = self._vocabulary.names

        def text(token: int) -> str:
            # A token that is no text, such as an end token, is told by its name.
            return known[token].decode("utf-8", "replace") or names.get(token, "")

        top = [(text(t), known[t], value) for t, value in logprobs.top]
        ids = [t for t, _ in logprobs.top]
        return TokenLogprob(text(token), known[token], logprobs.logprob, top, token, ids)


def fitting(entries: list[TokenLogprob], room: int) -> int:
    """How many of the entries surely fit into ``room`` bytes of JSON."""
    for count, entry in enumerate(entries):
        for raw in (entry.raw, *(raw for _, raw, _ in entry.top)):
            # Keys and number, each byte as text of up to six bytes, and as a number of up to three with its comma.
            room -= 80 + 10 * len(raw)
        if room < 0:
            return count
    return len(entries)


def pieces(text: str) -> list[str]:
    """``text`` cut to the size of an event."""
    if len(text) <= MAX_EVENT_CHARACTERS:
        return [text]
    return [text[start : start + MAX_EVENT_CHARACTERS] for start in range(0, len(text), MAX_EVENT_CHARACTERS)]
