"""The one use case that all dialects share: a validated request in, events out.

``Generation.start`` submits every choice and waits until the engine has accepted them all, so that each refusal is
known before a status line is sent. After ``attach`` the sink gets each event while the engine's message is read, with
no task in between. ``finished`` waits for the end, and ``cancel`` stops all choices at any time.

If the engine dies before any choice has a token, the request is submitted once more, to the next engine.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from tailrace.errors import EngineDied, GrammarTooComplex, InvalidRequest, RequestError
from tailrace.observe.metrics import ModelMetrics
from tailrace.protocol import Accepted, Refused, Submit
from tailrace.server.admission import QueuePlace
from tailrace.server.choice import Choice
from tailrace.server.choice_group import ChoiceGroup, estimated_tokens, make_groups
from tailrace.server.context_shift import ShiftedChoice, round_params
from tailrace.server.deadlines import Deadlines
from tailrace.server.engine_client import EngineClient
from tailrace.server.events import EventBuffer, EventSink, Failure
from tailrace.server.generation_accounting import GenerationAccounting
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
        metrics: ModelMetrics,
        model: ServedModel,
        request: GenerationRequest,
        caller: str,
        place: Place | None,
        deadlines: Deadlines | None,
        queue_place: QueuePlace | None,
    ) -> None:
        """Use ``start``."""
        self._caller = caller
        self._engine = engine
        self.model_name = engine.name
        self._accounting = GenerationAccounting(metrics, request, place)
        self.figures, self.count = self._accounting.figures, self._accounting.count
        self._context = model.info.context
        self._request = request
        self._queue_place = queue_place
        self._deadlines = deadlines
        self._groups: list[ChoiceGroup] = []
        self._open: dict[int, Choice] = {}  #: by number; those that haven't ended
        self._unanswered = 0
        self.has_begun = False  #: the engine computes the prompt of a choice, or has computed it
        self.prompt_computed = 0  #: tokens of the longest prompt of which that is reported
        self._reports_progress = False
        self._has_restarted = False
        self._restarting: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[None] = loop.create_future()
        self._begun: asyncio.Future[None] = loop.create_future()
        self._buffer = EventBuffer()
        self._sink: EventSink = self._buffer
        self._at_end: list[Callable[[], None]] = []
        self.emit = self._buffer.emit  #: the sink's own method: a choice calls it directly

    @property
    def tracked(self) -> list[TrackedChoice]:
        """All choices, by number, where the request has ``tracking``."""
        return [choice for group in self._groups for choice in group.choices if isinstance(choice, TrackedChoice)]

    @property
    def shifted(self) -> ShiftedChoice | None:
        """The only choice, where the request has a ``context_shift``."""
        choice = self._groups[0].choices[0]
        return choice if isinstance(choice, ShiftedChoice) else None

    @property
    def first_token_at(self) -> float | None:
        """When the first token came, by the monotonic clock, in seconds."""
        return self.figures.first_token_at

    @property
    def has_tokens(self) -> bool:
        """See ``ChoiceOwner``."""
        return self.figures.first_token_at is not None

    @classmethod
    async def start(
        cls,
        engine: EngineClient,
        metrics: ModelMetrics,
        request: GenerationRequest,
        receive: Receive | None = None,
        *,
        caller: str = "",
        place: Place | None = None,
        queue_place: QueuePlace | None = None,
        deadlines: Deadlines | None = None,
        reports_progress: bool = False,
    ) -> Generation:
        """Submit every choice, for the caller of this identity. The generation holds the ``place`` until its end, and
        charges its tokens to the allowance of the place's key. It closes the ``queue_place`` at its end, also where
        this raises. ``reports_progress``: a page shows how much of its prompt is computed.

        Raises RequestError when the engine refuses a choice or isn't there in time, or when the key has fewer tokens
        left than the prompts have; ClientDisconnect when ``receive``, the request's, says that its client has gone
        before.
        """
        table = await stop_table(request.stops)
        model = await engine.ready()
        size = len(model.vocabulary)
        if not all(0 <= token < size for token in request.params.stop_tokens):
            raise InvalidRequest(f"'stop_token_ids' must be between 0 and {size - 1}.", param="stop_token_ids")
        generation = cls(engine, metrics, model, request, caller, place, deadlines, queue_place)
        generation._reports_progress = reports_progress
        generation._groups = await make_groups(generation, model, request, table)
        watcher = asyncio.create_task(generation._refuse_when_gone(receive)) if receive is not None else None
        try:
            generation._submit()
            await generation._accepted
            await generation._accounting.accepted(generation._done)
            generation._accounting.charge(generation.reply_tokens)
        except BaseException as error:
            generation._stop("abort" if isinstance(error, ClientDisconnect) else "error")
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
        # Its last message may have come together with the last Accepted, before this task ran again.
        if not generation._done.done():
            engine.timer.add(generation)
        return generation

    @property
    def prompt_text(self) -> str:
        """The prompts' text, for a log that has it; token numbers where a client has sent those."""
        texts = (str(prompt) if isinstance(prompt, list) else prompt.text for prompt in self._request.prompts)
        return "\n".join(texts)

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it once, after the last event; at once where that is over."""
        if self.figures.ended_at is not None:
            call()
        else:
            self._at_end.append(call)

    @property
    def is_alone(self) -> bool:
        """Whether no generation of its model waits for the engine."""
        return not self._engine.waiting

    @property
    def reply_tokens(self) -> int:
        """Tokens of all replies so far."""
        return self.count.completion + sum(choice.n_tokens for choice in self._open.values())

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return self.count.prompt

    def attach(self, sink: EventSink) -> None:
        """Send ``sink`` the events so far and all that follow: the last is ``Usage`` or ``Failure``, or none after a
        cancel.
        """
        for event in self._buffer.events:
            sink.emit(event)
        self._buffer.events.clear()
        if not self._done.done():
            self._sink = sink
            self.emit = sink.emit

    async def finished(self) -> None:
        """Return after the last event or after ``cancel``. Raises the exception of a defect."""
        await self._done

    async def begins(self) -> None:
        """Return when an engine works on a choice, or after the end. In time only with ``reports_progress``."""
        await asyncio.wait((self._begun, self._done), return_when=asyncio.FIRST_COMPLETED)

    def _begin(self) -> None:
        self.has_begun = True
        if not self._begun.done():
            self._begun.set_result(None)

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
        self._accounting.failed(error)
        self.emit(Failure(error, self.count.usage))
        self._end()

    def on_tick(self, seconds: float) -> None:
        """See ``TimerCallbacks``."""
        self._accounting.charge(self.reply_tokens)
        if self._deadlines is not None:
            late = self._deadlines.late(
                time.monotonic(), queued=not self.has_begun, waits_for_token=self.figures.first_token_at is None
            )
            if late is not None:
                self.fail(late)
                return
        self._sink.tick(seconds)

    # What choices call

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None:
        """See ``ChoiceOwner``. A choice emits no event before its answer."""
        if isinstance(answer, Refused):
            self.on_failed(refusal_error(answer, self._request))
            return
        if choice.index % self._request.choices == 0:  # A prompt counts once for all its replies.
            choice.prompt_tokens = answer.prompt_tokens
            self.count.prompt += answer.prompt_tokens
            if self._queue_place is not None and not self._has_restarted:
                prompt = self._groups[choice.index // self._request.choices].prompt
                self._queue_place.correct(estimated_tokens(prompt, self._context), answer.prompt_tokens)
        self._unanswered -= 1
        if not self._unanswered and not self._accepted.done():
            self._accepted.set_result(None)

    def on_choice_begun(self, computed: int) -> None:
        """See ``ChoiceOwner``."""
        self._begin()
        self.prompt_computed = max(self.prompt_computed, computed)

    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``ChoiceOwner``."""
        self._accounting.prompt_computed(choice, cached_tokens, prompt_seconds)
        if choice.index % self._request.choices == 0 and self._queue_place is not None:
            self._queue_place.give_back(tokens=choice.prompt_tokens)

    def on_first_token(self) -> None:
        """See ``ChoiceOwner``."""
        if self.figures.first_token_at is None:
            self._begin()
            self._accounting.first_token()

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """See ``ChoiceOwner``."""
        self._engine.cancel(choice.identity)  # It runs on when a stop string has ended it.
        del self._open[choice.index]
        if self._queue_place is not None:
            self._queue_place.give_back(requests=1)
        self._accounting.reply_ended(choice, completion_tokens, reason)
        if not self._open:
            self._accounting.finished()
            self._accounting.all_replies_ended()
            self.emit(self.count.usage)
            self._end()

    def resume(self, choice: ShiftedChoice, prompt: list[int], max_tokens: int) -> None:
        """See ``ShiftOwner``."""
        params = round_params(self._request.params, choice.rounds, max_tokens)

        def make(identity: int) -> Submit:
            return Submit(id=identity, prompt=prompt, params=params, caller=self._caller)

        choice.identity = self._engine.submit(make, choice)

    def on_failed(self, error: RequestError) -> None:
        """See ``ChoiceOwner``. Every lost choice reports it; the first report ends or restarts the request."""
        if self._restarting is not None:
            return
        if isinstance(error, GrammarTooComplex):
            error.param = self._request.grammar_param
        if isinstance(error, EngineDied) and self._can_restart():
            self._restart()
        elif not self._refuse(error):
            self.fail(error)

    def on_defect(self, error: Exception) -> None:
        """See ``ChoiceOwner`` and ``TimerCallbacks``: ``start`` or ``finished`` raises the error."""
        if not self._refuse(error) and not self._done.done():
            self._done.set_exception(error)
        self._stop("error")

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
            self._accounting.reply_ended(choice, choice.n_tokens, reason)
        self._open.clear()
        self._accounting.all_replies_ended()

    def _end(self) -> None:
        self._accounting.charge(self.reply_tokens)
        self._engine.timer.remove(self)
        if self._queue_place is not None:
            self._queue_place.close()
        if self._restarting is not None:
            self._restarting.cancel()
            self._restarting = None
        if not self._done.done():
            self._done.set_result(None)
        if self.figures.ended_at is not None:
            return
        self._let_go()
        self._accounting.end()
        for call in self._at_end:
            call()

    def _let_go(self) -> None:
        """Drop what refers back to the generation. Prompt and reply would stay until a collection, which is rare."""
        if self._sink is not self._buffer:  # Before ``attach``, the buffer has the events.
            self._sink = self._buffer
            self.emit = self._buffer.emit
        for group in self._groups:
            for choice in group.choices:
                choice.let_go()

    def _submit(self) -> None:
        """Submit every choice. When one can't be submitted, ``start`` stops the others."""
        progress = self._reports_progress or (self._deadlines is not None and self._deadlines.queue < math.inf)
        for group in self._groups:
            group.submit(self._engine, self._request, self._caller, progress=progress)
            for choice in group.choices:
                self._open[choice.index] = choice
                self._unanswered += 1
        self._accounting.sent_to(self._engine.replica_of(next(iter(self._open.values())).identity))

    # The end of an engine

    def _can_restart(self) -> bool:
        """Whether another engine can take the whole request: no choice has a token, and it is the first time."""
        choices = [choice for group in self._groups for choice in group.choices]
        return not self._has_restarted and all(not choice.n_tokens and choice.index in self._open for choice in choices)

    def _restart(self) -> None:
        """Submit every choice again, once an engine is there. Choices that another engine has begun are cancelled."""
        self._has_restarted = True
        for choice in self._open.values():
            self._engine.cancel(choice.identity)
        self._restarting = asyncio.create_task(self._submit_again())

    async def _submit_again(self) -> None:
        try:
            await self._engine.ready()
            self.count.prompt = self._unanswered = 0
            self._restarting = None
            self._submit()
        except RequestError as error:
            self._restarting = None
            self.on_failed(error)
        except Exception as error:
            self._restarting = None
            self.on_defect(error)
