"""A loop whose states move in pieces, and a backend that counts the positions that move."""

from __future__ import annotations

from context_backend import ContextBackend
from tailrace.engine.backends.base import KVLayoutError, KVState, StateMove
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Submit

#: Tokens of a piece.
PIECE = 24


class CountingBackend(ContextBackend):
    """Counts the positions that move at once: in each piece, and of states that move whole."""

    def __init__(
        self,
        *,
        parallel: int,
        kv_tokens: int,
        piece_tokens: int = PIECE,
        available: int = 1 << 30,
        always_shared: bool = True,
    ) -> None:
        super().__init__(
            ctx=min(2048, kv_tokens),
            parallel=parallel,
            kv_tokens=kv_tokens,
            batch=64,
            always_shared=always_shared,
            in_place=always_shared,
            piece_tokens=piece_tokens,
        )
        self.whole: list[int] = []  #: positions of states that moved whole
        self.saved: list[int] = []  #: of them those that were copied from slots
        self.begun: list[StateMove] = []
        self.available = available
        self.failures = 0

    def kv_save(self, slot: int) -> KVState:
        """See ``Backend``."""
        self.whole.append(len(self._tokens[slot]))
        self.saved.append(len(self._tokens[slot]))
        return super().kv_save(slot)

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """See ``Backend``."""
        self.whole.append(state.size // 4)
        return super().kv_load(slot, state, length)

    def kv_begin_save(self, slot: int) -> StateMove | None:
        """See ``Backend``."""
        return self._note(super().kv_begin_save(slot))

    def kv_begin_load(self, slot: int, state: KVState, length: int) -> StateMove | None:
        """See ``Backend``."""
        return self._note(super().kv_begin_load(slot, state, length))

    def _note(self, move: StateMove | None) -> StateMove | None:
        assert move is not None
        self.begun.append(move)
        return move

    def kv_relayout(self, layout: Layout, slot_map: list[tuple[int, int]]) -> list[int]:  # type: ignore[override]
        """See ``Backend``. In place it moves nothing."""
        if layout.total > self.available:
            self.failures += 1
            raise KVLayoutError("no memory")
        return super().kv_relayout(layout, slot_map)


class Runner:
    """Runs requests to their ends, and notes what moved whole while others decoded."""

    def __init__(self, backend: ContextBackend, host_tokens: int = 4000) -> None:
        self.backend = backend
        self.loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=host_tokens)
        self.said: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}
        self.whole_beside: list[int] = []
        self.ended: set[int] = set()

    def ask(self, identity: int, prompt: list[int], max_tokens: int, caller: str = "") -> None:
        params = GenerationParams(max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0))
        sequence = prepare_sequence(self.backend, Submit(id=identity, prompt=[*prompt], params=params, caller=caller))
        assert isinstance(sequence, Sequence)
        self.said[identity] = []
        self.loop.inbox.put(sequence)

    def cancel(self, identity: int) -> None:
        self.loop.inbox.put(identity)
        self.ended.add(identity)

    def step(self) -> None:
        self.loop.take()
        decodes = bool(self.loop._scheduler.decoding)
        if isinstance(self.backend, CountingBackend):
            self.backend.whole.clear()
        if (step := self.loop.step()) is not None:
            for identity, token in zip(step.ids, step.tokens, strict=True):
                self.said[identity].append(token)
            self.cached.update({started.id: started.cached_tokens for started in step.started})
            assert not step.failed
            self.ended.update(finished.id for finished in step.finished)
        if decodes and isinstance(self.backend, CountingBackend):
            self.whole_beside += self.backend.whole

    def until(self, identity: int) -> None:
        for _ in range(20_000):
            if identity in self.ended:
                return
            self.step()
        raise AssertionError(f"the loop makes no progress: request {identity} doesn't end")


def prompt_of(kind: int, length: int) -> list[int]:
    return [97 + kind % 5, *[(kind * 7 + place * (1 + kind)) % 5 + 97 for place in range(length - 1)]]


def alone(prompt: list[int], max_tokens: int) -> list[int]:
    """What the request says on a backend of its own."""
    runner = Runner(ContextBackend(ctx=2048, parallel=1, kv_tokens=0, batch=64))
    runner.ask(1, prompt, max_tokens)
    runner.until(1)
    return runner.said[1]
