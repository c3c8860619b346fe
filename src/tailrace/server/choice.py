"""One reply in the making: the engine's tokens in, events out. The events of a token leave before the next token.

It knows one choice and no others; its ``ChoiceOwner`` handles what concerns the whole request.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_parts import CallArguments, CallStart, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.errors import RequestError
from tailrace.protocol import Accepted, Finished, Predicted, Progress, Refused, TokenLogprobs
from tailrace.server.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)

#: Bounds of one event. Its line stays under 60,000 bytes even when every character is escaped (to six bytes), because
#: one-api's scanner silently ends a stream at a line of 64 KiB.
MAX_EVENT_CHARACTERS = 8192
MAX_EVENT_BYTES = 55_000


class ChoiceOwner(Protocol):
    """What a choice needs of the request that owns it."""

    @property
    def has_tokens(self) -> bool:
        """Whether a choice has got a token."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event on its way to the client."""
        ...

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None:
        """The engine has checked the choice's submit."""
        ...

    def on_choice_begun(self, computed: int) -> None:
        """The engine has computed so many tokens of the choice's prompt. Comes only for a submit with ``progress``."""
        ...

    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """The choice's prompt is computed."""
        ...

    def on_first_token(self) -> None:
        """A choice has got its first token."""
        ...

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """The choice's ``Finish`` has been emitted."""
        ...

    def on_failed(self, error: RequestError) -> None:
        """The choice can't go on, or its engine is gone."""
        ...

    def on_defect(self, error: Exception) -> None:
        """A callback of the choice has raised ``error``."""
        ...


