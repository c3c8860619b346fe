"""The engine loop: take → schedule → decode → sample → publish.

It owns the sequences and the model's cache. It does no I/O of its own: ``inbox`` brings sequences, cancels and states
from the disk tier; ``publish`` takes one ``Step`` a step and a ``Heartbeat`` at least once a second. The heartbeat
comes from the loop itself, so a loop that hangs is noticed. Embedding passes run between the steps.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from tailrace.engine.backends.base import Backend
from tailrace.engine.core_share import CoreShare
from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.file_waits import FileWaits
from tailrace.engine.heartbeats import Heartbeats
from tailrace.engine.helper_thread import HelperThread
from tailrace.engine.inbox import Inbox, InboxItem
from tailrace.engine.kv_cache.disk_tier import DiskOptions, Fetched
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.long_gaps import LongGaps
from tailrace.engine.longest_step import LongestStep
from tailrace.engine.prefix_reports import PrefixReports
from tailrace.engine.progress import PromptProgress
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.draft_rollback import DraftRollback
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.speculation.step_drafts import StepDrafts
from tailrace.engine.step import StepBatch, sample_step
from tailrace.engine.step_accounting import StepAccounting
from tailrace.engine.step_masks import StepMasks
from tailrace.engine.step_planner import StepPlanner
from tailrace.engine.structured.mask_threads import MaskReady
from tailrace.protocol import EmbeddingAnswer, Failed, Heartbeat, PrefixReport, Step
from tailrace.shared_memory.progress_page import ProgressPage

#: Seconds between heartbeats.
HEARTBEAT_SECONDS = 0.5

Published = Step | Heartbeat | PrefixReport | EmbeddingAnswer
Publish = Callable[[Published], None]


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
        checkpoint_bytes: int = 0,
        cpus: frozenset[int] = frozenset(),
        speculator: Speculator | None = None,
        page: ProgressPage | None = None,
        cache: PrefixCache | None = None,
        core_share: CoreShare | None = None,
        prefix_identity: str = "",
        long_gap_seconds: float = 0.0,
        worker_links: WorkerLinks | None = None,
        speed_watch: SpeedWatch | None = None,
    ) -> None:
        """Set up an empty loop.

        ``prefill_chunk``: prompt tokens of a step, at most. ``step_seconds``: how long a step may take while sequences
        decode; None: in proportion to a step without prompts. ``host_cache_tokens``: tokens of finished sequences that
        the prefix cache may hold in host memory. ``disk``: where prefix states go that don't fit there.
        ``checkpoint_bytes``: memory for the checkpoints of a model that needs them. ``cpus``: where the thread that
        computes masks may run; empty: where the loop runs. ``speculator``: drafts tokens. ``page``: where the
        supervisor reads the loop's progress. ``cache``: what an earlier loop on this backend has left; without it the
        backend's slots are empty. ``core_share``: this engine's part of cores that other engines compute on, too.
        ``prefix_identity``: with one, the prefixes that the cache holds are reported for a cluster's router.
        ``long_gap_seconds``: longer gaps between replies' tokens are logged; 0: none.
        ``worker_links``: of a model that is placed on workers. ``speed_watch``: of one whose speed was predicted.
        """
        #: Work for the first time in which nothing runs: it may take a second, in which no step is made.
        self.when_quiet: Callable[[], None] | None = None
        self.helpers: list[HelperThread] = []  #: threads whose items are reported if they take long
        self._page = page or ProgressPage()
        self._core_share = core_share
        self._worker_links = worker_links
        self._longest = LongestStep(self._page, backend, prefill_chunk)
        self.inbox: Inbox = queue.SimpleQueue()
        self._backend = backend
        cache = cache or PrefixCache.empty(backend, host_cache_tokens, disk, checkpoint_bytes)
        cache.executor.deliver_to(self.inbox.put)
        self.cache = cache  #: for the next loop; no sequence runs in it once ``run`` has ended
        self._cache, self._executor = cache
        self._scheduler = Scheduler(
            self._cache, parallel=backend.info.parallel, max_batch=backend.max_batch, prefill_chunk=prefill_chunk
        )
        self._prefill_budget = PrefillBudget(prefill_chunk, step_seconds)
        self._speculator = speculator
        self._sequences: dict[int, Sequence] = {}
        self._file_waits = FileWaits()
        self._progress = PromptProgress()
        self._embeddings = EmbeddingQueue(backend.embedding_context, prefill_chunk)
        self._gaps = LongGaps(long_gap_seconds)
        self._planner = StepPlanner(self._scheduler, cache, self._prefill_budget, self._gaps)
        self._batch = StepBatch([])  #: the last step's
        draft_rollback = DraftRollback(backend)
        self._drafts = None if speculator is None else StepDrafts(speculator, backend, self._cache, draft_rollback)
        self._accounting = StepAccounting(
            cache, self._prefill_budget, speculator, draft_rollback, worker_links, speed_watch
        )
        self._counters = self._accounting.counters  #: those of steps
        self._masks = StepMasks(
            self._sequences,
            self._scheduler,
            self._counters,
            cpus=cpus,
            announce=self.inbox.put,
            can_recompute=not backend.rollback.by_checkpoints,
        )
        self._prefixes: PrefixReports | None = None
        if prefix_identity:
            self._prefixes = PrefixReports(
                prefix_identity, cache, self._scheduler, self._prefill_budget, backend.bytes_per_cell
            )
        self._moving = False  #: whether states move in pieces, beside steps or while nothing runs
        self.heartbeats = Heartbeats(
            self._scheduler,
            cache,
            self._accounting,
            self._page,
            bytes_per_cell=backend.bytes_per_cell,
            helpers=self.helpers,
            worker_links=worker_links,
            speed_watch=speed_watch,
        )
        if speculator is not None:
            self.heartbeats.include(speculator.counters)

    @property
    def has_work(self) -> bool:
        """Whether anything runs, waits or lies in the inbox."""
        return self._scheduler.has_work or not self.inbox.empty() or bool(self._file_waits) or bool(self._embeddings)

    def run(self, publish: Publish) -> None:
        """Step until the inbox brings None (the connection has ended); then drop every sequence.

        Raises BackendError, and OSError of ``publish``, after which every sequence is dropped, too.
        """
        try:
            self._run(publish)
        except OSError:
            self._drop_all()
            raise
        finally:
            if self._core_share is not None:
                self._core_share.end_work()

    def _run(self, publish: Publish) -> None:
        page, longest, cores, prefixes = self._page, self._longest, self._core_share, self._prefixes
        next_heartbeat = now = time.monotonic()
        idle, quiet, blocked = True, 0, False  # blocked: all sequences that run await their masks
        while True:
            waits = (idle or blocked) and not self._moving
            until = next_heartbeat - now
            if prefixes is not None:
                until = min(until, prefixes.seconds_until_due(now))
            if not self.take(until if waits else 0.0):
                self._drop_all()
                self._masks.close()
                return
            begun = time.monotonic() if waits else now
            self._gaps.mark("inbox")
            page.beat(begun)
            if cores is not None and (not idle or self.has_work):
                cores.before_step(begun)
            blocked = self.step(publish) is None and not self._embeddings
            if self._embeddings:
                self._embed(publish)
                self._gaps.mark("embeddings")
            was_idle, idle = idle, not (self._scheduler.has_work or self._embeddings)
            if idle and cores is not None:
                cores.end_work()
            now = time.monotonic()
            if longest.is_estimated or now - begun > page.longest:
                longest.observe(now - begun, len(self._batch.tokens))
            self._end_late_fetches(now)
            if prefixes is not None:
                prefixes.report(now, publish)
            # The change to idle is published at once: no step would do it.
            if now >= next_heartbeat or (idle and not was_idle):
                self.heartbeats.publish(publish)
                next_heartbeat = now + HEARTBEAT_SECONDS
                quiet = quiet + 1 if idle and was_idle else 0
                if quiet > 1 and self.when_quiet is not None:
                    self.when_quiet()
                    self.when_quiet = None

    def take(self, wait: float = 0.0) -> bool:
        """Take everything that lies in the inbox, after waiting up to ``wait`` seconds for the first item.

        False when the connection has ended.
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
        """One engine step: None when there was nothing to compute. Raises BackendError.

        ``publish`` is called with it as soon as its tokens are sampled, and before the accounting, which then runs
        while the message is on its way. Sequences that finish in it are still there during that call.
        """
        begun = time.perf_counter()
        step = self._step(publish)
        seconds = time.perf_counter() - begun
        batch, budget = self._batch, self._prefill_budget
        awaited = self._scheduler.awaits_copy
        self._move_states(budget.move_seconds(batch.n_decoding, seconds, awaited=awaited))
        self._gaps.mark("moves")
        budget.observe_gap(batch.n_decoding, batch.n_prompt_tokens, time.perf_counter() - begun)
        return step

    def _step(self, publish: Publish | None) -> Step | None:
        planning = time.perf_counter()
        if self._drafts is not None:
            self._drafts.propose(self._scheduler.running, has_waiting=bool(self._scheduler.waiting))
        reuse_plan = self._scheduler.can_reuse_plan()
        if not reuse_plan:
            failed = self._schedule(publish)
            if failed is not None:
                return self._fail(failed, publish)
            if not self._batch.scheduled:
                return None
        batch, gaps = self._batch, self._gaps
        gaps.mark("schedule")
        if self._worker_links is not None:
            self._worker_links.begin_step()
        begun = time.perf_counter()
        if batch.constrained:
            self._masks.start(batch)
        if reuse_plan:
            logits = self._backend.decode_repeat([sequence.tokens[-1] for sequence in batch.sampled])
        else:
            outputs = self._accounting.outputs_of(batch)
            logits = self._backend.decode(batch.tokens, batch.positions, batch.slots, outputs, batch.n_decode_tokens)
        decoded = time.perf_counter()
        gaps.mark("decode")
        if batch.constrained:
            self._masks.wait(decoded - begun)
        masked = time.perf_counter()
        lengths = [len(sequence.tokens) for sequence in batch.sampled]
        step = sample_step(batch.sampled, logits)
        sampled = time.perf_counter()
        gaps.mark("sample")
        if self._progress.reported:
            step.progress.extend(self._progress.after(batch.scheduled))
        try:
            if publish is not None:
                publish(step)
                gaps.mark("send")
            quiet = self._prefill_budget.quiet_seconds(batch.n_decoding)
            gaps.end(batch.sampled, batch.n_prompt_tokens, quiet)
        finally:
            # Also where the HTTP process has gone: what the cache holds is kept for the next one.
            self._accounting.add(batch, lengths, pass_seconds=decoded - begun, seconds=masked - begun)
            for failure in step.failed:
                sequence = self._sequences[failure.id]
                self._executor.discard(sequence.slot, sequence.tokens)
                self._drop(sequence)
            for finished in step.finished:
                self._drop(self._sequences[finished.id])
        if batch.constrained:
            self._masks.start_slow(batch)
        self._accounting.add_times(planning, begun, decoded, masked, sampled, time.perf_counter())
        gaps.mark("accounting")
        return step

    def heartbeat(self) -> Heartbeat:
        """The gauges now, and the counters since the start."""
        return self.heartbeats.now()

    def close(self) -> None:
        """Finish writing to the disk tier."""
        self._executor.close()

    # Take

    def _receive(self, item: InboxItem) -> bool:
        """Take in one item; False when the connection has ended."""
        if isinstance(item, Sequence):
            self._sequences[item.id] = item
            if self._speculator is not None:
                self._speculator.begin(item)
            if item.reuse_prefix and self._executor.fetch(item.tokens, item.id):
                self._file_waits.begin(item, time.monotonic())
            else:
                self._scheduler.add(item)
        elif isinstance(item, Fetched):
            self._executor.store(item)
            # The id is unknown if it was cancelled meanwhile.
            if (waiting := self._file_waits.end(item.id)) is not None:
                self._scheduler.add(waiting)
        elif isinstance(item, MaskReady):
            self._masks.resume(item.id)
        elif isinstance(item, list):
            self._embeddings.add(item)
        elif item is not None:
            if (sequence := self._sequences.get(item)) is not None:
                self._counters.cancelled += 1
                self._drop(sequence)
            else:
                self._embeddings.cancel(item)  # Without effect if the request ended while its cancel was on the way.
        return item is not None

    def _end_late_fetches(self, now: float) -> None:
        """Have sequences compute their prompts that have waited too long for a file."""
        if self._file_waits:
            for sequence in self._file_waits.take_late(now):
                self._scheduler.add(sequence)

    def _drop(self, sequence: Sequence) -> None:
        """Remove a sequence that has finished, failed or been cancelled."""
        del self._sequences[sequence.id]
        self._gaps.drop(sequence.id)
        if sequence.constraint is not None:
            sequence.constraint.cancel()
        self._progress.end(sequence)
        if self._file_waits.end(sequence.id) is None:
            self._scheduler.remove(sequence)
        if self._speculator is not None:
            self._speculator.end(sequence)

    def _drop_all(self) -> None:
        for sequence in list(self._sequences.values()):
            self._drop(sequence)
        self._embeddings.clear()

    # Schedule

    def _schedule(self, publish: Publish | None) -> Sequence | None:
        """Plan the coming step and make its batch. A sequence that can't run for want of memory is returned, and there
        is no batch.
        """
        plan, failed = self._planner.plan(moving=self._moving)
        if failed is not None:
            return failed
        self._begin(plan.admitted, publish)
        self._batch = StepBatch(plan.scheduled)
        if publish is not None and plan.scheduled:
            self.heartbeats.publish_change(publish)  # The coming step may take long.
        return None

    def _fail(self, sequence: Sequence, publish: Publish | None) -> Step:
        """End a sequence for whose tokens there is no memory."""
        message = f"the KV cache can't grow to {len(sequence.tokens) + 1} tokens: there is not enough memory"
        step = Step([], [], [], [], {}, failed=[Failed(sequence.id, message)])
        if publish is not None:
            publish(step)
        self._drop(sequence)
        return step

    def _begin(self, admitted: list[Sequence], publish: Publish | None) -> None:
        """Note when new sequences were admitted, and report the progress of their prompts."""
        new = [sequence for sequence in admitted if sequence.admitted_at is None]
        if not new:
            return
        now = time.monotonic()
        for sequence in new:
            sequence.admitted_at = now
        if publish is not None and (reports := self._progress.begin(new)):
            publish(Step([], [], [], [], {}, progress=reports))

    def _move_states(self, seconds: float) -> None:
        """Move pieces of the states that come and go."""
        moved = self._executor.advance(seconds, beside=self._scheduler.has_work)
        if moved.ended:
            self._scheduler.mark_lost(moved.lost)
            self._scheduler.note_move()
        self._moving = moved.more or moved.ended

    # Publish

    def _embed(self, publish: Publish) -> None:
        """An embedding pass, if it is time for one."""
        begun = time.perf_counter()
        quiet = self._prefill_budget.quiet_seconds(len(self._scheduler.decoding))
        for answer in self._embeddings.step(beside=self._scheduler.has_work, step_seconds=quiet):
            publish(Step([], [], [], [], {}, [answer]) if isinstance(answer, Failed) else answer)
        self._counters.embedding_seconds += time.perf_counter() - begun
