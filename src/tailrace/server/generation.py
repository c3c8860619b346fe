"""The one use case that all dialects share: a validated request in, events out.

``Generation.start`` submits every choice and waits until the engine has accepted them all, so that each refusal is
known before a status line is sent. After ``attach`` the sink gets each event while the engine's message is read, with
no task in between. ``finished`` waits for the end, and ``cancel`` stops all choices at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.stop_strings import StopAutomaton
from tailrace.errors import InvalidRequest, RequestError
from tailrace.observe.metrics import Metrics
from tailrace.observe.request_summary import GenerationFigures
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, GenerationParams, Refused, Submit, seeded
from tailrace.server.choice import Choice
from tailrace.server.context_shift import ShiftedChoice
from tailrace.server.engine_client import EngineClient
from tailrace.server.events import EventBuffer, EventSink, Failure, Usage
from tailrace.server.generation_request import GenerationRequest, refusal_error
from tailrace.server.keys.allowance import Place
from tailrace.server.served_model import ServedModel
from tailrace.server.stop_fields import stop_table
from tailrace.server.tracked_choice import TrackedChoice


class Generation:
    """One running request."""

    def __init__(
        self,
        engine: EngineClient,
        metrics: Metrics,
        model: ServedModel,
        request: GenerationRequest,
        caller: str,
        place: Place | None,
    ) -> None:
        """Use ``start``."""
        self._caller = caller
        self._place = place
        self._charges = False  #: the generation was taken: the caller's key is charged
        self._charged = 0  #: tokens so far
        self._engine = engine
        self._metrics = metrics
        self._totals = metrics.requests(0)  #: of the engine that it is sent to
        self._model = model
        self._request = request
        self._open: dict[int, Choice] = {}  #: by number; those that haven't ended
        self.tracked: list[TrackedChoice] = []  #: all choices, by number, where the request has ``tracking``
        self.shifted: ShiftedChoice | None = None  #: the only choice, where the request has a ``context_shift``
        self._unanswered = 0
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[None] = loop.create_future()
        self._buffer = EventBuffer()
        self._sink: EventSink = self._buffer
        sampling = request.params.sampling
        self.figures = GenerationFigures(
            time.monotonic(), request.params.max_tokens, sampling.temperature, sampling.top_p, request.choices
        )
        self.on_end: Callable[[], None] | None = None  #: called once, after the last event
        self._longest = 0  #: tokens of the longest choice that has ended
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._prompt_tokens = 0
        self._computed_prompt_tokens = 0  #: of them, those of computed prompts
        self._reasoning_tokens = 0
        self._accepted_tokens = 0  #: of the prediction
        self._rejected_tokens = 0
        self._stops: StopAutomaton | tuple[str, ...] = ()
        self.emit = self._buffer.emit  #: the sink's own method: a choice calls it directly

    @property
    def first_token_at(self) -> float | None:
        """When the first token came, by the monotonic clock, in seconds."""
        return self.figures.first_token_at

    @classmethod
    async def start(
        cls,
        engine: EngineClient,
        metrics: Metrics,
        request: GenerationRequest,
        receive: Receive | None = None,
        *,
        caller: str = "",
        place: Place | None = None,
    ) -> Generation:
        """Submit every choice, for the caller of this identity. The generation holds the ``place`` until its end, and
        charges its tokens to the allowance of the place's key.

        Raises RequestError when the engine refuses a choice or isn't there in time, or when the key has fewer tokens
        left than the prompts have; ClientDisconnect when ``receive``, the request's, says that its client has gone
        before.
        """
        model = await engine.ready()
        size = len(model.vocabulary)
        if not all(0 <= token < size for token in request.params.stop_tokens):
            raise InvalidRequest(f"'stop_token_ids' must be between 0 and {size - 1}.", param="stop_token_ids")
        generation = cls(engine, metrics, model, request, caller, place)
        generation._stops = await stop_table(request.stops)
        watcher = asyncio.create_task(generation._refuse_when_gone(receive)) if receive is not None else None
        try:
            generation._submit()
            await generation._accepted
            generation._hold_place()
            generation._totals.accepted(request.choices, request.params.max_tokens)
        except BaseException as error:
            generation._stop("abort" if isinstance(error, ClientDisconnect) else "error")
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
        # Its last message may have come together with the last Accepted, before this task ran again.
        if not generation._done.done():
            engine.add_timer(generation)
        return generation

    @property
    def prompt_text(self) -> str:
        """The prompts' text, for a log that has it; token numbers where a client has sent those."""
        texts = (str(prompt) if isinstance(prompt, list) else prompt.text for prompt in self._request.prompts)
        return "\n".join(texts)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return self._prompt_tokens

    def attach(self, sink: EventSink) -> None:
        """Send ``sink`` the events so far and all that follow: the last is ``Usage`` or ``Failure``, or none after a
        cancel.
        """
        for event in self._buffer.events:
            sink.emit(event)
        self._sink = sink
        self.emit = sink.emit

    async def finished(self) -> None:
        """Return after the last event or after ``cancel``. Raises the exception of a defect."""
        await self._done

    def cancel(self) -> None:
        """Stop every choice that still runs; no event follows. Harmless after the end."""
        self._stop("abort")

    def fail(self, error: RequestError) -> None:
        """End with ``error``."""
        if not self._open:
            return
        for choice in list(self._open.values()):
            choice.close_think_tag()  # Clients hide an open thought, and would hide the error with it.
        self._release("error")
        self.figures.error = error.code or error.type
        self._metrics.request_failed(error)
        error.counted = True
        self.emit(Failure(error, self._usage()))
        self._end()

    def on_tick(self, seconds: float) -> None:
        """See ``TimerCallbacks``."""
        self._charge()
        self._sink.tick(seconds)

    # What choices call

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None:
        """See ``ChoiceOwner``. A choice emits no event before its answer."""
        if isinstance(answer, Refused):
            self._refuse(refusal_error(answer, self._request))
            return
        if choice.index % self._request.choices == 0:  # A prompt counts once for all its replies.
            choice.prompt_tokens = answer.prompt_tokens
            self._prompt_tokens += answer.prompt_tokens
        self._unanswered -= 1
        if not self._unanswered and not self._accepted.done():
            self._accepted.set_result(None)

    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``ChoiceOwner``."""
        self._metrics.prompt_computed(prompt_seconds)
        choice.prefilled_at, choice.prefill_seconds = time.monotonic(), prompt_seconds
        queued = max(0.0, choice.prefilled_at - self.figures.started_at - prompt_seconds)
        self._totals.started(queued, prompt_seconds)
        if self.figures.queue_seconds is None:
            self.figures.queue_seconds, self.figures.prefill_seconds = queued, prompt_seconds
        if choice.index % self._request.choices == 0:
            self._cached_tokens += cached_tokens
            self._computed_prompt_tokens += choice.prompt_tokens
            self._totals.prompt_computed(choice.prompt_tokens, cached_tokens)

    def on_first_token(self) -> None:
        """See ``ChoiceOwner``."""
        if self.figures.first_token_at is None:
            self.figures.first_token_at = time.monotonic()
            self._totals.first_token_seconds.observe(self.figures.first_token_at - self.figures.started_at)

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """See ``ChoiceOwner``."""
        self._engine.cancel(choice.identity)  # It runs on when a stop string has ended it.
        del self._open[choice.index]
        self._count(choice, completion_tokens, reason)
        if not self._open:
            self._totals.request_seconds.observe(time.monotonic() - self.figures.started_at)
            self._count_usage()
            self.emit(self._usage())
            self._end()

    def resume(self, choice: ShiftedChoice, prompt: list[int], max_tokens: int) -> None:
        """See ``ShiftOwner``. Each round has a seed of its own: an equal seed would often repeat the text."""
        # A round has neither grammar nor prediction: both are for a reply from its beginning.
        params = msgspec.structs.replace(
            seeded(self._request.params, choice.rounds),
            max_tokens=max_tokens,
            min_tokens=0,
            logprobs_after_sampling=False,
            grammar=None,
            prediction=None,
            suffix=None,
        )

        def make(identity: int) -> Submit:
            return Submit(id=identity, prompt=prompt, params=params, caller=self._caller)

        choice.identity = self._engine.submit(make, choice)

    def on_failed(self, error: RequestError) -> None:
        """See ``ChoiceOwner``. Every lost choice reports it; the first report ends the request."""
        if not self._refuse(error):
            self.fail(error)

    def on_defect(self, error: Exception) -> None:
        """See ``ChoiceOwner`` and ``TimerCallbacks``: ``start`` or ``finished`` raises the error."""
        if not self._refuse(error) and not self._done.done():
            self._done.set_exception(error)
        self._stop("error")

    def _count(self, choice: Choice, completion_tokens: int, reason: str) -> None:
        """A choice has ended: add its tokens to the usage."""
        now, since = time.monotonic(), choice.prefilled_at
        self._totals.finished[reason] += 1
        self._totals.ended(completion_tokens, choice.prefill_seconds, None if since is None else now - since)
        self._longest = max(self._longest, completion_tokens)
        self.figures.finishes.append(reason)
        self._completion_tokens += completion_tokens
        self._reasoning_tokens += choice.reasoning_tokens
        self._accepted_tokens += choice.accepted_draft_tokens
        self._rejected_tokens += choice.rejected_draft_tokens
        if (first := self.figures.first_token_at) is not None:
            self._metrics.reply_ended(now - first)

    def _usage(self) -> Usage:
        """The usage of the choices that have ended."""
        used = Usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens, self._reasoning_tokens)
        if self._request.params.prediction is None:
            return used
        return msgspec.structs.replace(
            used, accepted_tokens=self._accepted_tokens, rejected_tokens=self._rejected_tokens
        )

    def _hold_place(self) -> None:
        """Take the prompts' tokens from the key's allowance. Raises TooManyRequests where fewer are left."""
        if (place := self._place) is None:
            return
        if not self._done.done():
            place.allowance.require(self._prompt_tokens)
            place.hold()
            self._done.add_done_callback(lambda _: place.release())
        self._charges = True
        self._charge()

    def _charge(self) -> None:
        """Charge the key for the tokens since the last time."""
        if self._place is None or not self._charges:
            return
        running = sum(choice.n_tokens for choice in self._open.values())
        used = self._prompt_tokens + self._completion_tokens + running
        if used > self._charged:
            self._place.allowance.charge(used - self._charged)
            self._charged = used

    async def _refuse_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._refuse(ClientDisconnect())

    def _refuse(self, error: Exception) -> bool:
        """Have ``start`` raise ``error``; False when it has returned."""
        if self._accepted.done():
            return False
        self._accepted.set_exception(error)
        return True

    def _stop(self, reason: str) -> None:
        self._release(reason)
        self._end()

    def _release(self, reason: str) -> None:
        """Stop the choices that still run, and count their tokens."""
        if not self._open:
            return
        for choice in self._open.values():
            self._engine.cancel(choice.identity)
            self._count(choice, choice.n_tokens, reason)
        self._open.clear()
        self._count_usage()

    def _count_usage(self) -> None:
        """Count the request's usage once, at its end. Prompts that were never computed don't count."""
        used = Usage(self._computed_prompt_tokens, self._completion_tokens, self._cached_tokens)
        self._metrics.count_tokens(used)
        if self.figures.first_token_at is not None:
            self._totals.longest_generations.observe(self._longest)

    def _end(self) -> None:
        self._charge()
        self._engine.remove_timer(self)
        if not self._done.done():
            self._done.set_result(None)
        figures = self.figures
        if figures.ended_at is not None:
            return
        figures.ended_at = time.monotonic()
        figures.prompt_tokens, figures.cached_tokens = self._prompt_tokens, self._cached_tokens
        figures.completion_tokens = self._completion_tokens
        if self.on_end is not None:
            self.on_end()

    def _submit(self) -> None:
        """Submit every choice. When one can't be submitted, ``start`` stops the others."""
        request = self._request
        functions = {function.name: function for function in request.tools}
        vocabulary = self._model.vocabulary
        tracking = request.tracking
        params = request.params
        if tracking is not None and tracking.silent:
            params = msgspec.structs.replace(params, max_tokens=1)
        if request.chat:
            vocabulary = self._model.vocabulary_showing(self._model.family.markup(functions).markers)
        progress = tracking is not None and tracking.progress
        for prompt in request.prompts:
            text = request.prompt_text if isinstance(prompt, list) else prompt
            choices: list[Choice] = []
            for _ in range(request.choices):
                parser = self._model.family.parser(text, functions) if request.chat and text is not None else None
                pipeline = ReplyPipeline(
                    vocabulary, self._stops, parser, keep_stop=request.keep_stop, min_tokens=params.min_tokens
                )
                choices.append(self._choice(len(self._open) + len(choices), vocabulary, pipeline, prompt))
            make = _submit_of(prompt, params, self._caller, progress=progress)
            for choice, identity in zip(choices, self._engine.submit_copies(make, choices), strict=True):
                choice.identity = identity
                self._open[choice.index] = choice
                self._unanswered += 1
        self._totals = self._metrics.requests(self._engine.replica_of(next(iter(self._open.values())).identity))

    def _choice(
        self, index: int, vocabulary: PieceTable, pipeline: ReplyPipeline, prompt: PromptText | list[int]
    ) -> Choice:
        max_tool_calls, inline = self._request.max_tool_calls, self._request.inline_reasoning
        if (shift := self._request.context_shift) is not None:
            assert isinstance(prompt, list), "a context shift counts tokens"
            self.shifted = ShiftedChoice(
                self,
                index,
                vocabulary,
                pipeline,
                shift,
                prompt,
                max_tool_calls=max_tool_calls,
                inline_reasoning=inline,
            )
            return self.shifted
        tracking = self._request.tracking
        if tracking is None:
            return Choice(self, index, vocabulary, pipeline, max_tool_calls=max_tool_calls, inline_reasoning=inline)
        tracked = TrackedChoice(
            self, index, vocabulary, pipeline, tracking, max_tool_calls=max_tool_calls, inline_reasoning=inline
        )
        self.tracked.append(tracked)
        return tracked


def _submit_of(
    prompt: PromptText | list[int], params: GenerationParams, caller: str, *, progress: bool
) -> Callable[[int, range], Submit]:
    """Makes the submit of the choices of these numbers from the first one's id."""
    return lambda identity, numbers: Submit(
        id=identity,
        prompt=prompt,
        params=seeded(params, numbers.start),
        copies=len(numbers),
        progress=progress,
        caller=caller,
    )
