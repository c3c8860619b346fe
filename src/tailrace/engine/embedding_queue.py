"""The jobs of embeddings, rerankers and scores that wait or are in progress, and the passes that compute them.

Passes are bounded in time and run between the loop's steps. They are fair between callers, and between the requests of
a caller: the one whose jobs have had the least time comes first. So one text doesn't wait for a request of 2,048. This
module knows no sequence and no step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tailrace.engine.backends.base import EmbeddingContext, HiddenStates
from tailrace.engine.embeddings import EmbeddingJob, add_rows
from tailrace.engine.scheduler.turns import Turns
from tailrace.errors import ModelError
from tailrace.protocol import EmbeddingAnswer, Failed

#: A row of logits is as wide as the vocabulary. More rows in a pass take memory and make nothing faster.
_MAX_SCORED_TOKENS = 64
#: How long a pass may take beside decoding sequences, at most. Shorter passes cost more: each one reads all weights.
_MIXED_PASS_SECONDS = 0.05
#: The same as a part of a step without prompts: with the step itself, a gap stays below three steps.
_MIXED_PASS_STEPS = 1.5
#: How long a pass may take while no sequence runs. A request that arrives meanwhile waits for its end.
_SOLE_PASS_SECONDS = 0.25
#: For that long after a step, passes are as short as beside sequences: the next sequence may come soon.
_QUIET_SECONDS = 10.0
#: Tokens of the first pass, before any was measured.
_FIRST_PASS_TOKENS = 16
#: Tokens of a pass, at least. One token takes nearly as long, so after one slow pass the budget would never rise again.
_MIN_PASS_TOKENS = 8
#: Cells that the context gets at first; a longer text gets more.
_MIN_CELLS = 512
#: Cells beside those of the longest text, for short texts of other callers. A caller's second text doesn't get them.
_SPARE_CELLS = 256


@dataclass(slots=True)
class _Request:
    """The jobs of one request that aren't done."""

    id: int
    caller: str
    waiting: deque[EmbeddingJob] = field(default_factory=deque)
    active: list[EmbeddingJob] = field(default_factory=list)  #: those that have a slot

    @property
    def first(self) -> EmbeddingJob:
        """The job that comes next."""
        return self.active[0] if self.active else self.waiting[0]


