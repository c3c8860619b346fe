"""What an ingress has sent to each replica and hasn't seen the end of: what a replica's state doesn't show yet.

A state is up to a tenth of a second old. Without this record all requests of such a moment would go to the replica
that was the best one at its beginning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that is to be routed: its tokens, and the hashes of its whole blocks (``prefix_chain``)."""

    tokens: int
    chain: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class _Sent:
    replica: str
    model: str
    prompts: Sequence[Prompt]
    new_tokens: int
    sequences: int


@dataclass(slots=True)
class SentWork:
    """One replica's open requests for one model."""

    sequences: int = 0  #: that haven't ended
    unbegun: int = 0  #: of them, those whose prompt no engine has begun to compute
    unbegun_tokens: int = 0  #: their prompt tokens that the replica doesn't hold
    blocks: Counter[int] = field(default_factory=Counter)  #: prefix blocks of all of them


class SentRequests:
    """See the module. Requests are named by numbers that the caller chooses."""

    def __init__(self) -> None:
        self._open: dict[int, _Sent] = {}
        self._begun: set[int] = set()
        self._work: defaultdict[tuple[str, str], SentWork] = defaultdict(SentWork)

    def of(self, replica: str, model: str) -> SentWork:
        """What is open at the replica for the model."""
        return self._work.get((replica, model)) or SentWork()

    def sent(
        self,
        request: int,
        replica: str,
        model: str,
        prompts: Sequence[Prompt],
        new_tokens: int,
        sequences: int = 1,
    ) -> None:
        """The request was sent. ``new_tokens``: those of its prompts that the replica doesn't hold."""
        self.ended(request)
        entry = self._open[request] = _Sent(replica, model, prompts, new_tokens, sequences)
        work = self._work[replica, model]
        work.sequences += sequences
        work.unbegun += sequences
        work.unbegun_tokens += new_tokens
        for prompt in entry.prompts:
            work.blocks.update(prompt.chain)

    def begun(self, request: int) -> None:
        """An engine has begun with it: from now on the replica's state counts it. Harmless when told again."""
        if (entry := self._open.get(request)) is not None and request not in self._begun:
            self._begun.add(request)
            work = self._work[entry.replica, entry.model]
            work.unbegun -= entry.sequences
            work.unbegun_tokens -= entry.new_tokens

    def ended(self, request: int) -> None:
        """It has ended, or goes to another replica. Harmless when told again."""
        self.begun(request)
        entry = self._open.pop(request, None)
        if entry is None:
            return
        self._begun.discard(request)
        work = self._work[entry.replica, entry.model]
        work.sequences -= entry.sequences
        for prompt in entry.prompts:
            work.blocks.subtract(prompt.chain)
            for block in prompt.chain:
                if not work.blocks[block]:
                    del work.blocks[block]
        if not work.sequences:
            del self._work[entry.replica, entry.model]
