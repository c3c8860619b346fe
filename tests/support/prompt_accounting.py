"""Compares the prompt counts that an engine loop reports with the tokens that its backend has computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tailrace.engine.backends.base import Backend, Logits
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import EngineCounters, Submit

#: Tokens of each reply.
REPLY = 8


class Account:
    """Asks prompts of a backend, one after the other or several at once."""

    def __init__(
        self, backend: Backend, disk: DiskOptions | None = None, checkpoint_bytes: int = 10**7, *, reuse: bool = True
    ) -> None:
        """``reuse``: whether prompts may be taken from the prefix cache."""
        self.computed = 0
        self.said: dict[int, list[int]] = {}
        self._backend = backend
        self._reuse = reuse
        # Its ``decode_repeat`` is a ``decode`` where there is no model.
        for name in ("decode",) if isinstance(backend, FakeBackend) else ("decode", "decode_repeat"):
            setattr(backend, name, self._counting(getattr(backend, name)))
        self._loop = EngineLoop(
            backend,
            prefill_chunk=64,
            step_seconds=1.0,
            host_cache_tokens=4000 + 8 * -(-backend.rollback.checkpoint_bytes // backend.bytes_per_cell),
            disk=disk,
            checkpoint_bytes=checkpoint_bytes,
        )

    def save(self) -> int:
        """Save the states as an engine does at its end; how many."""
        return self._loop.cache.executor.save(time.monotonic() + 60.0)[0]

    def _counting(self, decode: Callable[..., Logits]) -> Callable[..., Logits]:
        def counted(tokens: list[int], *others: Any) -> Logits:
            self.computed += len(tokens)
            return decode(tokens, *others)

        return counted

    def ask(self, *prompts: list[int]) -> list[int]:
        """How many tokens of each were cached, as its usage says. Fails where usage, metrics and what was computed
        differ.
        """
        before, computed = self._loop.heartbeat().counters, self.computed
        found = self.run(*prompts)
        _check(before, self._loop.heartbeat().counters, prompts, found, self.computed - computed)
        return found

    def run(self, *prompts: list[int]) -> list[int]:
        """As ``ask``, without the comparison: prompts may be paused and computed again."""
        first = len(self.said)
        for prompt in prompts:
            submit = Submit(
                id=len(self.said),
                prompt=list(prompt),
                params=GenerationParams(
                    max_tokens=REPLY,
                    ignore_eos=True,
                    sampling=Sampling(temperature=0.0),
                    reuse_prefix=self._reuse,
                ),
            )
            sequence = prepare_sequence(self._backend, submit)
            assert isinstance(sequence, Sequence)
            self._loop.inbox.put(sequence)
            self.said[submit.id] = []
        cached: dict[int, int] = {}
        while self._loop.has_work:
            self._loop.take()
            step = self._loop.step()
            if step is not None:
                cached.update({started.id: started.cached_tokens for started in step.started})
                for identity, token in zip(step.ids, step.tokens, strict=True):
                    self.said[identity].append(token)
        return [cached[identity] for identity in range(first, len(self.said))]


def _check(
    before: EngineCounters, after: EngineCounters, prompts: tuple[list[int], ...], cached: list[int], computed: int
) -> None:
    asked = sum(map(len, prompts))
    assert after.prefix_queries - before.prefix_queries == asked
    assert after.prefix_hits - before.prefix_hits == sum(cached)
    # A prompt's last token is computed for the reply's first, and the reply's last isn't computed.
    assert after.prefill_tokens - before.prefill_tokens == asked - sum(cached) - len(prompts)
    assert after.decode_tokens - before.decode_tokens == REPLY * len(prompts)
    assert computed == asked - sum(cached) + (REPLY - 1) * len(prompts)