class _Ended:
    """The owner of a choice whose request has ended. What the engine still reports changes nothing."""

    has_tokens = True

    def emit(self, event: Event) -> None:
        """See ``ChoiceOwner``."""

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None:
        """See ``ChoiceOwner``."""

    def on_choice_begun(self, computed: int) -> None:
        """See ``ChoiceOwner``."""

    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``ChoiceOwner``."""

    def on_first_token(self) -> None:
        """See ``ChoiceOwner``."""

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """See ``ChoiceOwner``."""

    def on_failed(self, error: RequestError) -> None:
        """See ``ChoiceOwner``: each choice of a failed request reports the failure."""

    def on_defect(self, error: Exception) -> None:
        """See ``ChoiceOwner``."""


_ENDED = _Ended()


class Choice:
    """One reply; its methods are the engine's ``GenerationCallbacks`` for it."""

    __slots__ = (
        "_call_open",
        "_inline_reasoning",
        "_logprobs",
        "_max_tool_calls",
        "_owner",
        "_pending_tokens",
        "_pipeline",
        "_think_tag_open",
        "_tool_calls",
        "_vocabulary",
        "accepted",
        "accepted_draft_tokens",
        "identity",
        "index",
        "n_tokens",
        "prefill_seconds",
        "prefilled_at",
        "prompt_tokens",
        "reasoning_tokens",
        "rejected_draft_tokens",
    )

    def __init__(
        self,
        owner: ChoiceOwner,
        index: int,
        vocabulary: PieceTable,
        pipeline: ReplyPipeline,
        *,
        max_tool_calls: int,
        inline_reasoning: bool,
    ) -> None:
        """``index`` is the choice's number in the request; ``max_tool_calls`` tool calls end the reply."""
        self.index = index
        self.identity = 0  #: the engine's id for it, once submitted
        self.accepted = False  #: the engine has taken it
        self.prompt_tokens = 0  #: known once it is accepted
        self.prefilled_at: float | None = None  #: when its prompt was computed, by the monotonic clock
        self.prefill_seconds = 0.0  #: what that took, from its admission to the batch
        self._owner = owner
        self._vocabulary = vocabulary
        self._pipeline = pipeline
        self._max_tool_calls = max_tool_calls
        self._inline_reasoning = inline_reasoning
        self.n_tokens = 0  #: tokens so far: what counts when a stop string ends the reply
        self.reasoning_tokens = 0  #: of them, those of reasoning
        self.accepted_draft_tokens = 0  #: draft tokens from the request's prediction that the model has accepted
        self.rejected_draft_tokens = 0
        self._pending_tokens = 0  #: the last tokens, which haven't completed a part yet
        self._tool_calls = 0
        self._call_open = False  #: the last call isn't whole
        self._think_tag_open = False  #: an inline <think> is open
        self._logprobs: list[TokenLogprob] = []  #: of tokens whose text is held back

    # What the engine's client calls

    @property
    def has_tokens(self) -> bool:
        """See ``GenerationCallbacks``."""
        return self._owner.has_tokens

    def on_answer(self, answer: Accepted | Refused) -> None:
        """See ``GenerationCallbacks``."""
        if isinstance(answer, Accepted):
            self.accepted = True
        self._owner.on_choice_answer(self, answer)

    def on_prefilled(self, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``GenerationCallbacks``."""
        self._owner.on_choice_prefilled(self, cached_tokens, prompt_seconds)

    def on_progress(self, progress: Progress) -> None:
        """See ``GenerationCallbacks``: a request with a deadline in the queue has it, too."""
        self._owner.on_choice_begun(progress.processed)

    def on_prediction(self, predicted: Predicted) -> None:
        """See ``GenerationCallbacks``."""
        self.accepted_draft_tokens += predicted.accepted
        self.rejected_draft_tokens += predicted.rejected

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See ``GenerationCallbacks``."""
        if not self.n_tokens:
            self._owner.on_first_token()
        self.n_tokens += 1
        if logprobs is None:
            # Most tokens take this path. The model's step leaves the CPU's caches cold, so little code matters here.
            text = self._pipeline.fast_text(token)
            if text is not None:
                if text:
                    self._owner.emit(TextDelta(self.index, text))
                return
        else:
            self._logprobs.append(self._logprob(token, logprobs))
        self._pending_tokens += 1
        if parts := self._pipeline.feed(token):
            self._count(parts)
            self._emit_parts(parts)
        if self._pipeline.stopped or (self._tool_calls >= self._max_tool_calls and not self._call_open):
            self._finish("stop", self.n_tokens)

    def on_finished(self, finished: Finished) -> None:
        """See ``GenerationCallbacks``."""
        self._finish(finished.reason, finished.completion_tokens)

    def on_failed(self, error: RequestError) -> None:
        """See ``GenerationCallbacks``."""
        self._owner.on_failed(error)

    def on_defect(self, error: Exception) -> None:
        """See ``GenerationCallbacks``."""
        self._owner.on_defect(error)

    # What the request calls

    def let_go(self) -> None:
        """The request has ended: the choice drops it, because the two refer to each other."""
        self._owner = _ENDED

    def close_think_tag(self) -> None:
        """End an inline thought that is open."""
        if self._think_tag_open:
            self._think_tag_open = False
            self._owner.emit(TextDelta(self.index, "</think>"))

    def _finish(self, reason: FinishReason, completion_tokens: int) -> None:
        parts = self._pipeline.finish(cut=reason == "length")
        self._count(parts)
        self._emit_parts(parts)
        self.close_think_tag()
        while self._logprobs:
            self._emit_text("")
        if self._tool_calls and not self._call_open:
            reason = "tool_calls"
        self._owner.emit(Finish(self.index, reason, self._pipeline.stop_string))
        self._owner.on_choice_finished(self, reason, completion_tokens)

    def _count(self, parts: list[ReplyPart]) -> None:
        if any(isinstance(part, ReasoningPart) for part in parts):
            self.reasoning_tokens += self._pending_tokens
        self._pending_tokens = 0

    def _emit_parts(self, parts: list[ReplyPart]) -> None:
        for part in parts:
            if isinstance(part, TextPart):
                self.close_think_tag()
                self._emit_text(part.text)
            elif isinstance(part, ReasoningPart):
                self._emit_reasoning(part.text)
            elif isinstance(part, CallStart):
                self.close_think_tag()
                self._begin_call(part.name)
            elif isinstance(part, CallArguments):
                self._emit_arguments(part.text)
            else:
                self._call_open = False
                if self._tool_calls >= self._max_tool_calls:
                    return  # The rest of the parts is beyond the allowed calls.

    def _emit_text(self, text: str) -> None:
        for piece in split_text(text):
            fits = count_fitting(self._logprobs, MAX_EVENT_BYTES - 6 * len(piece)) if self._logprobs else 0
            if not piece:
                fits = max(1, fits)  # They must go out somewhere.
            held = self._logprobs[:fits] or None
            del self._logprobs[:fits]
            self._owner.emit(TextDelta(self.index, piece, held))

    def _emit_reasoning(self, text: str) -> None:
        if not self._inline_reasoning:
            for piece in split_text(text):
                self._owner.emit(ReasoningDelta(self.index, piece))
            return
        if not self._think_tag_open:
            self._think_tag_open = True
            self._owner.emit(TextDelta(self.index, "<think>"))
        for piece in split_text(text):
            self._owner.emit(TextDelta(self.index, piece))

    def _begin_call(self, name: str) -> None:
        number = self._tool_calls
        self._tool_calls += 1
        self._call_open = True
        self._owner.emit(ToolCallDelta(self.index, number, id=f"call_{secrets.token_hex(12)}", name=name))

    def _emit_arguments(self, arguments: str) -> None:
        for piece in split_text(arguments):
            self._owner.emit(ToolCallDelta(self.index, self._tool_calls - 1, arguments=piece))
        while self._logprobs:
            self._emit_text("")

    def _logprob(self, token: int, logprobs: TokenLogprobs) -> TokenLogprob:
        known = self._vocabulary.pieces

        names = self._vocabulary.names

        def text(token: int) -> str:
            # A token without text, such as an end token, is shown by its name.
            return known[token].decode("utf-8", "replace") or names.get(token, "")

        top = [(text(t), known[t], value) for t, value in logprobs.top]
        ids = [t for t, _ in logprobs.top]
        return TokenLogprob(text(token), known[token], logprobs.logprob, top, token, ids)


def count_fitting(entries: list[TokenLogprob], max_bytes: int) -> int:
    """How many of the entries surely fit into ``max_bytes`` bytes of JSON."""
    for count, entry in enumerate(entries):
        for raw in (entry.raw, *(raw for _, raw, _ in entry.top)):
            # Keys and number, each byte as text of up to six bytes, and as a number of up to three with its comma.
            max_bytes -= 80 + 10 * len(raw)
        if max_bytes < 0:
            return count
    return len(entries)


def split_text(text: str) -> list[str]:
    """``text`` cut to the size of an event."""
    if len(text) <= MAX_EVENT_CHARACTERS:
        return [text]
    return [text[start : start + MAX_EVENT_CHARACTERS] for start in range(0, len(text), MAX_EVENT_CHARACTERS)]
