"""Which running sequences have how many guessed tokens checked in the next step. Pure policy: no model, no clock.

A step computes a sequence's last token and, behind it, tokens that a ``Drafter`` guesses; those that turn out to be the
choice anyway are won, the others are wasted work. Whether that pays is reckoned for each step from two things that are
measured all the time: how often guesses have been right (``acceptance``) and what a pass of that many tokens takes
(``cost``). A sequence whose guesses don't pay has none checked.

Nobody pays for somebody else's drafts: a longer step must leave every sequence its pace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import Acceptance
from tailrace.engine.speculation.pass_cost import PassCost
from tailrace.protocol import EngineCounters

#: Draft lengths that are weighed against each other.
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: A draft whose first token is less likely right than this isn't looked at.
_HOPELESS = 0.3
#: The part of its pace that a sequence without a draft must keep beside the others'.
_KEEPS = 0.98
#: A draft must promise its sequence so many times its pace: what is reckoned is uncertain ...
_WORTH = 1.15
#: ... and so many to one that has lost by its drafts: nothing but a long run of right guesses promises that.
_WORTH_IN_DEBT = 1.6
#: Part of its steps that a sequence may lose without having lost.
_LOSS = 0.01
#: Steps won that make up for later losses, at most.
_MOST_CREDIT = 10.0
#: Steps that a draft may take beyond what the sequence has won: all of them are lost when its first guess is wrong, and
#: where passes cost nearly what they bring, long drafts promise a little and risk much. Replayed over 26 replies of the
#: starter model with passes as dear as on 2 threads and on 1, the worst reply kept 0.984 of its pace, else 0.93.
_RISK = 6.0
#: After so many steps in which likely drafts were too costly, one is checked to see whether they still are.
_DOUBT_STEPS = 256
_DOUBT_LENGTH = 8
_LIKELY = 0.9
#: Where guesses cost something, only checked ones are known. A sequence that had none checked for so many tokens isn't
#: kept ready for them, and after so many (twice as many each time) it gets a short trial.
_ASLEEP = 64
_FIRST_TRIAL = 128
_LAST_TRIAL = 4096
_TRIAL_LENGTH = 3


class Drafter(Protocol):
    """Guesses what sequences will say."""

    #: Whether ``learn`` knows what would have been guessed when nothing was.
    watches: bool
    #: The chance of a right guess that is believed before any was seen, for each level of ``acceptance``.
    belief: tuple[float, ...]

    def begin(self, sequence: Sequence) -> None:
        """A sequence has come."""
        ...

    def prepare(self, sequence: Sequence) -> int | None:
        """Do a bounded piece of the work that is needed before it can guess. How many guesses in a row have been right
        just now; None when it can't guess (yet).
        """
        ...

    def draft(self, wanted: list[tuple[Sequence, int]]) -> None:
        """Set the ``draft`` of each sequence to at most so many guesses."""
        ...

    def seconds(self, drafting: int, length: int) -> float:
        """What drafting ``length`` tokens for so many sequences takes."""
        ...

    def learn(self, sequence: Sequence, chosen: list[int], acceptance: Acceptance) -> None:
        """The sequence's next tokens are known; tell ``acceptance`` which guesses were right."""
        ...

    def end(self, sequence: Sequence) -> None:
        """A sequence has gone."""
        ...


@dataclass(slots=True)
class _Record:
    """How one sequence's drafts have fared."""

    acceptance: Acceptance
    credit: float = 0.0  #: steps won by drafts, less those lost beyond what may be lost
    untested: int = 0  #: tokens since the last draft
    trial: int = _FIRST_TRIAL  #: tokens after which one is tried anyway


@dataclass(slots=True)
class _Candidate:
    sequence: Sequence
    gains: list[float]  #: tokens that the step is expected to bring by the draft's length
    worth: float  #: how many times its pace the sequence must be promised
    slowest: float  #: how many times longer the step may take at most


#: A sequence, how many guesses have been right just now (None: it is tried whatever they were), tokens at most.
_Hopeful = tuple[Sequence, _Record, int | None, int]