class EmbeddingQueue:
    """The jobs of one connection."""

    def __init__(self, context: EmbeddingContext | None, max_pass_tokens: int) -> None:
        """``context`` None: the model has none, and no job is ever added."""
        self._context = context
        self._max_pass_tokens = max_pass_tokens
        self._token_seconds: float | None = None  #: seconds per token of the last pass
        self._next_pass = 0.0  #: when the next pass may begin beside decoding sequences
        self._quiet_at = 0.0  #: when the last step is ``_QUIET_SECONDS`` ago
        self._requests: dict[int, _Request] = {}
        self._caller_turns: Turns[str] = Turns()  #: microseconds of each caller's passes
        self._request_turns: Turns[int] = Turns()

    def __bool__(self) -> bool:
        """Whether there is any job."""
        return bool(self._requests)

    def add(self, jobs: list[EmbeddingJob]) -> None:
        """Queue the jobs of one request."""
        if jobs:
            self._requests[jobs[0].id] = _Request(jobs[0].id, jobs[0].caller, deque(jobs))

    def cancel(self, identity: int) -> None:
        """Drop the request's jobs, if there are any."""
        request = self._requests.pop(identity, None)
        for job in list(request.active) if request is not None else ():
            self._free_slot(job)

    def clear(self) -> None:
        """Drop all jobs."""
        for identity in list(self._requests):
            self.cancel(identity)

    def step(self, *, beside: bool, step_seconds: float = 0.0) -> Iterator[EmbeddingAnswer | Failed]:
        """One pass, and the answers that it completes. Raises BackendError.

        ``beside``: sequences wait for their next step, which takes ``step_seconds``; 0: that isn't known. The pass is
        short then, and is followed by a pause as long as itself, so the sequences get at least half of the time. Where
        memory has to be had first, the pass waits until after that step.
        """
        context, now = self._context, time.monotonic()
        if beside:
            self._quiet_at = now + _QUIET_SECONDS
        if context is None or not self or (beside and now < self._next_pass):
            return
        seconds = _MIXED_PASS_SECONDS if now < self._quiet_at else _SOLE_PASS_SECONDS
        if beside and step_seconds:
            seconds = min(seconds, _MIXED_PASS_STEPS * step_seconds)
        requests = self._in_turn()
        try:
            if self._reserve(context, requests) and beside:
                return
            scheduled = self._schedule(context, requests, self._budget(seconds))
        except ModelError as error:
            self.cancel(requests[0].id)
            yield Failed(requests[0].id, str(error))
            return
        rows = self._compute(context, scheduled)
        end = 0
        for job, count in scheduled:
            begin, end = end, end + (1 if job.kind == "rank" else count)
            if job.slot < 0:
                continue  # Another input of its request has failed in this pass.
            answer = add_rows(job, rows[begin:end], count)
            if answer is None:
                continue
            if isinstance(answer, Failed):
                self.cancel(job.id)
            else:
                self._end(job)
            yield answer

    def _budget(self, seconds: float) -> int:
        """Tokens of a pass that takes ``seconds``."""
        if self._token_seconds is None:
            return min(self._max_pass_tokens, _FIRST_PASS_TOKENS)
        return min(self._max_pass_tokens, max(_MIN_PASS_TOKENS, int(seconds / self._token_seconds)))

    def _in_turn(self) -> list[_Request]:
        """The requests, the next one first."""
        requests = self._requests
        if len(requests) > 1:
            callers = self._caller_turns.order(request.caller for request in requests.values())
            rank = {caller: place for place, caller in enumerate(callers)}
            in_turn = [requests[identity] for identity in self._request_turns.order(requests)]
            return sorted(in_turn, key=lambda request: rank[request.caller])
        self._caller_turns.order(request.caller for request in requests.values())
        self._request_turns.order(requests)
        return list(requests.values())

    def _reserve(self, context: EmbeddingContext, requests: list[_Request]) -> bool:
        """Have cells for the first request's next text. Whether they were reserved now. Raises ModelError."""
        needed = len(requests[0].first.tokens)
        if needed + _SPARE_CELLS <= context.cells or any(request.active for request in requests):
            return False
        context.reserve(max(_MIN_CELLS, needed) + _SPARE_CELLS)
        return True

    def _schedule(
        self, context: EmbeddingContext, requests: list[_Request], budget: int
    ) -> list[tuple[EmbeddingJob, int]]:
        """The pass's jobs with their tokens: of each request first those in progress, then waiting ones that fit.

        All of them are of one kind. Where a request's next text doesn't fit, later ones may start only
        if this pass completes them: they take nothing that it waits for.
        """
        active = [job for request in requests for job in request.active]
        free_cells = context.cells - sum(len(job.tokens) for job in active)
        free_slots = [slot for slot in range(context.slots) if all(job.slot != slot for job in active)]
        holding = {job.caller for job in active}
        scheduled: list[tuple[EmbeddingJob, int]] = []
        blocked = False
        for request in requests:
            if scheduled and request.first.kind != scheduled[0][0].kind:
                continue
            for job in [*request.active, *request.waiting]:
                if not scheduled:
                    budget = min(budget, _MAX_SCORED_TOKENS if job.kind == "score" else context.max_pass_tokens)
                    if not context.causal:
                        budget = max(budget, len(job.tokens))
                if budget <= 0:
                    return scheduled
                if job.slot < 0:
                    is_whole = len(job.tokens) <= budget
                    allowed = free_cells - (_SPARE_CELLS if job.caller in holding and not is_whole else 0)
                    fits = len(job.tokens) <= allowed and (is_whole or (context.causal and not blocked))
                    if not (fits and free_slots):
                        blocked = True
                        break
                    job.slot = free_slots.pop(0)
                    request.waiting.popleft()
                    request.active.append(job)
                    free_cells -= len(job.tokens)
                    holding.add(job.caller)
                scheduled.append((job, min(budget, job.pending)))
                budget -= scheduled[-1][1]
        return scheduled

    def _compute(self, context: EmbeddingContext, scheduled: list[tuple[EmbeddingJob, int]]) -> HiddenStates:
        """The results of the pass, in order: a row for each token, or for each job of a reranker."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for job, count in scheduled:
            start = job.computed
            tokens += job.tokens[start : start + count]
            positions += range(start, start + count)
            slots += [job.slot] * count
        begun = time.monotonic()
        compute = {"embed": context.embed, "rank": context.rank, "score": context.score}[scheduled[0][0].kind]
        rows = compute(tokens, positions, slots)
        now = time.monotonic()
        self._next_pass = now + min(now - begun, _MIXED_PASS_SECONDS)
        self._token_seconds = (now - begun) / len(tokens)
        for job, count in scheduled:
            microseconds = round(1e6 * self._token_seconds * count)
            self._caller_turns.charge(job.caller, microseconds)
            self._request_turns.charge(job.id, microseconds)
        return rows

    def _end(self, job: EmbeddingJob) -> None:
        """The job is done."""
        self._free_slot(job)
        request = self._requests[job.id]
        request.active.remove(job)
        if not (request.active or request.waiting):
            del self._requests[job.id]

    def _free_slot(self, job: EmbeddingJob) -> None:
        assert self._context is not None
        self._context.clear(job.slot)
        job.slot = -1
