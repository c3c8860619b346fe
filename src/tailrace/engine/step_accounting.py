"""The accounting of a computed step: counters, the tokens that slots hold now, and what the step's time teaches.

It runs after the step's tokens are published, while their message is on its way.
"""

from __future__ import annotations

from bisect import bisect_left

from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.draft_rollback import DraftRollback
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.step import StepBatch
from tailrace.engine.unfinished_passes import PromptTime, UnfinishedPasses, prompt_tokens
from tailrace.observe.buckets import STEP_TOKENS
from tailrace.protocol import EngineCounters


class StepAccounting:
    """See the module. ``counters`` and ``step_tokens`` (steps, by the tokens of their batches) are of one loop."""

    def __init__(
        self,
        cache: PrefixCache,
        prefill_budget: PrefillBudget,
        speculator: Speculator | None,
        draft_rollback: DraftRollback,
        worker_links: WorkerLinks | None = None,
        speed_watch: SpeedWatch | None = None,
    ) -> None:
        self.counters = EngineCounters()
        self.step_tokens = [0] * (len(STEP_TOKENS) + 1)
        self._draft_rollback = draft_rollback
        self._cache, self._executor = cache
        self._prefill_budget = prefill_budget
        self._speculator = speculator
        self._worker_links = worker_links
        self._unfinished = None if worker_links is None else UnfinishedPasses()
        self._speed_watch = speed_watch

    def outputs_of(self, batch: StepBatch) -> list[int]:
        """The tokens of a new batch whose logits the backend is asked for. More than the batch's may be needed, so that
        a pass is waited for.
        """
        return batch.outputs if self._unfinished is None else self._unfinished.outputs_of(batch)

    def add(self, batch: StepBatch, lengths: list[int], *, pass_seconds: float, seconds: float) -> None:
        """A step has computed ``batch``. ``lengths``: the sampled sequences' tokens before it. ``pass_seconds``: the
        model's pass, ``seconds``: with the wait for masks after it.
        """
        tokens = len(batch.tokens)
        prompt: PromptTime | None = PromptTime(prompt_tokens(batch), seconds)
        if self._unfinished is not None:
            prompt = self._unfinished.finish(batch, seconds)
        if prompt is not None and not batch.n_beyond_one:
            self._prefill_budget.observe(batch.n_decoding, prompt.tokens, prompt.seconds)
        counters, cells_read = self.counters, tokens
        counters.steps += 1
        counters.prefill_tokens += tokens - len(batch.outputs)
        counters.decode_tokens += sum(len(sequence.tokens) for sequence in batch.sampled) - sum(lengths)
        counters.batch_tokens += tokens
        self.step_tokens[bisect_left(STEP_TOKENS, tokens)] += 1
        if self._speculator is not None:
            self._speculator.collect(batch.scheduled, batch.slots)
        counters.batch_sequences += len(batch.scheduled)
        counters.decode_sequences += batch.n_decoding
        for sequence, count in batch.scheduled:
            cells_read += sequence.computed
            self._account_sequence(sequence, count)
        counters.kv_cells_read += cells_read
        if self._worker_links is not None:
            self._worker_links.end_step(with_prompt=batch.n_prompt_tokens > 0)
        if self._speed_watch is not None and prompt is not None:
            self._speed_watch.observe(
                decoding=batch.n_decoding,
                prompt_tokens=prompt.tokens,
                drafted=batch.n_beyond_one > 0,
                depth=cells_read - tokens,
                seconds=prompt.seconds - (seconds - pass_seconds),
            )
        if self._speculator is not None:
            self._speculator.observe(batch.token_counts, batch.n_decoding, seconds)
            for sequence, length in zip(batch.sampled, lengths, strict=True):
                self._speculator.learn(sequence, sequence.tokens[length:])

    def add_times(
        self, planning: float, begun: float, decoded: float, masked: float, sampled: float, ended: float
    ) -> None:
        """When the parts of a step began, and when it ended: seconds of one clock."""
        counters = self.counters
        counters.schedule_seconds += begun - planning
        counters.decode_seconds += decoded - begun
        counters.mask_wait_seconds += masked - decoded
        counters.sample_seconds += sampled - masked
        counters.publish_seconds += ended - sampled
        if ended - planning > counters.longest_step_seconds:
            counters.longest_step_seconds = ended - planning

    def _account_sequence(self, sequence: Sequence, count: int) -> None:
        """``count`` tokens of the sequence were computed; those that are its own stay in its slot."""
        start = sequence.computed
        # The token sampled last and the jump-forward tokens behind it aren't computed yet. Draft tokens that weren't
        # accepted aren't the sequence's.
        end = min(start + count, len(sequence.tokens) - 1 - sequence.jump_forward)
        if end < start + count:
            end = self._draft_rollback.drop(sequence, count, end)
            # Accepted tokens that have to be computed again are tokens of the next step, as jump-forward tokens are.
            sequence.jump_forward = len(sequence.tokens) - 1 - end if end >= start else 0
        if end >= start:
            self._cache.append(sequence.slot, sequence.tokens[start:end])
        else:
            self._cache.truncate(sequence.slot, end)
        sequence.computed = end
        if end >= sequence.next_checkpoint:
            self._take_checkpoint(sequence)

    def _take_checkpoint(self, sequence: Sequence) -> None:
        checkpoints = self._cache.checkpoints
        assert checkpoints is not None
        if sequence.generated > 1 and not checkpoints.at_once:
            return  # A reply's checkpoint may be some tokens later, when there is memory for it.
        self._executor.checkpoint(sequence.slot, sequence.tokens, sequence.computed)
        sequence.pass_checkpoint(checkpoints.interval(len(sequence.tokens)))
