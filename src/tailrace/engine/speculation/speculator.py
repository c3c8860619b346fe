"""Decides which running sequences get how many draft tokens in the next step. Pure policy: no model, no clock.

A step computes a sequence's last token and the draft tokens behind it in one pass, which verifies them. Accepted draft
tokens save steps, rejected ones are wasted work. The expected gain comes from two estimates: how often draft tokens are
accepted (``acceptance``), and what a pass of so many tokens takes (``pass_cost``).

A sequence without a draft must not lose speed by the drafts of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import Acceptance
from tailrace.engine.speculation.draft_rollback import DraftRollback
from tailrace.engine.speculation.draft_source import MIN_ACCEPTANCE, DraftSource
from tailrace.engine.speculation.drafter import Drafter
from tailrace.engine.speculation.pass_cost import PassCost
from tailrace.protocol import EngineCounters

#: The draft lengths that are compared.
_DRAFT_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: The part of its speed that a sequence without a draft must keep beside the drafts of others.
_MIN_KEPT_SPEED = 0.98
#: The expected speedup that a draft needs: the estimates are uncertain.
_MIN_SPEEDUP = 1.15
#: The same for a sequence that has lost by its drafts. Only a long run of accepted tokens promises that.
_MIN_SPEEDUP_IN_DEBT = 1.6
#: The part of its steps that a sequence may lose without debt.
_FREE_LOSS = 0.01
#: Won steps that make up for later losses, at most.
_MAX_CREDIT = 10.0
#: Steps that a draft may take beyond the sequence's credit: all of them are lost if its first token is wrong. Where
#: passes cost nearly what they bring, long drafts promise little and risk much; the limit keeps the worst reply at 0.98
#: of its speed.
_MAX_RISK = 6.0
#: After so many steps in which likely drafts were too costly, one is verified to see whether they still are: twice as
#: many after each, until drafts pay again.
_FIRST_RETRY_STEPS = 256
_MAX_RETRY_STEPS = 4096
_RETRY_LENGTH = 8
_RETRY_MIN_ACCEPTANCE = 0.9
#: For drafters that learn from drafts alone: a sequence without a draft for so many tokens isn't prepared any more.
_PREPARE_TOKENS = 64
#: The longest draft of a probe, and of a source that was never right yet: one token shows whether it is right, and
#: costs the least.
_PROBE_LENGTH = 1


@dataclass(slots=True)
class _SourceStats:
    """How a source's drafts for one sequence have fared."""

    acceptance: Acceptance
    tokens_since_draft: int = 0  #: those that came with a draft of another source don't count
    has_drafted: bool = False


@dataclass(slots=True)
class _SequenceStats:
    """How one sequence's drafts have fared, with stats for each source."""

    sources: list[_SourceStats]
    credit: float = 0.0  #: steps won by drafts, less the lost ones beyond the free loss; below 0 is debt
    drafted_by: int = 0  #: the source of the present draft


class _Draftable(NamedTuple):
    """A sequence that can get a draft in this step."""

    sequence: Sequence
    stats: _SequenceStats
    source: int
    run: int  #: draft tokens in a row that were right just now
    max_length: int


@dataclass(slots=True)
class _DraftCandidate:
    """A draftable sequence with its expected gain."""

    sequence: Sequence
    source: int
    expected_tokens: list[float]  #: tokens that the step is expected to bring, by the draft's length
    min_speedup: float  #: expected tokens a step, divided by the step's slowdown, must reach this
    max_slowdown: float  #: how many times longer the step may take

    @property
    def max_length(self) -> int:
        return len(self.expected_tokens) - 1