class Speculator:
    """Decides about drafts of at most ``most`` tokens.

    For each step ``propose`` sets drafts, ``observe`` is told what it took, then ``learn`` what it brought.
    """

    def __init__(self, drafter: Drafter, *, most: int) -> None:
        self.counters = EngineCounters()
        self._drafter = drafter
        self._lengths = [length for length in _LENGTHS if length < most] + [most]
        self._cost = PassCost()
        self._all = Acceptance(drafter.belief)
        self._records: dict[int, _Record] = {}  #: of each sequence, by its id
        self._expected = 0.0  #: seconds that the step was expected to take without drafts; 0: it has none
        self._drafting = 0.0  #: seconds that its drafts took to be made
        self._slower = 1.0  #: how many times longer it took
        self._too_costly = 0  #: steps in which likely drafts were too costly, since the last one that wasn't
        self._equal_split = False

    def begin(self, sequence: Sequence) -> None:
        """A sequence has come."""
        self._records[sequence.id] = _Record(Acceptance(self._all))
        self._drafter.begin(sequence)

    def end(self, sequence: Sequence) -> None:
        """A sequence has gone."""
        del self._records[sequence.id]
        self._drafter.end(sequence)

    def propose(
        self, running: list[Sequence], room: Callable[[Sequence], int], total: int, *, busy: bool, equal_split: bool
    ) -> None:
        """Give running sequences drafts for the coming step.

        ``room``: tokens that may be added behind a sequence's last one, ``total`` behind all of them. ``busy``: others
        wait. ``equal_split``: the backend computes sequences that have different numbers of tokens in passes of their
        own.
        """
        self._expected = 0.0
        self._equal_split = equal_split
        hopeful = self._hopeful(running, room)
        if not hopeful or not self._cost.known:
            return
        others = busy or len(hopeful) < len(running)
        decoding = sum(sequence.decoding for sequence in running)
        self._expected = self._cost.seconds(decoding)
        # Where the others can't bear one token more for each, they can't bear longer drafts.
        if others and _KEEPS * self._seconds(decoding, [1] * len(hopeful), others) > self._expected:
            return
        candidates = [self._candidate(*one) for one in hopeful]
        length = self._best_length(candidates, decoding, others, total)
        if not length:
            return
        self._drafting = self._drafter.seconds(len(candidates), length)
        self._drafter.draft([(candidate.sequence, min(length, len(candidate.gains) - 1)) for candidate in candidates])

    def observe(self, counts: list[int], decoding: int, seconds: float) -> None:
        """The step took so long. ``counts``: tokens of each sequence in it; ``decoding`` of them weren't in prefill."""
        if self._expected:
            self._slower = (seconds + self._drafting) / self._expected
        # A step that mixes prompts and replies, or unequal sequences in streams, is more than one pass.
        one_kind = decoding in (0, len(counts))
        one_pass = not self._equal_split or counts.count(counts[0]) == len(counts)
        if one_kind and one_pass:
            self._cost.observe(sum(counts), seconds)

    def learn(self, sequence: Sequence, chosen: list[int]) -> None:
        """The step brought the sequence these tokens; its draft is over."""
        record = self._records[sequence.id]
        self._drafter.learn(sequence, chosen, record.acceptance)
        record.credit = min(_MOST_CREDIT, record.credit + _LOSS * len(chosen))
        record.untested += len(chosen)
        if not sequence.draft:
            return
        accepted = common_prefix(sequence.draft, chosen)
        self.counters.drafts += 1
        self.counters.draft_tokens += len(sequence.draft)
        self.counters.accepted_tokens += accepted
        record.credit = min(_MOST_CREDIT, record.credit + len(chosen) - self._slower)
        record.untested = 0

    def _hopeful(self, running: list[Sequence], room: Callable[[Sequence], int]) -> list[_Hopeful]:
        """Those whose guesses have a chance. In most steps it is nobody, and that is soon told."""
        hopeful: list[_Hopeful] = []
        watches = self._drafter.watches
        for sequence in running:
            if sequence.draft:
                sequence.draft = []
            record = self._records[sequence.id]
            trial = not watches and record.untested >= record.trial
            if not (watches or trial or (record.untested < _ASLEEP and record.acceptance.chance(0) >= _HOPELESS)):
                continue
            run = self._drafter.prepare(sequence)
            if run is None or sequence.pending != 1:
                continue
            # A grammar's masks are computed for one row a step.
            if sequence.constraint is not None and not sequence.constraint.free:
                continue
            if not trial and record.acceptance.chance(run) < _HOPELESS:
                continue
            # The last token before the limit is chosen from the row of the token before it.
            length = min(self._lengths[-1], sequence.max_length - len(sequence.tokens) - 1, room(sequence))
            if length <= 0:
                continue
            if trial:
                record.trial = min(_LAST_TRIAL, 2 * record.trial)
            hopeful.append((sequence, record, None if trial else run, length))
        return hopeful

    def _candidate(self, sequence: Sequence, record: _Record, run: int | None, length: int) -> _Candidate:
        """What a draft of at most ``length`` tokens promises after ``run`` right guesses; a trial can't but win."""
        if run is None:
            return _Candidate(sequence, [1e9] * (1 + min(length, _TRIAL_LENGTH)), 0.0, math.inf)
        gains = list(accumulate(record.acceptance.survival(run, length), initial=1.0))
        worth = _WORTH if record.credit >= 0.0 else _WORTH_IN_DEBT
        return _Candidate(sequence, gains, worth, 1.0 + _RISK + max(0.0, record.credit))

    def _best_length(self, candidates: list[_Candidate], decoding: int, others: bool, total: int) -> int:
        """The draft length with the highest product of all sequences' paces; 0 for none."""
        best, best_worth = 0, 0.0
        for length in self._lengths:
            lengths = [min(length, len(candidate.gains) - 1) for candidate in candidates]
            if sum(lengths) > total:
                break
            slower = self._seconds(decoding, lengths, others) / self._expected
            if others and _KEEPS * slower > 1.0:
                continue
            if any(slower > candidate.slowest for candidate in candidates):
                continue
            gains = [candidate.gains[count] for candidate, count in zip(candidates, lengths, strict=True)]
            if any(gain < candidate.worth * slower for gain, candidate in zip(gains, candidates, strict=True)):
                continue
            worth = sum(map(math.log, gains)) - decoding * math.log(slower)
            if worth > best_worth:
                best, best_worth = length, worth
        return best or self._doubt(candidates, others, total)

    def _doubt(self, candidates: list[_Candidate], others: bool, total: int) -> int:
        """A cost that is never paid again is never seen to have fallen: now and then a likely draft is checked."""
        if others or any(candidate.gains[1] - 1.0 < _LIKELY for candidate in candidates):
            return 0
        self._too_costly += 1
        if self._too_costly < _DOUBT_STEPS or _DOUBT_LENGTH * len(candidates) > total:
            return 0
        self._too_costly = 0
        return min(_DOUBT_LENGTH, self._lengths[-1])

    def _seconds(self, decoding: int, lengths: list[int], others: bool) -> float:
        """A step's time with drafts of these lengths added to one token of each sequence."""
        drafted = sum(lengths)
        drafting = self._drafter.seconds(len(lengths), max(lengths))
        if self._equal_split and (others or min(lengths) < max(lengths)):
            return drafting + self._cost.seconds(decoding) + self._cost.seconds(drafted)
        return drafting + self._cost.seconds(decoding + drafted)
