"""The one use case that all dialects share: a validated request in, events out.

``Generation.start`` submits every choice and waits until the engine has accepted them all, so that whatever is wrong is
known before a status line is sent. ``events`` then tells what happens; ``cancel`` stops everything and may be called at
any time, more than once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

import msgspec

from tailrace.chat.parse import Part, Reasoning, ReplyParser, Text
from tailrace.chat.pipeline import ReplyPipeline
from tailrace.errors import ContextLengthExceeded, InvalidRequest, RequestError, SlowReader
from tailrace.messages import Accepted, Refused, Sampling, Submit, TokenLogprobs
from tailrace.observe.metrics import Metrics
from tailrace.server.client import EngineClient, ServedModel
from tailrace.server.events import (
    Event,
    Failure,
    Finish,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tailrace.server.mailbox import Begun, End, Letter, Mailbox, Silence, Token

#: Bounds of one event, so that its line stays under 60,000 bytes even when every character is escaped (to six bytes):
#: one-api's scanner silently ends a stream at 64 KiB.
_MOST_CHARACTERS = 8192
_MOST_BYTES = 55_000


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect asks for: ``choices`` replies to each of ``prompts``, in that order."""

    prompts: list[str | list[int]]
    prompt_param: str  #: the field to name when the prompt is at fault
    choices: int = 1
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    chat: bool = False  #: whether reasoning and tool calls are told apart from text
    tools: bool = False  #: whether tool calls may come
    max_tool_calls: int = 2**31  #: the reply ends after so many
    inline_reasoning: bool = False  #: reasoning comes as text between <think> tags


class _Choice:
    """One reply in the making."""

    __slots__ = ("identity", "logprobs", "pipeline", "seen", "thinking", "tool_calls")

    def __init__(self, identity: int, pipeline: ReplyPipeline) -> None:
        self.identity = identity
        self.pipeline = pipeline
        self.seen = 0  #: tokens so far: what counts when a stop string ends the reply
        self.tool_calls = 0
        self.thinking = False  #: an inline <think> is open
        self.logprobs: list[TokenLogprob] = []  #: of tokens whose text is held back


