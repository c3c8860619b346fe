"""The engine loop: take → schedule → decode → sample → publish.

It owns the sequences and the model's cache. It does no I/O of its own: ``inbox`` brings sequences, cancels and what
was read from the disk, ``publish`` takes one ``Step`` a step and a ``Heartbeat`` at least once a second. The heartbeat
comes from the loop itself, so that a loop that hangs is seen to hang. Texts that are only read have passes between
steps.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from tailrace.engine.advance import advance
from tailrace.engine.backends.base import Backend, KVState
from tailrace.engine.batch import StepBatch
from tailrace.engine.embeddings import EmbeddingJob, EmbeddingQueue
from tailrace.engine.intake import Inbox
from tailrace.engine.kv_cache.cache import KVCache, MoveOut, Placement, Relayout, Swap
from tailrace.engine.kv_cache.disk_tier import LEAST, DiskOptions, DiskTier, Fetched
from tailrace.engine.kv_cache.prefix_store import Kept
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.scheduler.scheduler import Plan, Scheduler
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.structured.mask_thread import MaskThread
from tailrace.protocol import EngineCounters, Failed, Heartbeat, Progress, Reading, Step

#: Seconds between heartbeats.
HEARTBEAT_SECONDS = 0.5

Publish = Callable[[Step | Heartbeat | Reading], None]


class EngineLoop:
    """Runs every sequence that comes through ``inbox`` on one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        prefill_chunk: int,
        step_seconds: float | None,
        host_cache_tokens: int = 0,
        disk: DiskOptions | None = None,
        cpus: frozenset[int] = frozenset(),
        speculator: Speculator | None = None,
    ) -> None:
        """Set up an empty loop.

        ``prefill_chunk``: prompt tokens of a step, at most. ``step_seconds``: how long a step may take while sequences
        decode; None: in proportion to a step without prompts. ``host_cache_tokens``: tokens of finished sequences that
        the prefix cache may hold in host memory. ``disk``: where prefix states go that don't fit there. ``cpus``: where
        the thread that computes masks may run; empty: where the loop runs. ``speculator``: drafts tokens; the backend
        must be able to truncate slots (``cuts``).
        """
        self.inbox: Inbox = queue.SimpleQueue()
        self._backend = backend
        self._cache = KVCache(backend.layout_policy, backend.layout, host_cache_tokens)
        self._scheduler = Scheduler(
            self._cache,
            parallel=backend.info.parallel,
            max_batch=backend.max_batch,
            chunk=prefill_chunk,
        )
        self._pace = PrefillBudget(prefill_chunk, step_seconds)
        self._masks = MaskThread(cpus)
        self._speculator = speculator
        self._kept: dict[int, KVState] = {}  #: states of finished sequences, by the cache's keys
        self._disk = DiskTier(disk.folder, disk.limit, self.inbox.put) if disk is not None else None
        self._fetching: dict[int, Sequence] = {}  #: sequences whose beginning is being read from the disk
        self._sequences: dict[int, Sequence] = {}
        self._progressing: set[int] = set()  #: those whose prompt's progress is reported
        self._embeddings = EmbeddingQueue(backend.embedding_context, prefill_chunk)
        self._batch = StepBatch([])  #: the last step's
        self._queue = (0, 0)  #: sequences that ran and waited when that was last published
        self._counters = EngineCounters()  #: of what the loop itself counts

    @property
    def has_work(self) -> bool:
        """Whether anything runs, waits or lies in the inbox."""
        return self._scheduler.has_work or not self.inbox.empty() or bool(self._fetching) or bool(self._embeddings)

    def run(self, publish: Publish) -> None:
        """Step until the inbox brings None (the connection is gone); then every sequence is dropped."""
        next_heartbeat = time.monotonic()
        rests = True
        while True:
            if not self.take(next_heartbeat - time.monotonic() if rests else 0.0):
                self._cancel_all()
                self._masks.close()
                return
            self.step(publish)
            if self._embeddings:
                self._read(publish)
            rested, rests = rests, not (self._scheduler.has_work or self._embeddings)
            now = time.monotonic()
            # That nothing runs any more is told at once: it stays so.
            if now >= next_heartbeat or (rests and not rested):
                self._queue = (len(self._scheduler.running), len(self._scheduler.waiting))
                publish(self.heartbeat())
                next_heartbeat = now + HEARTBEAT_SECONDS

    def take(self, wait: float = 0.0) -> bool:
        """Take everything that lies in the inbox, after waiting up to ``wait`` seconds for the first item.

        False when the connection is gone.
        """
        while wait > 0.0 or not self.inbox.empty():
            try:
                item = self.inbox.get(timeout=max(0.0, wait))
            except queue.Empty:
                return True
            if not self._receive(item):
                return False
            wait = 0.0
        return True

    def step(self, publish: Publish | None = None) -> Step | None:
        """One engine step: None when there was nothing to compute.

        ``publish`` is called with it as soon as its tokens are chosen: what the books need of it is done while they are
        on their way. Who has ended in it is still there during that call.
        """
        if self._speculator is not None:
            self._propose(self._speculator)
        again = self._scheduler.again()
        if not again:
            streams = len(self._scheduler.decoding)
            plan = self._scheduler.plan(self._pace.chunk(streams), self._pace.finish(streams))
            self._move(plan)
            self._admitted(plan, publish)
            if not plan.chunks:
                return None
            self._batch = StepBatch(plan.chunks)
            if publish is not None:
                self._report_queue(publish)
        batch = self._batch
        begun = time.perf_counter()
        self._masks.start([constraint for constraint in batch.constraints if not constraint.free])
        if again:
            logits = self._backend.decode_repeat([sequence.tokens[-1] for sequence in batch.ready])
        else:
            logits = self._backend.decode(
                batch.tokens, batch.positions, batch.slots, batch.outputs, batch.n_decode_tokens
            )
        self._masks.wait()
        seconds = time.perf_counter() - begun
        known = [len(sequence.tokens) for sequence in batch.ready]
        step = advance(batch.ready, logits)
        if self._progressing:
            step.progress.extend(self._progress(batch))
        if publish is not None:
            publish(step)
        self._keep_books(batch, known, seconds)
        for failed in step.failed:
            # What is broken may be what this sequence has computed: nobody shall find it again.
            slot = self._sequences[failed.id].slot
            self._cache.truncate(slot, 0)
            self._backend.kv_truncate(slot, 0)
            self._drop(self._sequences[failed.id])
        for finished in step.finished:
            self._drop(self._sequences[finished.id])
        return step

    def _report_queue(self, publish: Publish) -> None:
        """Publish a heartbeat where a sequence has begun to run or to wait: the step that comes may take long."""
        queue = (len(self._scheduler.running), len(self._scheduler.waiting))
        if queue != self._queue:
            self._queue = queue
            publish(self.heartbeat())

    def _keep_books(self, batch: StepBatch, known: list[int], seconds: float) -> None:
        """A step has computed ``batch`` in so many seconds; ``known``: how many tokens those that have chosen had."""
        tokens = len(batch.tokens)
        if not batch.drafted:
            self._pace.observe(batch.decoding, tokens - batch.decoding, seconds)
        self._counters.steps += 1
        self._counters.prefill_tokens += tokens - len(batch.outputs)
        self._counters.decode_tokens += sum(len(sequence.tokens) for sequence in batch.ready) - sum(known)
        for sequence, count in batch.chunks:
            self._account(sequence, count)
        if self._speculator is not None:
            self._speculator.observe(batch.counts, batch.decoding, seconds)
            for sequence, before in zip(batch.ready, known, strict=True):
                self._speculator.learn(sequence, sequence.tokens[before:])

    def _admitted(self, plan: Plan, publish: Callable[[Step], None] | None) -> None:
        """Note when the plan's new sequences were admitted, and report the progress of those that want it reported."""
        new = [move[0] for move in plan.moves if isinstance(move, tuple) and move[0].admitted_at is None]
        if not new:
            return
        now = time.monotonic()
        for sequence in new:
            sequence.admitted_at = now
        wanted = [sequence for sequence in new if sequence.report_progress]
        if wanted and publish is not None:
            self._progressing.update(sequence.id for sequence in wanted)
            step = Step([], [], [], [], {})
            step.progress.extend(_progress(sequence, sequence.computed, now) for sequence in wanted)
            publish(step)

    def _progress(self, batch: StepBatch) -> list[Progress]:
        """What the step has computed of the prompts whose progress is reported."""
        now = time.monotonic()
        reports: list[Progress] = []
        for sequence, count in batch.chunks:
            if sequence.id in self._progressing:
                reports.append(_progress(sequence, sequence.computed + count, now))
                if reports[-1].processed >= sequence.prompt_length:
                    self._progressing.discard(sequence.id)
        return reports

    def _read(self, publish: Publish) -> None:
        """A pass over texts that are only read, if it is time for one."""
        for answer in self._embeddings.step(beside=self._scheduler.has_work):
            publish(Step([], [], [], [], {}, [answer]) if isinstance(answer, Failed) else answer)

    def _propose(self, speculator: Speculator) -> None:
        """Set the drafts that the coming step checks."""
        cache, running = self._cache, self._scheduler.running
        shared = cache.layout.shared
        total = min(self._backend.max_batch, cache.room(0) if shared else self._backend.max_batch) - len(running)
        busy = bool(self._scheduler.waiting)
        speculator.propose(running, self._room, total, busy=busy, equal_split=not shared)

    def _room(self, sequence: Sequence) -> int:
        """Tokens that may be added behind the sequence's last one."""
        return self._cache.room(sequence.slot) - 1

    def _account(self, sequence: Sequence, count: int) -> None:
        """``count`` tokens of the sequence were computed, of which those that are its own stay."""
        start = sequence.computed
        # The token chosen last, and those forced behind it, haven't been computed; drafted ones that weren't chosen
        # aren't the sequence's.
        end = min(start + count, len(sequence.tokens) - 1 - sequence.jump_forward)
        self._cache.append(sequence.slot, sequence.tokens[start:end])
        sequence.computed = end
        if end < start + count:
            self._backend.kv_truncate(sequence.slot, end)

    def close(self) -> None:
        """Finish what is being written to the disk."""
        if self._disk is not None:
            self._disk.close()

    def heartbeat(self) -> Heartbeat:
        """The counters and gauges now."""
        counters = self._counters + self._scheduler.counters
        if self._speculator is not None:
            counters += self._speculator.counters
        return Heartbeat(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_cells_used=self._cache.used,
            counters=counters,
        )

    def _drop(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self._progressing.discard(sequence.id)
        if self._fetching.pop(sequence.id, None) is None:
            self._scheduler.remove(sequence)
        if self._speculator is not None:
            self._speculator.end(sequence)

    def _move(self, plan: Plan) -> None:
        """Let the model's cache follow the plan's moves."""
        #: Slots whose content was lost on the way: this model's memory can't be cut or moved, or has no room in one
        #: piece. The books are already where the last move leaves them, so these are followed until then.
        lost: set[int] = set()
        for move in plan.moves:
            if isinstance(move, MoveOut):
                self._move_out(move)
            elif isinstance(move, Swap):
                self._backend.kv_swap(move.one, move.other)
                lost = {{move.one: move.other, move.other: move.one}.get(slot, slot) for slot in lost}
            elif isinstance(move, Relayout):
                places = dict(move.moves)
                lost = {places[slot] for slot in lost if slot in places}
                lost.update(self._backend.kv_relayout(move.layout, move.moves))
            elif not self._place(move[1]):
                lost.add(move[1].slot)
        if lost:
            self._scheduler.lose(lost)

    def _move_out(self, move: MoveOut) -> None:
        if move.kept.key is not None:
            self._keep(move.kept, self._backend.kv_save(move.slot))
        self._backend.kv_truncate(move.slot, 0)

    def _keep(self, kept: Kept, state: KVState) -> None:
        """Do with states outside of the cache what the books say."""
        if kept.key is not None:
            self._kept[kept.key] = state
        for key in kept.dropped:
            del self._kept[key]
        for key, tokens in kept.spilled:
            spilled = self._kept.pop(key)
            if self._disk is not None:
                self._disk.write(tokens, spilled)

    def _place(self, placement: Placement) -> bool:
        """Have the slot hold what the placement says; False when it holds nothing instead."""
        backend, slot, length = self._backend, placement.slot, placement.length
        if placement.source is not None:
            done = backend.kv_copy(placement.source, slot, length)
        elif placement.kept is not None:
            done = backend.kv_load(slot, self._kept[placement.kept], length)
        else:
            done = backend.kv_truncate(slot, length)
        return done or not length

    def _receive(self, item: Sequence | int | Fetched | list[EmbeddingJob] | None) -> bool:
        if isinstance(item, Sequence):
            self._sequences[item.id] = item
            if self._speculator is not None:
                self._speculator.begin(item)
            if not self._fetch(item):
                self._scheduler.add(item)
        elif isinstance(item, Fetched):
            if item.state is not None:
                self._keep(self._cache.kept.keep(item.tokens), item.state)
            # The id is unknown when it was cancelled meanwhile.
            if (sequence := self._fetching.pop(item.id, None)) is not None:
                self._scheduler.add(sequence)
        elif isinstance(item, list):
            self._embeddings.add(item)
        elif item is not None:
            if (sequence := self._sequences.get(item)) is not None:
                self._drop(sequence)
            else:
                self._embeddings.cancel(item)  # Harmless for what ended while its cancel was on the way.
        return item is not None

    def _fetch(self, sequence: Sequence) -> bool:
        """Have the sequence's beginning read from the disk, if more of it is there than in memory."""
        if self._disk is None or not sequence.reuse_prefix or (found := self._disk.find(sequence.tokens)) is None:
            return False
        name, length = found
        if length < self._cache.ready(sequence.tokens) + LEAST:
            return False
        self._fetching[sequence.id] = sequence
        self._disk.fetch(name, sequence.id)
        return True

    def _cancel_all(self) -> None:
        for sequence in list(self._sequences.values()):
            self._drop(sequence)
        self._embeddings.clear()


def _progress(sequence: Sequence, computed: int, now: float) -> Progress:
    """The report for a sequence of whose prompt so many tokens are computed, at ``now`` of the monotonic clock."""
    processed = min(computed, sequence.prompt_length)
    seconds = 0.0 if sequence.admitted_at is None else now - sequence.admitted_at
    return Progress(sequence.id, sequence.prompt_length, sequence.cached_tokens or 0, processed, seconds)
