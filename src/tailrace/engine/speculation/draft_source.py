"""A source of draft tokens: its drafter, how often it is right over all sequences, and when it is tried again.

A drafter that learns from drafts alone stops drafting where it is mostly wrong. Then a short draft is a probe, now and
then: the texts may have changed. A probe costs a part of a step, so probes that fail become rarer.
"""

from __future__ import annotations

from tailrace.engine.speculation.acceptance import PRIOR_WEIGHT, Acceptance
from tailrace.engine.speculation.drafter import Drafter

#: A draft is considered only if its first token has at least this acceptance rate.
MIN_ACCEPTANCE = 0.3
#: Steps before a probe in which the drafter gets the steps' results again.
_LEAD_STEPS = 32
#: Steps without a draft of the source after which a probe is due: twice as many after each probe.
_FIRST_PROBE_STEPS = 128
_MAX_PROBE_STEPS = 4096
#: The weight of the prior where observations cost time: a drafter that is never right is found out after 8 drafts.
_COSTLY_PRIOR_WEIGHT = 6.0


class DraftSource:
    """See the module."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        weight = PRIOR_WEIGHT if drafter.learns_without_draft else _COSTLY_PRIOR_WEIGHT
        self.acceptance = Acceptance(drafter.prior, weight)  #: of all sequences
        self._steps = 0  #: since the last draft
        self._probe_after = _FIRST_PROBE_STEPS
        self._probing = False  #: whether the last drafts were probes
        self.prepared = False  #: whether a sequence of the present step may get its drafts

    @property
    def wants_results(self) -> bool:
        """Whether the drafter needs the results of the present step: for drafts, or for a probe that comes soon."""
        soon = self._steps + _LEAD_STEPS >= self._probe_after
        return self.prepared or soon or self.acceptance.rate(0) >= MIN_ACCEPTANCE

    @property
    def probe_is_due(self) -> bool:
        """Whether a sequence may get a draft against the estimates."""
        return self._steps >= self._probe_after and not self.drafter.learns_without_draft

    def note_step(self) -> None:
        """A step begins."""
        self._steps += 1
        self.prepared = False

    def note_drafts(self, *, probes: bool) -> None:
        """The step has drafts of this source. ``probes``: all of them are."""
        self._steps = 0
        self._probing = probes
        self._probe_after = min(_MAX_PROBE_STEPS, 2 * self._probe_after) if probes else _FIRST_PROBE_STEPS

    def note_accepted(self) -> None:
        """The first token of a draft was right: after a probe another one follows at once."""
        if self._probing:
            self._steps = self._probe_after = _FIRST_PROBE_STEPS
