"""A choice with token ids, prompt progress and timings for its events, as llama-server's clients can request them.

Other requests have a ``Choice``, which reads no clock and stores no token.
"""

from __future__ import annotations

import time

import msgspec

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.protocol import Accepted, Finished, Progress, Refused, TokenLogprobs
from tailrace.server.choice import MAX_EVENT_BYTES, Choice, ChoiceOwner, split_text
from tailrace.server.events import Event, FinishReason, PromptProgress, TextDelta, Timed
from tailrace.server.timings import Timings, make_timings

#: JSON of a token without probabilities, and of each entry of them, at most; each of its bytes is written twice.
_ID_BYTES = 12
_ENTRY_BYTES = 80
_BYTE_BYTES = 10


class TrackingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a tracked choice records beside its timings, and the limits of its text."""

    tokens: bool = False  #: ``TextDelta``s carry their tokens
    progress: bool = False  #: emit ``PromptProgress``
    timings: bool = False  #: events come as ``Timed``
    silent: bool = False  #: compute the prompt only: the token that comes with it isn't emitted
    #: The reply ends at the first line (after its first) with a smaller indent, in characters; 0: off.
    indent: int = 0
    milliseconds: int = 0  #: the reply ends at the next line break this long after its first token; 0: off

    @property
    def limits(self) -> bool:
        """Whether the text may end the reply."""
        return bool(self.indent or self.milliseconds)


class TrackedChoice(Choice):
    """A ``Choice`` that records what its ``TrackingOptions`` name."""

    __slots__ = (
        "_cut",
        "_first_at",
        "_indent",
        "_last_at",
        "_pending",
        "_processed",
        "_tracking",
        "cached_tokens",
        "prompt_seconds",
        "prompt_tokens",
    )

    def __init__(
        self,
        owner: ChoiceOwner,
        index: int,
        vocabulary: PieceTable,
        pipeline: ReplyPipeline,
        tracking: TrackingOptions,
        *,
        max_tool_calls: int,
        inline_reasoning: bool,
    ) -> None:
        event_owner = _TimingOwner(owner, self) if tracking.timings else owner
        super().__init__(
            event_owner, index, vocabulary, pipeline, max_tool_calls=max_tool_calls, inline_reasoning=inline_reasoning
        )
        self._tracking = tracking
        self._pending: list[tuple[int, TokenLogprobs | None]] = []  #: tokens that no event has carried yet
        self._first_at: float | None = None
        self._last_at = 0.0
        self._processed: int | None = None  #: prompt tokens computed so far, where progress is reported
        self._cut = False  #: a limit has ended the reply: the rest isn't emitted
        self._indent: int | None = None  #: indent so far of a line that has only spaces and tabs
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.prompt_seconds = 0.0  #: from the admission to the first token

    @property
    def timings(self) -> Timings:
        """The figures so far."""
        processed = self.prompt_tokens if self._first_at is not None else self._processed or self.cached_tokens
        generating = self._last_at - self._first_at if self._first_at is not None else 0.0
        return make_timings(
            cached=self.cached_tokens,
            prompt=processed - self.cached_tokens,
            prompt_seconds=self.prompt_seconds,
            generated=self.n_tokens,
            seconds=generating,
        )

    # What the engine's client calls

    def on_answer(self, answer: Accepted | Refused) -> None:
        """See ``GenerationCallbacks``."""
        if isinstance(answer, Accepted):
            self.prompt_tokens = answer.prompt_tokens
        super().on_answer(answer)

    def on_prefilled(self, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``GenerationCallbacks``."""
        self.cached_tokens = cached_tokens
        self.prompt_seconds = prompt_seconds
        super().on_prefilled(cached_tokens, prompt_seconds)

    def on_progress(self, progress: Progress) -> None:
        """See ``GenerationCallbacks``."""
        self._owner.on_choice_begun(progress.processed)
        if not self._tracking.progress:
            return
        self.cached_tokens, self._processed = progress.cached, progress.processed
        self.prompt_seconds = progress.seconds
        self._owner.emit(
            PromptProgress(self.index, progress.total, progress.cached, progress.processed, progress.seconds)
        )

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See ``GenerationCallbacks``."""
        tracking = self._tracking
        self._last_at = time.monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
        if tracking.silent:
            self._owner.on_first_token()
            return
        if not (tracking.tokens or tracking.limits):
            super().on_token(token, logprobs)
            return
        if not self.n_tokens:
            self._owner.on_first_token()
        self.n_tokens += 1
        if tracking.tokens:
            self._pending.append((token, logprobs))
        self._pending_tokens += 1
        if parts := self._pipeline.feed(token):
            self._count(parts)
            self._emit_parts(parts)
        if self._pipeline.stopped:
            self._finish("stop", self.n_tokens)
        elif self._cut:
            self._finish("length", self.n_tokens)

    def on_finished(self, finished: Finished) -> None:
        """See ``GenerationCallbacks``."""
        if self._tracking.silent:
            self._finish("length", 0)
            return
        self._last_at = time.monotonic()  # An end token has no on_token.
        super().on_finished(finished)

    def _finish(self, reason: FinishReason, completion_tokens: int) -> None:
        self.n_tokens = completion_tokens  # An end token counts, and isn't emitted.
        if self._tracking.tokens:
            self._emit_parts(self._pipeline.finish())
            while self._pending:
                self._emit_text("")
        super()._finish(reason, completion_tokens)

    def _emit_text(self, text: str) -> None:
        if self._tracking.limits:
            text = "" if self._cut else self._limited(text)
        if not self._tracking.tokens:
            super()._emit_text(text)
            return
        for piece in split_text(text):
            if piece or self._pending:
                carried = self._count_fitting(MAX_EVENT_BYTES - 6 * len(piece))
                self._owner.emit(TextDelta(self.index, piece, None, self._pending[:carried]))
                del self._pending[:carried]

    def _limited(self, text: str) -> str:
        """As much of ``text`` as the limits of lines and time allow."""
        tracking = self._tracking
        if tracking.indent:
            for place, character in enumerate(text):
                if self._indent is None:
                    self._indent = 0 if character == "\n" else None
                elif character in " \t":
                    self._indent += 1
                elif self._indent < tracking.indent:
                    self._cut = True
                    return text[:place]
                else:
                    self._indent = 0 if character == "\n" else None
        if tracking.milliseconds and "\n" in text and self._first_at is not None:
            self._cut = (self._last_at - self._first_at) * 1000 > tracking.milliseconds
        return text

    def _count_fitting(self, max_bytes: int) -> int:
        """How many of the pending tokens surely fit into ``max_bytes`` bytes of JSON; at least one."""
        known = self._vocabulary.pieces
        for count, (token, found) in enumerate(self._pending):
            max_bytes -= _ID_BYTES
            for entry in (token, *(other for other, _ in found.top)) if found is not None else ():
                max_bytes -= _ENTRY_BYTES + _BYTE_BYTES * len(known[entry])
            if max_bytes < 0:
                return max(1, count)
        return len(self._pending)


class _TimingOwner:
    """A ``ChoiceOwner`` that adds the choice's timings to each event when it happens: the sink may get it later."""

    __slots__ = (
        "_choice",
        "_owner",
        "on_choice_answer",
        "on_choice_begun",
        "on_choice_finished",
        "on_choice_prefilled",
        "on_defect",
        "on_failed",
        "on_first_token",
    )

    def __init__(self, owner: ChoiceOwner, choice: TrackedChoice) -> None:
        self._owner = owner
        self._choice = choice
        self.on_choice_answer, self.on_choice_prefilled = owner.on_choice_answer, owner.on_choice_prefilled
        self.on_first_token, self.on_choice_finished = owner.on_first_token, owner.on_choice_finished
        self.on_choice_begun = owner.on_choice_begun
        self.on_failed, self.on_defect = owner.on_failed, owner.on_defect

    @property
    def has_tokens(self) -> bool:
        """See ``ChoiceOwner``."""
        return self._owner.has_tokens

    def emit(self, event: Event) -> None:
        """See ``ChoiceOwner``."""
        self._owner.emit(Timed(event, self._choice.timings))