class Speculator:
    """Chooses drafts of at most ``n_draft_max`` tokens a sequence, each from the drafter that promises the most.

    For each step, ``propose`` sets the drafts, ``observe`` gets the step's duration, and ``learn`` its tokens.
    """

    def __init__(self, *drafters: Drafter, n_draft_max: int) -> None:
        self.counters = EngineCounters()
        self._sources = [DraftSource(drafter) for drafter in drafters]
        #: Those whose drafts cost time. The others need no probes and no results.
        self._costly = [source for source in self._sources if not source.drafter.learns_without_draft]
        self._draft_lengths = [length for length in _DRAFT_LENGTHS if length < n_draft_max] + [n_draft_max]
        self._pass_cost = PassCost()
        self._stats: dict[int, _SequenceStats] = {}  #: by the sequence's id
        self._seconds_without_drafts = 0.0  #: expected for the present step; 0: it has no drafts
        self._draft_seconds = 0.0  #: expected for making the present step's drafts
        self._slowdown = 1.0  #: how many times longer the last step with drafts took because of them
        self._too_costly_steps = 0  #: steps in which likely drafts were too costly, since the last retry
        self._retry_after = _FIRST_RETRY_STEPS
        self._equal_split = False
        self._rollback: DraftRollback | None = None

    def begin(self, sequence: Sequence) -> None:
        """A sequence has started."""
        self._stats[sequence.id] = _SequenceStats(
            [_SourceStats(Acceptance(source.acceptance)) for source in self._sources]
        )
        for source in self._sources:
            source.drafter.begin(sequence)

    def end(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        del self._stats[sequence.id]
        for source in self._sources:
            source.drafter.end(sequence)

    def propose(
        self,
        running: list[Sequence],
        free_cells: Callable[[Sequence], int],
        total_free: int,
        *,
        has_waiting: bool,
        equal_split: bool,
        rollback: DraftRollback | None = None,
    ) -> None:
        """Give running sequences drafts for the next step, and have it give the results that the drafters need.

        ``free_cells`` is how many draft tokens fit behind a sequence's last token, ``total_free`` how many fit behind
        all sequences. ``has_waiting``: other sequences wait to start. ``equal_split``: the backend computes sequences
        with different numbers of tokens in separate passes. ``rollback``: how rejected draft tokens will be removed;
        None: without cost.
        """
        self._rollback = rollback
        self._seconds_without_drafts = 0.0
        self._equal_split = equal_split
        n_decoding = sum(sequence.decoding for sequence in running)
        for source in self._costly:
            source.note_step(n_decoding, can_probe=not has_waiting)  # A probe would delay what waits.
        self._set_drafts(running, n_decoding, free_cells, total_free, has_waiting=has_waiting)
        for source in self._costly:
            source.drafter.expect_results(source.wants_results)

    def _set_drafts(
        self,
        running: list[Sequence],
        n_decoding: int,
        free_cells: Callable[[Sequence], int],
        total_free: int,
        *,
        has_waiting: bool,
    ) -> None:
        draftable, probe = self._draftable(running, free_cells, n_decoding)
        if not (draftable or probe) or not self._pass_cost.has_observations:
            return
        self._seconds_without_drafts = self._pass_cost.seconds(n_decoding)
        others = has_waiting or len(draftable) < len(running)
        candidates: list[_DraftCandidate] = []
        # If the others would lose too much speed by one draft token each, they would by longer drafts, too.
        if draftable and not (others and self._is_costly_for_others(draftable, n_decoding)):
            candidates = [self._candidate(one) for one in draftable]
        length = self._best_length(candidates, n_decoding, others, total_free) if candidates else 0
        if length:
            self._draft([(one.sequence, one.source, min(length, one.max_length)) for one in candidates], probes=False)
            return
        if not others:
            # Those in debt need more than others do, so they say little about the source.
            for number in {one.source for one in draftable if one.stats.credit >= 0.0}:
                self._sources[number].note_unpaid(n_decoding)
        if probe is not None and total_free > 0:
            sequence, source = probe
            self._stats[sequence.id].drafted_by = source
            self._draft([(sequence, source, _PROBE_LENGTH)], probes=True)

    def _is_costly_for_others(self, draftable: list[_Draftable], n_decoding: int) -> bool:
        shortest = self._step_seconds(n_decoding, [(one.source, 1) for one in draftable], others=True)
        return _MIN_KEPT_SPEED * shortest > self._seconds_without_drafts

    def _draft(self, drafts: list[tuple[Sequence, int, int]], *, probes: bool) -> None:
        """Have these sequences' sources draft for them, so many tokens each."""
        self._draft_seconds = self._preparation_seconds([(source, length) for _, source, length in drafts])
        for number, source in enumerate(self._sources):
            own = [(sequence, length) for sequence, each, length in drafts if each == number]
            if own:
                for sequence, _ in own:
                    sequence.draft_from_prediction = False
                source.drafter.draft(own)
                source.note_drafts(probes=probes)

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """See ``Drafter``. Called before ``observe``."""
        for source in self._costly:
            if source.wants_results:
                source.drafter.collect(scheduled, slots)

    def observe(self, token_counts: list[int], n_decoding: int, seconds: float) -> None:
        """The step took ``seconds``. ``token_counts`` has each sequence's tokens; ``n_decoding`` of the sequences
        weren't in prefill.
        """
        if self._seconds_without_drafts:
            self._slowdown = (seconds + self._draft_seconds) / self._seconds_without_drafts
        # A step that mixes prefill and decode, or has unequal sequences with equal_split, is more than one pass.
        one_kind = n_decoding in (0, len(token_counts))
        one_pass = not self._equal_split or token_counts.count(token_counts[0]) == len(token_counts)
        if one_kind and one_pass:
            self._pass_cost.observe(sum(token_counts), seconds)

    def learn(self, sequence: Sequence, sampled: list[int]) -> None:
        """The step brought the sequence these tokens; its draft is verified."""
        stats = self._stats[sequence.id]
        stats.credit = min(_MAX_CREDIT, stats.credit + _FREE_LOSS * len(sampled))
        for number, (source, own) in enumerate(zip(self._sources, stats.sources, strict=True)):
            drafted = bool(sequence.draft) and number == stats.drafted_by
            if drafted or source.drafter.learns_without_draft:
                source.drafter.learn(sequence, sampled, own.acceptance)
            if drafted:
                own.tokens_since_draft, own.has_drafted = 0, True
            elif not sequence.draft:
                own.tokens_since_draft += len(sampled)
        if not sequence.draft:
            return
        accepted = common_prefix(sequence.draft, sampled)
        if accepted:
            self._sources[stats.drafted_by].note_accepted()
        self.counters.drafts += 1
        self.counters.draft_tokens += len(sequence.draft)
        self.counters.accepted_tokens += accepted
        slowdown = self._slowdown
        if self._rollback is not None and self._rollback.recomputes and len(sampled) <= len(sequence.draft):
            slowdown += self._recompute_seconds(1, len(sampled)) / self._pass_cost.seconds(1)
        stats.credit = min(_MAX_CREDIT, stats.credit + len(sampled) - slowdown)

    def _draftable(
        self, running: list[Sequence], free_cells: Callable[[Sequence], int], n_decoding: int
    ) -> tuple[list[_Draftable], tuple[Sequence, int] | None]:
        """The sequences whose drafts may pay, and a sequence with the source that may probe with it. In most steps
        there is none, and that is found quickly.
        """
        draftable: list[_Draftable] = []
        probe: tuple[Sequence, int] | None = None
        for sequence in running:
            if sequence.draft:
                sequence.draft = []
            stats = self._stats[sequence.id]
            runs, probing = self._runs(sequence, stats)
            if not (runs or probing is not None) or sequence.pending != 1 or sequence.awaits_mask:
                continue
            # A grammar's masks are computed for one row a step.
            if sequence.constraint is not None and not sequence.constraint.unconstrained:
                continue
            # The reply's last token needs no draft token: it is sampled from the row of the token before it.
            tokens_left = sequence.max_length - len(sequence.tokens) - 1
            max_length = min(self._draft_lengths[-1], tokens_left, free_cells(sequence))
            if max_length <= 0:
                continue
            if probe is None and probing is not None:
                probe = sequence, probing
            if not runs:
                continue
            found = [_Draftable(sequence, stats, source, run, self._limit(source, max_length)) for source, run in runs]
            best = max(found, key=lambda one: self._promise(one, n_decoding)) if len(found) > 1 else found[0]
            stats.drafted_by = best.source
            draftable.append(best)
        return draftable, probe

    def _limit(self, source: int, max_length: int) -> int:
        return max_length if self._sources[source].is_proven else min(max_length, _PROBE_LENGTH)

    def _runs(self, sequence: Sequence, stats: _SequenceStats) -> tuple[list[tuple[int, int]], int | None]:
        """The sources that may draft for the sequence, each with its run, and one that may probe with it."""
        found: list[tuple[int, int]] = []
        probing: int | None = None
        for number, (source, own) in enumerate(zip(self._sources, stats.sources, strict=True)):
            if not source.drafter.learns_without_draft:
                prepared = _is_prepared(source, own)
                source.prepared |= prepared
                if not (prepared or source.probe_is_due):
                    continue
            run = source.drafter.prepare(sequence)
            if run is None:
                continue
            if source.probe_is_due:
                probing = number
            if own.acceptance.rate(run) >= MIN_ACCEPTANCE:
                found.append((number, run))
        return found, probing

    def _promise(self, draftable: _Draftable, n_decoding: int) -> float:
        """Expected tokens of the sequence for each second of a step, with its best length."""
        if not self._pass_cost.has_observations:
            return 0.0
        candidate = self._candidate(draftable)
        drafter = self._sources[draftable.source].drafter
        return max(
            candidate.expected_tokens[length]
            / (self._pass_cost.seconds(n_decoding + length) + drafter.draft_seconds(1, length))
            for length in {min(length, draftable.max_length) for length in self._draft_lengths}
        )

    def _candidate(self, draftable: _Draftable) -> _DraftCandidate:
        """The expected gain of a draft."""
        sequence, stats, source, run, max_length = draftable
        acceptance = stats.sources[source].acceptance
        expected_tokens = list(accumulate(acceptance.cumulative_rates(run, max_length), initial=1.0))
        min_speedup = _MIN_SPEEDUP if stats.credit >= 0.0 else _MIN_SPEEDUP_IN_DEBT
        return _DraftCandidate(sequence, source, expected_tokens, min_speedup, 1.0 + _MAX_RISK + max(0.0, stats.credit))

    def _best_length(self, candidates: list[_DraftCandidate], n_decoding: int, others: bool, total_free: int) -> int:
        """The draft length with the highest product of all sequences' speedups; 0 for no drafts."""
        best_length, best_log_speedup = 0, 0.0
        for length in self._draft_lengths:
            lengths = [min(length, candidate.max_length) for candidate in candidates]
            if sum(lengths) > total_free:
                break
            drafts = [(one.source, count) for one, count in zip(candidates, lengths, strict=True)]
            seconds = self._step_seconds(n_decoding, drafts, others)
            if self._rollback is not None and self._rollback.recomputes:
                seconds += self._expected_recompute(candidates, lengths, n_decoding)
            slowdown = seconds / self._seconds_without_drafts
            if others and _MIN_KEPT_SPEED * slowdown > 1.0:
                continue
            if any(slowdown > candidate.max_slowdown for candidate in candidates):
                continue
            tokens = [one.expected_tokens[count] for one, count in zip(candidates, lengths, strict=True)]
            if any(count < one.min_speedup * slowdown for count, one in zip(tokens, candidates, strict=True)):
                continue
            log_speedup = sum(map(math.log, tokens)) - n_decoding * math.log(slowdown)
            if log_speedup > best_log_speedup:
                best_length, best_log_speedup = length, log_speedup
        if not best_length:
            return self._retry_length(candidates, others, total_free)
        self._retry_after = _FIRST_RETRY_STEPS
        return best_length

    def _retry_length(self, candidates: list[_DraftCandidate], others: bool, total_free: int) -> int:
        """The length of a draft against the estimates, now and then: a cost that is never paid is never observed again,
        and may have fallen. 0 for no draft.
        """
        if others or any(one.expected_tokens[1] - 1.0 < _RETRY_MIN_ACCEPTANCE for one in candidates):
            return 0
        self._too_costly_steps += 1
        if self._too_costly_steps < self._retry_after or _RETRY_LENGTH * len(candidates) > total_free:
            return 0
        self._too_costly_steps = 0
        self._retry_after = min(_MAX_RETRY_STEPS, 2 * self._retry_after)
        return min(_RETRY_LENGTH, self._draft_lengths[-1])

    def _step_seconds(self, n_decoding: int, drafts: list[tuple[int, int]], others: bool) -> float:
        """The expected seconds of a step with these drafts, each a source and a length, beside one token of each
        sequence.
        """
        lengths = [length for _, length in drafts]
        draft_seconds = self._preparation_seconds(drafts)
        if self._equal_split and (others or min(lengths) < max(lengths)):
            return draft_seconds + self._pass_cost.seconds(n_decoding) + self._pass_cost.seconds(sum(lengths))
        return draft_seconds + self._pass_cost.seconds(n_decoding + sum(lengths))

    def _preparation_seconds(self, drafts: list[tuple[int, int]]) -> float:
        """The expected seconds before a step for its drafts, and for what removes them again."""
        seconds = 0.0 if self._rollback is None else self._rollback.seconds(len(drafts))
        for number, source in enumerate(self._sources):
            if lengths := [length for each, length in drafts if each == number]:
                seconds += source.drafter.draft_seconds(len(lengths), max(lengths))
        return seconds

    def _expected_recompute(self, candidates: list[_DraftCandidate], lengths: list[int], n_decoding: int) -> float:
        """The expected seconds by which the next step is longer, because accepted tokens are computed again."""
        tokens = 0.0
        for candidate, length in zip(candidates, lengths, strict=True):
            expected = candidate.expected_tokens
            all_accepted = expected[length] - expected[length - 1] if length else 1.0
            tokens += (1.0 - all_accepted) * min(expected[length], length)
        return self._recompute_seconds(n_decoding, round(tokens))

    def _recompute_seconds(self, n_decoding: int, tokens: int) -> float:
        return self._pass_cost.seconds(n_decoding + tokens) - self._pass_cost.seconds(n_decoding)


def _is_prepared(source: DraftSource, stats: _SourceStats) -> bool:
    if source.rests or stats.tokens_since_draft >= _PREPARE_TOKENS:
        return False
    return stats.acceptance.rate(0) >= MIN_ACCEPTANCE if stats.has_drafted else source.is_likely
