"""A source of draft tokens: its drafter, how often it is right over all sequences, and when it is tried again.

A drafter that learns from drafts alone stops drafting where it is mostly wrong. Then a draft of one token for one
sequence is a probe, now and then: the texts may have changed. A probe costs up to a few steps, so probes become rarer.
"""

from __future__ import annotations

from tailrace.engine.speculation.acceptance import PRIOR_WEIGHT, Acceptance
from tailrace.engine.speculation.drafter import Drafter

#: A draft is considered only if its first token has at least this acceptance rate.
MIN_ACCEPTANCE = 0.3
#: Steps before a probe in which the drafter gets the steps' results again, which costs 2 % of such a step.
_LEAD_STEPS = 16
#: Steps without a draft of the source after which a probe is due, and by how much more after each probe. The first is
#: due at once. With a growth of 2 probes took half a percent of the first 4,000 steps.
_FIRST_PROBE_STEPS = 128
_PROBE_GROWTH = 4
_MAX_PROBE_STEPS = 4096
#: After a probe that was right another one follows at once, while the acceptance rate is below this. Where it is higher
#: and drafts still don't pay, they cost too much.
_KNOWN_ACCEPTANCE = 0.9
#: After so many steps in which no draft of the source would have paid, it rests: it isn't considered before a probe. To
#: consider it and to collect what it needs takes 2 % of a step of 7 ms.
_UNPAID_STEPS = 16
#: The weight of the prior where observations cost time: a drafter that is never right is found out after 8 drafts.
_COSTLY_PRIOR_WEIGHT = 6.0


class DraftSource:
    """See the module."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        weight = PRIOR_WEIGHT if drafter.learns_without_draft else _COSTLY_PRIOR_WEIGHT
        self.acceptance = Acceptance(drafter.prior, weight)  #: of all sequences
        #: Whether a draft may be longer than a token: a first token has been right, or drafts cost nothing.
        self.is_proven = drafter.learns_without_draft
        self._steps = 0  #: since the last draft; those that couldn't have a probe don't count
        self._can_probe = True  #: in the present step
        self._probe_after = 0
        self._probing = False  #: whether the last drafts were probes
        self._is_repeating = False  #: whether a probe is due because the last one was right
        self.prepared = False  #: whether a sequence of the present step may get its drafts
        self.is_likely = True  #: whether a sequence that has had no draft yet may get one
        self._unpaid_steps = 0  #: in a row
        self._unpaid_streams = 0  #: the fewest replies at once in these steps

    @property
    def wants_results(self) -> bool:
        """Whether the drafter needs the results of the present step: for drafts, or for a probe that comes soon."""
        comes_soon = self._is_repeating or self._steps + _LEAD_STEPS >= self._probe_after
        return self.prepared or (self._can_probe and comes_soon)

    @property
    def probe_is_due(self) -> bool:
        """Whether a sequence may get a draft against the estimates."""
        is_due = self._is_repeating or self._steps >= self._probe_after
        return is_due and self._can_probe and not self.drafter.learns_without_draft

    @property
    def rests(self) -> bool:
        """Whether no sequence gets a draft, except for a probe."""
        return self._unpaid_steps >= _UNPAID_STEPS

    def note_step(self, streams: int, *, can_probe: bool) -> None:
        """The drafts of a step of so many replies are about to be chosen. ``can_probe``: one of them may be a probe."""
        if 0 < streams < self._unpaid_streams:
            self._unpaid_steps = self._unpaid_streams = 0  # Drafts may pay with fewer replies.
        self._steps += can_probe
        self._can_probe = can_probe
        self.prepared = False
        self.is_likely = self.acceptance.rate(0) >= MIN_ACCEPTANCE

    def note_drafts(self, *, probes: bool) -> None:
        """The step has drafts of this source. ``probes``: all of them are."""
        self._steps = 0
        self._probing = probes
        if not probes:
            self._unpaid_steps = self._unpaid_streams = 0
        if not self._is_repeating:
            later = min(_MAX_PROBE_STEPS, _PROBE_GROWTH * self._probe_after) if probes else 0
            self._probe_after = max(_FIRST_PROBE_STEPS, later)
        self._is_repeating = False

    def note_unpaid(self, streams: int) -> None:
        """In the present step, of so many replies, drafts of this source were considered, and none would pay."""
        self._unpaid_steps += 1
        self._unpaid_streams = min(streams, self._unpaid_streams or streams)

    def note_accepted(self) -> None:
        """The first token of a draft was right, which ``acceptance`` has observed."""
        self.is_proven = True
        self._is_repeating = self._probing and self.acceptance.rate(0) < _KNOWN_ACCEPTANCE
