"""Which prompts get a step's prompt tokens, and how many.

The caller whose prompts have had the fewest tokens comes first. Within a caller the oldest prompt and the one with the
fewest tokens left come first in turn, so neither waits for the other. Beside replies that have just begun, a prompt's
last chunk may be larger than the budget: requests that come together shall begin together.

These rules keep a caller's time to the first token short beside a greedy caller:

- Prompt tokens of a caller with replies count double.
- The step that computes the whole prompt of a caller without a reply computes no replies, so the prompt has their time.
- While another caller is present, the last chunk of a caller with replies is within the budget.
"""

from __future__ import annotations

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.scheduler.fair_queue import urgency
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.scheduler.turns import Turns
from tailrace.engine.sequence import Sequence

#: What a prompt token counts for a caller that has replies: another caller waits for its first token.
_REPLY_WEIGHT = 2
#: Tokens of a reply that has just begun, at most: a longer gap is no interruption of it yet.
_YOUNG_TOKENS = 16
#: Steps for which a caller that sent a request counts as present.
_PRESENT_STEPS = 1000


class PromptScheduler:
    """Schedules the prompts of ``running``, which is the scheduler's own list."""

    def __init__(self, cache: KVCache, running: list[Sequence], *, max_batch: int, prefill_chunk: int) -> None:
        """See ``Scheduler``."""
        #: Running sequences whose prompt a waiting sequence of another caller wants to share, with that caller.
        self.awaited: dict[int, str] = {}
        self._cache = cache
        self._running = running
        self._max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._turns: Turns[str] = Turns()  #: prompt tokens of each caller
        #: The step in which each present caller last sent a request, oldest first.
        self._last_request: dict[str, int] = {}
        self._deferred = False  #: whether the last step left replies out for a caller's first prompt

    def note_request(self, caller: str, step: int) -> None:
        """The caller has sent a request before this step."""
        requests = self._last_request
        requests.pop(caller, None)
        requests[caller] = step
        while step - next(iter(requests.values())) > _PRESENT_STEPS:
            del requests[next(iter(requests))]

    def schedule(
        self, plan: Plan, step: int, mixed_prefill_budget: int, last_chunk_budget: int, first_prompt_budget: int
    ) -> None:
        """Give the rest of the step to prompts. See ``Scheduler.plan``."""
        replies = {sequence.id: sequence.caller for sequence, _ in plan.scheduled}
        # A sequence that was just admitted with its whole prompt cached decodes already, but isn't scheduled yet.
        loading = self._cache.loading
        prefilling = [seq for seq in self._running if seq.id not in replies and seq.slot not in loading]
        if not prefilling:
            self._deferred = False
            self._turns.forget_all()
            return
        with_replies = set(replies.values())
        if self._defers_replies(prefilling, with_replies, first_prompt_budget):
            for sequence, _ in plan.scheduled:
                sequence.draft = []
            plan.scheduled = []
            last_chunk_budget = first_prompt_budget
        planned = sum(count for _, count in plan.scheduled)
        budget = min(self._max_batch - planned, mixed_prefill_budget if replies else self._prefill_chunk)
        young = all(sequence.generated < _YOUNG_TOKENS for sequence, _ in plan.scheduled)
        computed: dict[str, int] = {}
        checkpoints = self._checkpoints_at_once(beside=bool(plan.scheduled))
        for caller, sequence in self._prompts_in_turn(prefilling):
            free = self._cache.free_cells(sequence.slot) - (planned if self._cache.layout.shared else 0)
            pending = sequence.pending - sequence.awaits_mask  # The last token is computed when the mask is there.
            # A prompt's last chunk may take longer; one token is no more work than a reply's.
            is_last_chunk = pending <= max(1, last_chunk_budget if young else 0)
            if is_last_chunk and pending > 1 and caller in with_replies:
                # A request of another caller that comes during the step would wait for its end.
                is_last_chunk = not self._others_present(caller, step)
            allowed = max(budget, pending) if is_last_chunk else budget
            until_checkpoint = sequence.next_checkpoint - sequence.computed  # A step ends there.
            count = min(pending, allowed, free, self._max_batch - planned, until_checkpoint)
            if count == until_checkpoint and not checkpoints:
                count -= 1
            if count <= 0:
                continue
            checkpoints -= count == until_checkpoint
            plan.scheduled.append((sequence, count))
            planned += count
            budget -= count
            last_chunk_budget -= count
            computed[caller] = computed.get(caller, 0) + count
        for caller, count in computed.items():
            self._turns.charge(caller, count * (_REPLY_WEIGHT if caller in with_replies else 1))

    def _defers_replies(self, prefilling: list[Sequence], with_replies: set[str], first_prompt_budget: int) -> bool:
        """Whether the step leaves replies out, because it computes the whole prompt of a caller that has none.

        Never in two steps in a row, so callers that come one after the other stop no reply.
        """
        self._deferred = not self._deferred and any(
            1 < sequence.pending <= first_prompt_budget and sequence.caller not in with_replies
            for sequence in (prefilling if with_replies else ())
        )
        return self._deferred

    def _checkpoints_at_once(self, *, beside: bool) -> int:
        """How many prompts may reach a checkpoint in the step. ``beside``: replies wait until it is taken."""
        checkpoints = self._cache.checkpoints
        return len(self._running) if checkpoints is None or not beside else checkpoints.at_once

    def _others_present(self, caller: str, step: int) -> bool:
        """Whether another caller has lately sent a request."""
        return any(
            other != caller and step - requested <= _PRESENT_STEPS for other, requested in self._last_request.items()
        )

    def _prompts_in_turn(self, prefilling: list[Sequence]) -> list[tuple[str, Sequence]]:
        """The sequences in the order in which they get prompt tokens, each with the caller that they count for."""
        by_caller: dict[str, list[Sequence]] = {}
        for sequence in prefilling:
            by_caller.setdefault(self.awaited.get(sequence.id, sequence.caller), []).append(sequence)
        prompts: list[tuple[str, Sequence]] = []
        for caller in self._turns.order(by_caller):
            own = sorted(by_caller[caller], key=urgency)
            if self._turns.pieces(caller) % 2:
                own.sort(key=lambda sequence: (sequence.priority, sequence.pending))
            prompts += [(caller, sequence) for sequence in own]
        return prompts
