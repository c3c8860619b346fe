"""The requests that the engines work on, and the way of each engine message to the request that it is for.

A request is in flight from ``register`` until its last message, its cancel or the end of its connection. What can't be
sent isn't registered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import structlog

from tailrace.errors import GenerationFailed, GrammarTooComplex, RequestError
from tailrace.protocol import Accepted, QueryAnswer, Refused, Step
from tailrace.server.callbacks import GenerationCallbacks
from tailrace.server.engine_query import PendingQuery


class Sender(Protocol):
    """The connection of one engine, as far as requests need it."""

    in_flight: int  #: requests that haven't ended
    submitted: int  #: of them generations
    accepted: int  #: of them generations that the engine has accepted
    replica: int  #: the engine's number

    def write(self, message: bytes) -> None:
        """Send one framed message."""
        ...

    def cancel(self, identity: int) -> None:
        """Send a cancel."""
        ...


class _Entry:
    """A request in flight."""

    __slots__ = ("accepted", "request", "sender")

    def __init__(self, request: GenerationCallbacks | PendingQuery, sender: Sender) -> None:
        self.request = request
        self.sender = sender
        self.accepted = False  #: a generation that the engine has accepted


class InFlightRequests:
    """See the module. A request is a generation with callbacks, or a query."""

    def __init__(self) -> None:
        self._requests: dict[int, _Entry] = {}
        #: The generations among them: the ids that a step's tokens can have.
        self._generations: dict[int, GenerationCallbacks] = {}
        #: When each generation without a first token was submitted, oldest first.
        self._unstarted: dict[int, float] = {}
        self._next_id = 1
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        return len(self._requests)

    def new_id(self, count: int = 1) -> int:
        """The first of ``count`` successive ids that no request has had."""
        identity = self._next_id
        self._next_id += count
        return identity

    @property
    def generations(self) -> Iterator[GenerationCallbacks]:
        """Every generation, oldest first."""
        return iter(self._generations.values())

    @property
    def n_generations(self) -> int:
        """How many there are."""
        return len(self._generations)

    def oldest_wait(self, waiting: int) -> float:
        """Seconds since the oldest of the ``waiting`` generations was submitted: the youngest without a first token."""
        unstarted = list(self._unstarted.values())
        first = max(0, len(unstarted) - waiting)
        return time.monotonic() - unstarted[first] if waiting and first < len(unstarted) else 0.0

    def replica_of(self, identity: int) -> int:
        """The engine that the request was sent to; 0 for a request that has ended."""
        entry = self._requests.get(identity)
        return 0 if entry is None else entry.sender.replica

    def generating_tokens(self, sender: Sender) -> int:
        """Tokens so far of the generations that an engine works on."""
        requests = self._requests
        return sum(
            generation.n_tokens
            for identity, generation in self._generations.items()
            if requests[identity].sender is sender
        )

    def register(
        self, first: int, requests: Sequence[GenerationCallbacks | PendingQuery], sender: Sender, message: bytes
    ) -> None:
        """Send ``message``, which asks for ``requests``; their ids are ``first`` and those after it. Registers nothing
        where sending raises.
        """
        now = time.monotonic()
        for identity, request in enumerate(requests, first):
            self._requests[identity] = _Entry(request, sender)
            sender.in_flight += 1
            if not isinstance(request, PendingQuery):
                self._generations[identity] = request
                self._unstarted[identity] = now
                sender.submitted += 1
        try:
            sender.write(message)
        except BaseException:
            for identity in range(first, first + len(requests)):
                self._remove(identity)
            raise

    def cancel(self, identity: int) -> None:
        """Stop a request that hasn't ended; harmless for one that has."""
        if (entry := self._remove(identity)) is not None:
            entry.sender.cancel(identity)

    def fail_all(self, sender: Sender, error: Callable[[], RequestError]) -> int:
        """The connection has ended: each of its requests fails with an error of its own. The number of requests."""
        lost = {identity: entry.request for identity, entry in self._requests.items() if entry.sender is sender}
        # All are removed first: a failing request cancels its other replies, and no cancel may go to a dead engine.
        for identity in lost:
            self._remove(identity)
        for request in lost.values():
            self._call(None, request, request.on_failed, error())
        return len(lost)

    def fail(
        self, which: Callable[[GenerationCallbacks | PendingQuery], bool], error: Callable[[], RequestError]
    ) -> int:
        """End the requests that ``which`` chooses, each with an error of its own. The number of requests."""
        lost = {identity: entry.request for identity, entry in self._requests.items() if which(entry.request)}
        for identity in lost:
            self.cancel(identity)
        for request in lost.values():
            self._call(None, request, request.on_failed, error())
        return len(lost)

    # The engine's messages. An id may be unknown: messages for a cancelled request may still be on their way.

    def on_step(self, step: Step) -> None:
        """Pass on everything that one engine step has brought."""
        generations = self._generations
        for progress in step.progress:
            if (generation := generations.get(progress.id)) is not None:
                self._call(progress.id, generation, generation.on_progress, progress)
        for started in step.started:
            self._unstarted.pop(started.id, None)
            if (generation := generations.get(started.id)) is not None:
                self._call(
                    started.id, generation, generation.on_prefilled, started.cached_tokens, started.prompt_seconds
                )
        for predicted in step.predicted:
            # Before the tokens: a stop string in them ends the request.
            if (generation := generations.get(predicted.id)) is not None:
                self._call(predicted.id, generation, generation.on_prediction, predicted)
        tokens, logprobs = step.tokens, step.logprobs
        for index, identity in enumerate(step.ids):
            if (generation := generations.get(identity)) is not None:
                try:
                    generation.on_token(tokens[index], logprobs.get(index) if logprobs else None)
                except Exception as error:
                    self._end_by_defect(identity, generation, error)
        for finished in step.finished:
            if (generation := generations.get(finished.id)) is not None:
                self._remove(finished.id)
                self._call(None, generation, generation.on_finished, finished)
        for failed in step.failed:
            self._log.error("a generation has failed", error=failed.message)
            if (entry := self._remove(failed.id)) is not None:
                kind = GrammarTooComplex if failed.by_grammar else GenerationFailed
                failure = kind(f"The reply can't be continued: {failed.message}.")
                self._call(None, entry.request, entry.request.on_failed, failure)

    def on_answer(self, answer: Accepted | Refused) -> None:
        """Pass on whether the engine takes a request."""
        if (entry := self._requests.get(answer.id)) is not None:
            refused = isinstance(answer, Refused)
            if refused:
                self._remove(answer.id)
            elif not entry.accepted:
                entry.accepted = True
                entry.sender.accepted += 1
            self._call(None if refused else answer.id, entry.request, entry.request.on_answer, answer)

    def on_query_answer(self, answer: QueryAnswer) -> None:
        """Pass on an answer to a query."""
        if (entry := self._requests.get(answer.id)) is not None:
            self._call(answer.id, entry.request, self._take_query_answer, entry.request, answer)

    def _take_query_answer(self, query: GenerationCallbacks | PendingQuery, answer: QueryAnswer) -> None:
        assert isinstance(query, PendingQuery), "a generation has no query answer"
        if query.on_query_answer(answer):
            self._remove(answer.id)

    def _remove(self, identity: int) -> _Entry | None:
        entry = self._requests.pop(identity, None)
        if entry is not None:
            sender = entry.sender
            sender.in_flight -= 1
            if self._generations.pop(identity, None) is not None:
                self._unstarted.pop(identity, None)
                sender.submitted -= 1
                sender.accepted -= entry.accepted
        return entry

    def _call(
        self,
        identity: int | None,
        request: GenerationCallbacks | PendingQuery,
        callback: Callable[..., None],
        *arguments: object,
    ) -> None:
        """Run a callback of the request; ``identity`` is None where the request has ended."""
        try:
            callback(*arguments)
        except Exception as error:
            self._end_by_defect(identity, request, error)

    def _end_by_defect(
        self, identity: int | None, request: GenerationCallbacks | PendingQuery, error: Exception
    ) -> None:
        """End one request; its own task raises the error."""
        if identity is not None:
            self.cancel(identity)
        try:
            request.on_defect(error)
        except Exception:
            self._log.exception("a request's defect couldn't be reported to it")
