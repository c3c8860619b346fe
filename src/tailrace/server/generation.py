"""The one use case that all dialects share: a validated request in, events out.

``Generation.start`` submits every choice and waits until the engine has accepted them all, so that whatever is wrong is
known before a status line is sent. Whoever then calls ``listen`` is told what happens, as the engine's messages are
read and without a task in between; ``finished`` waits for the end, and ``cancel`` stops everything at any time.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.stop_strings import StopAutomaton
from tailrace.chat.tools import Function
from tailrace.errors import EngineUnavailable, InvalidRequest, RequestError
from tailrace.observe.metrics import Metrics
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, GenerationParams, Refused, Submit
from tailrace.server.choice import Choice
from tailrace.server.context_shift import ContextShift, ShiftedChoice
from tailrace.server.engine_client import EngineClient
from tailrace.server.engine_query import too_long
from tailrace.server.events import EventBuffer, EventSink, Failure, Usage
from tailrace.server.served_model import ServedModel
from tailrace.server.stop_fields import stop_table
from tailrace.server.tracked_choice import TrackedChoice, TrackingOptions


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect asks for: ``choices`` replies to each of ``prompts``, in that order."""

    prompts: list[PromptText | list[int]]
    prompt_param: str  #: the field to name when the prompt is at fault
    choices: int = 1
    params: GenerationParams = GenerationParams()
    stops: tuple[str, ...] = ()
    keep_stop: bool = False  #: the stop string that ends a reply is part of it
    grammar_param: str = "grammar"  #: the field to name when the grammar is at fault
    chat: bool = False  #: whether reasoning and tool calls are told apart from text
    tools: tuple[Function, ...] = ()  #: what may be called
    max_tool_calls: int = 2**31  #: the reply ends after so many
    inline_reasoning: bool = False  #: reasoning comes as text between <think> tags
    tracking: TrackingOptions | None = None  #: what the client wants to know of the choices' tokens and times
    prompt_text: PromptText | None = None  #: the only prompt's text for the parser, where it is given as tokens
    window: ContextShift | None = None  #: how the only choice's context moves; its prompt is given as tokens


