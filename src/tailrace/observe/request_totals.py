"""What has become of one engine's requests, as the HTTP process counts it.

Each method is called once or a few times for a request, never for a token. One thread calls them all.
"""

from __future__ import annotations

from tailrace.observe.buckets import CHOICES, FIRST_TOKEN_SECONDS, LENGTHS, REQUEST_SECONDS, TOKEN_SECONDS
from tailrace.observe.histogram import Histogram
from tailrace.observe.metric import Labelled

#: The ends of a generation. ``tool_calls`` is ``stop`` in vLLM.
FINISH_REASONS = ("stop", "length", "tool_calls", "abort", "error")


class RequestTotals:
    """Totals since the process's start."""

    def __init__(self) -> None:
        self.finished: Labelled = dict.fromkeys(FINISH_REASONS, 0.0)
        self.prompt_tokens = 0  #: of prompts that were computed
        self.cached_tokens = 0  #: of them, those that the prefix cache had
        self.generation_tokens = 0  #: of replies that have ended
        self.first_token_seconds = Histogram(FIRST_TOKEN_SECONDS)
        self.output_token_seconds = Histogram(TOKEN_SECONDS)
        self.request_seconds = Histogram(REQUEST_SECONDS)
        self.queue_seconds = Histogram(REQUEST_SECONDS)
        self.prefill_seconds = Histogram(REQUEST_SECONDS)
        self.decode_seconds = Histogram(REQUEST_SECONDS)
        self.inference_seconds = Histogram(REQUEST_SECONDS)
        self.prompt_lengths = Histogram(LENGTHS)
        self.computed_lengths = Histogram(LENGTHS)
        self.generation_lengths = Histogram(LENGTHS)
        self.longest_generations = Histogram(LENGTHS)
        self.choices = Histogram(CHOICES)
        self.max_tokens = Histogram(LENGTHS)

    def accepted(self, choices: int, max_tokens: int | None) -> None:
        """The engine has accepted a request for ``choices`` replies to each prompt."""
        self.choices.observe(choices)
        if max_tokens is not None:
            self.max_tokens.observe(max_tokens)

    def started(self, queue_seconds: float, prefill_seconds: float) -> None:
        """A generation has got its first token: it has waited, and its prompt was computed."""
        self.queue_seconds.observe(queue_seconds)
        self.prefill_seconds.observe(prefill_seconds)

    def prompt_computed(self, tokens: int, cached: int) -> None:
        """A prompt was computed, but for its cached tokens. It counts once for all replies to it."""
        self.prompt_tokens += tokens
        self.cached_tokens += cached
        self.prompt_lengths.observe(tokens)
        self.computed_lengths.observe(tokens - cached)

    def ended(self, tokens: int, prefill_seconds: float, decode_seconds: float | None) -> None:
        """A generation has ended, whatever the reason. ``decode_seconds``: since its first token; None without one."""
        self.generation_tokens += tokens
        if decode_seconds is None:
            return
        self.generation_lengths.observe(tokens)
        self.decode_seconds.observe(decode_seconds)
        self.inference_seconds.observe(prefill_seconds + decode_seconds)
        if tokens > 1:
            self.output_token_seconds.observe(decode_seconds / (tokens - 1))
