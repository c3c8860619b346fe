"""What is counted of one generation: tokens for its usage, the metrics and its key, times for the log.

It decides nothing and emits no event: ``generation`` reports to it what has happened.
"""

from __future__ import annotations

import asyncio
import time

from tailrace.errors import RequestError
from tailrace.observe.metrics import ModelMetrics
from tailrace.observe.request_summary import GenerationFigures
from tailrace.server.choice import Choice
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.keys.allowance import Place
from tailrace.server.keys.token_charge import TokenCharge
from tailrace.server.usage_count import UsageCount


class GenerationAccounting:
    """See the module. Times are of the monotonic clock, in seconds."""

    def __init__(self, metrics: ModelMetrics, request: GenerationRequest, place: Place | None) -> None:
        """``place``: of the key whose allowance is charged."""
        self._metrics = metrics
        self._totals = metrics.requests(0)  #: of the engine that it is sent to
        self._charge = TokenCharge(place)
        params = request.params
        self.figures = GenerationFigures(
            time.monotonic(), params.max_tokens, params.sampling.temperature, params.sampling.top_p, request.choices
        )
        self.count = UsageCount(has_prediction=params.prediction is not None)

    def sent_to(self, replica: int) -> None:
        """All choices are sent to the engine of this number."""
        self._totals = self._metrics.requests(replica)

    async def accepted(self, done: asyncio.Future[None]) -> None:
        """The engine has accepted all choices. From now on their tokens are charged, beginning with the prompts'; those
        of replies may have come already. Raises TooManyRequests where the key has fewer tokens left than the prompts
        have. ``done``: the end of the generation.
        """
        await self._charge.begin(self.count.prompt, done)
        self._totals.accepted(self.figures.choices, self.figures.max_tokens)

    def charge(self, reply_tokens: int) -> None:
        """Charge the key for the tokens since the last time; all replies have ``reply_tokens`` so far."""
        if self._charge.has_begun:
            self._charge.update(self.count.prompt + reply_tokens)

    def prompt_computed(self, choice: Choice, cached_tokens: int, seconds: float) -> None:
        """The prompt of a choice is computed, in so many seconds from its admission. It counts with the first of its
        choices alone.
        """
        self._metrics.server.prompt_computed(seconds)
        choice.prefilled_at, choice.prefill_seconds = time.monotonic(), seconds
        queued = max(0.0, choice.prefilled_at - self.figures.started_at - seconds)
        self._totals.started(queued, seconds)
        if self.figures.queue_seconds is None:
            self.figures.queue_seconds, self.figures.prefill_seconds = queued, seconds
        if choice.index % self.figures.choices == 0:
            self.count.add_computed(choice.prompt_tokens, cached_tokens)
            self._totals.prompt_computed(choice.prompt_tokens, cached_tokens)

    def first_token(self) -> None:
        """The first token of all choices has come."""
        self.figures.first_token_at = time.monotonic()
        self._totals.first_token_seconds.observe(self.figures.first_token_at - self.figures.started_at)

    def reply_ended(self, choice: Choice, tokens: int, reason: str) -> None:
        """A choice has ended with so many tokens."""
        now, since = time.monotonic(), choice.prefilled_at
        self._totals.finished[reason] += 1
        self._totals.ended(tokens, choice.prefill_seconds, None if since is None else now - since)
        self.figures.finishes.append(reason)
        self.count.add_reply(choice, tokens)
        if (first := self.figures.first_token_at) is not None:
            self._metrics.server.reply_ended(now - first)

    def all_replies_ended(self) -> None:
        """No choice runs any more, whatever the reasons; once for a request."""
        self._metrics.server.count_tokens(self.count.computed)
        if self.figures.first_token_at is not None:
            self._totals.longest_generations.observe(self.count.longest)

    def finished(self) -> None:
        """All choices have ended by themselves."""
        self._totals.request_seconds.observe(time.monotonic() - self.figures.started_at)

    def failed(self, error: RequestError) -> None:
        """The request has ended with the error."""
        self.figures.error = error.code or error.type
        self._metrics.server.request_failed(error)
        error.counted = True

    def end(self) -> None:
        """Write the final figures."""
        figures = self.figures
        figures.ended_at = time.monotonic()
        figures.prompt_tokens, figures.cached_tokens = self.count.prompt, self.count.cached
        figures.completion_tokens = self.count.completion