class Generation:
    """One running request."""

    def __init__(self, engine: EngineClient, metrics: Metrics, model: ServedModel, request: GenerationRequest) -> None:
        """Use ``start``."""
        self._engine = engine
        self._metrics = metrics
        self._model = model
        self._request = request
        self._open: dict[int, Choice] = {}  #: by number; those that haven't ended
        self.tracked: list[TrackedChoice] = []  #: all choices, by number, where the request has ``tracking``
        self.windowed: ShiftedChoice | None = None  #: the only choice, where the request has a ``window``
        self._unanswered = 0
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[None] = loop.create_future()
        self._early = EventBuffer()
        self._listener: EventSink = self._early
        self._begun = time.monotonic()
        self._first_token: float | None = None
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._prompt_tokens = 0
        self._read_tokens = 0  #: of them, those of prompts that have been read
        self._reasoning_tokens = 0
        self._accepted_tokens = 0  #: of the prediction
        self._rejected_tokens = 0
        self._stops: StopAutomaton | tuple[str, ...] = ()
        self.emit = self._early.emit  #: the listener's own: nothing stands between a choice and it

    @property
    def first_token_at(self) -> float | None:
        """When the first token came, by the monotonic clock, in seconds."""
        return self._first_token

    @classmethod
    async def start(
        cls, engine: EngineClient, metrics: Metrics, request: GenerationRequest, receive: Receive | None = None
    ) -> Generation:
        """Submit every choice. Raises RequestError when the engine refuses one or isn't there in time, and
        ClientDisconnect when ``receive``, the request's, says that its client has gone before.
        """
        model = await engine.ready()
        size = len(model.vocabulary)
        if not all(0 <= token < size for token in request.params.stop_tokens):
            raise InvalidRequest(f"'stop_token_ids' must be between 0 and {size - 1}.", param="stop_token_ids")
        generation = cls(engine, metrics, model, request)
        generation._stops = await stop_table(request.stops)
        watcher = asyncio.create_task(generation._refuse_when_gone(receive)) if receive is not None else None
        try:
            generation._submit()
            await generation._accepted
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
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return self._prompt_tokens

    def listen(self, listener: EventSink) -> None:
        """Tell ``listener`` what has happened so far and all that will: any number of events, ended by ``Usage`` or
        ``Failure``, or by nothing when the generation is cancelled.
        """
        for event in self._early.events:
            listener.emit(event)
        self._listener = listener
        self.emit = listener.emit

    async def finished(self) -> None:
        """Return when the last event has been told, or after ``cancel``. Raises what a defect raised on the way."""
        await self._done

    def cancel(self) -> None:
        """Stop every choice that still runs; no more is told. Harmless after the end."""
        self._stop("abort")

    def fail(self, error: RequestError) -> None:
        """End with ``error``."""
        if not self._open:
            return
        for choice in list(self._open.values()):
            choice.close_think_tag()  # Else the error would be part of it, and not be seen.
        self._release("error")
        self.emit(Failure(error, self._usage()))
        self._end()

    def on_tick(self, seconds: float) -> None:
        """See ``TimerCallbacks``."""
        self._listener.tick(seconds)

    # What choices call

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None:
        """See ``ChoiceOwner``. Nothing is told of a choice before its answer."""
        if isinstance(answer, Refused):
            self._refuse(self._refusal(answer))
            return
        if choice.index % self._request.choices == 0:  # Each prompt is counted once, however many replies it gets.
            choice.prompt_tokens = answer.prompt_tokens
            self._prompt_tokens += answer.prompt_tokens
        self._unanswered -= 1
        if not self._unanswered and not self._accepted.done():
            self._accepted.set_result(None)

    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``ChoiceOwner``."""
        self._metrics.prompt_computed(prompt_seconds)
        if choice.index % self._request.choices == 0:
            self._cached_tokens += cached_tokens
            self._read_tokens += choice.prompt_tokens

    def on_first_token(self) -> None:
        """See ``ChoiceOwner``."""
        if self._first_token is None:
            self._first_token = time.monotonic()
            self._metrics.first_token(self._first_token - self._begun)

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        """See ``ChoiceOwner``."""
        self._engine.cancel(choice.identity)  # It runs on when a stop string has ended it.
        del self._open[choice.index]
        self._count(choice, completion_tokens)
        self._metrics.generation_ended(reason)
        if not self._open:
            self._metrics.request_completed(time.monotonic() - self._begun)
            self._book()
            self.emit(self._usage())
            self._end()

    def resume(self, choice: ShiftedChoice, prompt: list[int], max_tokens: int) -> None:
        """See ``ShiftOwner``. Each round draws other numbers: the same ones would often say the same again."""
        # A round has neither grammar nor prediction: both are for a reply from its beginning.
        params = msgspec.structs.replace(
            _with_seed(self._request.params, choice.rounds),
            max_tokens=max_tokens,
            min_tokens=0,
            logprobs_after_sampling=False,
            grammar=None,
            prediction=None,
            suffix=None,
        )

        def make(identity: int) -> Submit:
            return Submit(id=identity, prompt=prompt, params=params)

        choice.identity = self._engine.submit(make, choice)

    def on_failed(self, error: RequestError) -> None:
        """See ``ChoiceOwner``. Every choice that was lost says so; the first ends the request."""
        if not self._refuse(error):
            self.fail(error)

    def on_defect(self, error: Exception) -> None:
        """See ``ChoiceOwner`` and ``TimerCallbacks``: whoever waits for the end gets to know."""
        if not self._refuse(error) and not self._done.done():
            self._done.set_exception(error)
        self._stop("error")

    def _count(self, choice: Choice, completion_tokens: int) -> None:
        """A choice's tokens are part of the usage: it ends."""
        self._completion_tokens += completion_tokens
        self._reasoning_tokens += choice.reasoning_tokens
        self._accepted_tokens += choice.accepted_draft_tokens
        self._rejected_tokens += choice.rejected_draft_tokens
        if self._first_token is not None:
            self._metrics.reply_ended(time.monotonic() - self._first_token)

    def _usage(self) -> Usage:
        """What the choices that have been counted have used."""
        used = Usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens, self._reasoning_tokens)
        if self._request.params.prediction is None:
            return used
        return msgspec.structs.replace(
            used, accepted_tokens=self._accepted_tokens, rejected_tokens=self._rejected_tokens
        )

    async def _refuse_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._refuse(ClientDisconnect())

    def _refuse(self, error: Exception) -> bool:
        """Have ``start`` raise ``error``; False when it has returned already."""
        if self._accepted.done():
            return False
        self._accepted.set_exception(error)
        return True

    def _stop(self, reason: str) -> None:
        self._release(reason)
        self._end()

    def _release(self, reason: str) -> None:
        """Stop the choices that still run, and count what they have used."""
        if not self._open:
            return
        for choice in self._open.values():
            self._engine.cancel(choice.identity)
            self._count(choice, choice.n_tokens)
            self._metrics.generation_ended(reason)
        self._open.clear()
        self._book()

    def _book(self) -> None:
        """Count what the request has used, at its end: a prompt that waited in vain wasn't read."""
        self._metrics.count_tokens(Usage(self._read_tokens, self._completion_tokens, self._cached_tokens))

    def _end(self) -> None:
        self._engine.remove_timer(self)
        if not self._done.done():
            self._done.set_result(None)

    def _submit(self) -> None:
        request = self._request
        functions = {function.name: function for function in request.tools}
        vocabulary = self._model.vocabulary
        tracking = request.tracking
        params = request.params
        if tracking is not None and tracking.silent:
            params = msgspec.structs.replace(params, max_tokens=1)
        if request.chat:
            vocabulary = self._model.vocabulary_showing(self._model.family.markup(functions).markers)
        for prompt in request.prompts:
            for number in range(request.choices):
                index = len(self._open)
                own_params = _with_seed(params, number)

                def make(
                    identity: int,
                    prompt: PromptText | list[int] = prompt,
                    params: GenerationParams = own_params,
                ) -> Submit:
                    return Submit(
                        id=identity,
                        prompt=prompt,
                        params=params,
                        progress=tracking is not None and tracking.progress,
                    )

                parser = None
                text = request.prompt_text if isinstance(prompt, list) else prompt
                if request.chat and text is not None:
                    parser = self._model.family.parser(text, functions)
                pipeline = ReplyPipeline(
                    vocabulary, self._stops, parser, keep_stop=request.keep_stop, min_tokens=params.min_tokens
                )
                choice = self._choice(index, vocabulary, pipeline, prompt)
                choice.identity = self._engine.submit(make, choice)
                self._open[index] = choice
                self._unanswered += 1

    def _choice(
        self, index: int, vocabulary: PieceTable, pipeline: ReplyPipeline, prompt: PromptText | list[int]
    ) -> Choice:
        max_tool_calls, inline = self._request.max_tool_calls, self._request.inline_reasoning
        if (window := self._request.window) is not None:
            assert isinstance(prompt, list), "a window counts tokens"
            self.windowed = ShiftedChoice(
                self,
                index,
                vocabulary,
                pipeline,
                window,
                prompt,
                max_tool_calls=max_tool_calls,
                inline_reasoning=inline,
            )
            return self.windowed
        tracking = self._request.tracking
        if tracking is None:
            return Choice(self, index, vocabulary, pipeline, max_tool_calls=max_tool_calls, inline_reasoning=inline)
        tracked = TrackedChoice(
            self, index, vocabulary, pipeline, tracking, max_tool_calls=max_tool_calls, inline_reasoning=inline
        )
        self.tracked.append(tracked)
        return tracked

    def _refusal(self, refused: Refused) -> RequestError:
        param = self._request.prompt_param if refused.field == "prompt" else refused.field
        if refused.code == "context_length_exceeded":
            return too_long(refused, param)
        if refused.code == "invalid_grammar":
            grammar = self._request.grammar_param
            return InvalidRequest(f"'{grammar}' can't be used as a grammar: {refused.message}", param=grammar)
        if refused.code == "unsupported":
            return InvalidRequest(f"This request can't be served: {refused.message}.", param=self._request.prompt_param)
        if refused.code == "unavailable":
            return EngineUnavailable(f"The engine can't take this request now: {refused.message}. Try again.")
        return InvalidRequest(f"Invalid value for '{param}': {refused.message}", param=param)


def _with_seed(params: GenerationParams, number: int) -> GenerationParams:
    """The parameters with the seed of choice, or round, ``number``."""
    sampling = params.sampling
    if sampling.seed is None or not number:
        return params
    return msgspec.structs.replace(
        params, sampling=msgspec.structs.replace(sampling, seed=(sampling.seed + number) % 2**64)
    )