class Generation:
    """One running request."""

    def __init__(
        self, engine: EngineClient, metrics: Metrics, model: ServedModel, mailbox: Mailbox, request: GenerationRequest
    ) -> None:
        """Use ``start``."""
        self._engine = engine
        self._metrics = metrics
        self._model = model
        self._mailbox = mailbox
        self._request = request
        self._choices: list[_Choice] = []
        self._open: set[int] = set()
        self._begun = time.monotonic()
        self._first_token: float | None = None
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._cancelled = False
        self.prompt_tokens = 0

    @classmethod
    async def start(
        cls, engine: EngineClient, metrics: Metrics, request: GenerationRequest, *, bound: int
    ) -> Generation:
        """Submit every choice. Raises RequestError when the engine refuses one or isn't there in time."""
        model = await engine.ready()
        size = len(model.vocabulary)
        if not all(0 <= token < size for token in request.stop_tokens):
            raise InvalidRequest(f"'stop_token_ids' must be between 0 and {size - 1}.", param="stop_token_ids")
        generation = cls(engine, metrics, model, Mailbox(bound), request)
        try:
            generation._mailbox.on_overflow = generation._silence_engine
            generation._submit()
            await generation._accepted()
        except BaseException:
            generation._stop("error")
            raise
        return generation

    def cancel(self) -> None:
        """Stop every choice that still runs; ``events`` ends without another word."""
        self._cancelled = True
        self._stop("abort")
        self._mailbox.put(Silence())  # Wakes the reader.

    async def events(self) -> AsyncIterator[list[Event]]:
        """What happens, in batches as it comes. Ends after ``Usage`` or ``Failure``, or when cancelled meanwhile."""
        try:
            while self._open:
                letters = await self._mailbox.take()
                if self._cancelled:
                    return
                events: list[Event] = []
                failure: RequestError | None = None
                for letter in letters:
                    if isinstance(letter, RequestError):
                        # One for the request, though every choice that was lost has sent one.
                        failure = letter
                        break
                    self._read(letter, events)
                if self._mailbox.overflowed:
                    failure = SlowReader("The client reads its stream too slowly, so it was stopped.")
                if failure is not None:
                    for index in sorted(self._open):
                        self._close_thought(index, events)  # Else the error would be part of it, and not be seen.
                    events.append(Failure(failure))
                    self._stop("error")
                elif not self._open:
                    events.append(self._usage())
                if events:
                    self._mailbox.silent_ticks = 0
                    yield events
        finally:
            self._stop("abort")

    def _silence_engine(self) -> None:
        """The reader may be stuck in a write for long: stop producing now, tell it when it comes back."""
        for index in self._open:
            self._engine.cancel(self._choices[index].identity)

    def _usage(self) -> Usage:
        usage = Usage(self.prompt_tokens, self._completion_tokens, self._cached_tokens)
        self._metrics.completed(usage, time.monotonic() - self._begun)
        return usage

    def _stop(self, reason: str) -> None:
        for index in self._open:
            self._engine.cancel(self._choices[index].identity)
            self._metrics.finished(reason)
        self._open.clear()

    def _submit(self) -> None:
        request = self._request
        for prompt in request.prompts:
            for number in range(request.choices):
                index = len(self._choices)
                sampling = request.sampling
                if sampling.seed is not None and number:
                    sampling = msgspec.structs.replace(sampling, seed=sampling.seed + number)

                def make(identity: int, prompt: str | list[int] = prompt, sampling: Sampling = sampling) -> Submit:
                    return Submit(
                        id=identity,
                        prompt=prompt,
                        max_tokens=request.max_tokens,
                        sampling=sampling,
                        stop_tokens=request.stop_tokens,
                        ignore_eos=request.ignore_eos,
                        logprobs=request.logprobs,
                    )

                parser = None
                if request.chat and isinstance(prompt, str):
                    parser = ReplyParser(prompt, tools=request.tools)
                pipeline = ReplyPipeline(self._model.vocabulary, request.stops, parser)
                self._choices.append(_Choice(self._engine.submit(make, self._mailbox, index), pipeline))
                self._open.add(index)

    async def _accepted(self) -> None:
        """Wait for every choice's Accepted. Tokens can't be among the letters before the last of them is read."""
        missing = len(self._choices)
        early: list[Letter] = []
        while missing:
            for letter in await self._mailbox.take():
                if isinstance(letter, Accepted):
                    missing -= 1
                    # Each prompt is counted once, however many replies it gets.
                    if (letter.id - self._choices[0].identity) % self._request.choices == 0:
                        self.prompt_tokens += letter.prompt_tokens
                elif isinstance(letter, Refused):
                    raise self._refusal(letter)
                elif isinstance(letter, RequestError):
                    raise letter
                else:
                    early.append(letter)
        for letter in early:
            self._mailbox.put(letter)

    def _refusal(self, refused: Refused) -> RequestError:
        if refused.code == "context_length_exceeded":
            return ContextLengthExceeded(refused.message, param=self._request.prompt_param)
        param = "logit_bias" if refused.message.startswith("logit_bias") else self._request.prompt_param
        return InvalidRequest(f"Invalid value for '{param}': {refused.message}", param=param)

    def _read(self, letter: Letter, events: list[Event]) -> None:
        if isinstance(letter, tuple):
            if letter[0] in self._open:
                self._token(letter, events)
        elif isinstance(letter, End):
            if letter.choice in self._open:
                self._end(letter, events)
        elif isinstance(letter, Begun):
            # Each prompt is counted once, however many replies it gets.
            if letter.choice % self._request.choices == 0:
                self._cached_tokens += letter.cached_tokens
        elif isinstance(letter, Silence):
            events.append(KeepAlive())

    def _token(self, letter: Token, events: list[Event]) -> None:
        if self._first_token is None:
            self._first_token = time.monotonic()
            self._metrics.first_token(self._first_token - self._begun)
        index, token, logprobs = letter
        choice = self._choices[index]
        choice.seen += 1
        if logprobs is not None:
            choice.logprobs.append(self._logprob(token, logprobs))
        self._tell(index, choice.pipeline.feed(token), events)
        if choice.pipeline.stopped or choice.tool_calls >= self._request.max_tool_calls:
            self._engine.cancel(choice.identity)
            self._completion_tokens += choice.seen
            self._finish(index, "stop", events)

    def _end(self, letter: End, events: list[Event]) -> None:
        self._completion_tokens += letter.finished.completion_tokens
        self._finish(letter.choice, letter.finished.reason, events)

    def _finish(self, index: int, reason: FinishReason, events: list[Event]) -> None:
        choice = self._choices[index]
        self._tell(index, choice.pipeline.finish(), events)
        self._close_thought(index, events)
        while choice.logprobs:
            self._tell_text(index, "", events)
        if choice.tool_calls:
            reason = "tool_calls"
        self._open.discard(index)
        self._metrics.finished(reason)
        events.append(Finish(index, reason))

    def _tell(self, index: int, parts: list[Part], events: list[Event]) -> None:
        choice = self._choices[index]
        for part in parts:
            if isinstance(part, Text):
                self._close_thought(index, events)
                self._tell_text(index, part.text, events)
            elif isinstance(part, Reasoning):
                self._tell_reasoning(index, part.text, events)
            elif choice.tool_calls < self._request.max_tool_calls:
                self._close_thought(index, events)
                number = choice.tool_calls
                choice.tool_calls += 1
                events.append(ToolCallDelta(index, number, id=f"call_{secrets.token_hex(12)}", name=part.name))
                events.extend(ToolCallDelta(index, number, arguments=piece) for piece in _pieces(part.arguments))

    def _tell_text(self, index: int, text: str, events: list[Event]) -> None:
        choice = self._choices[index]
        for piece in _pieces(text):
            fitting = _fitting(choice.logprobs, _MOST_BYTES - 6 * len(piece)) if choice.logprobs else 0
            if not piece:
                fitting = max(1, fitting)  # They must go out somewhere.
            held = choice.logprobs[:fitting] or None
            del choice.logprobs[:fitting]
            events.append(TextDelta(index, piece, held))

    def _tell_reasoning(self, index: int, text: str, events: list[Event]) -> None:
        if not self._request.inline_reasoning:
            events.extend(ReasoningDelta(index, piece) for piece in _pieces(text))
            return
        choice = self._choices[index]
        if not choice.thinking:
            choice.thinking = True
            events.append(TextDelta(index, "<think>"))
        events.extend(TextDelta(index, piece) for piece in _pieces(text))

    def _close_thought(self, index: int, events: list[Event]) -> None:
        if self._choices[index].thinking:
            self._choices[index].thinking = False
            events.append(TextDelta(index, "</think>"))

    def _logprob(self, token: int, logprobs: TokenLogprobs) -> TokenLogprob:
        pieces = self._model.vocabulary.pieces

        def text(piece: bytes) -> str:
            return piece.decode("utf-8", "replace")

        top = [(text(pieces[t]), pieces[t], value) for t, value in logprobs.top]
        return TokenLogprob(text(pieces[token]), pieces[token], logprobs.logprob, top)


def _fitting(entries: list[TokenLogprob], room: int) -> int:
    """How many of the entries surely fit into ``room`` bytes of JSON."""
    for count, entry in enumerate(entries):
        for raw in (entry.raw, *(raw for _, raw, _ in entry.top)):
            # Keys and number, each byte as text of up to six bytes, and as a number of up to three with its comma.
            room -= 80 + 10 * len(raw)
        if room < 0:
            return count
    return len(entries)


def _pieces(text: str) -> list[str]:
    """``text`` cut to the size of an event."""
    if len(text) <= _MOST_CHARACTERS:
        return [text]
    return [text[start : start + _MOST_CHARACTERS] for start in range(0, len(text), _MOST_CHARACTERS)]
