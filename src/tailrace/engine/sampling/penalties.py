"""Bias and penalties: what a request adds to and takes from the logits of a few tokens before anything is chosen.

The counts follow the tokens one by one, so that a step costs by the number of different tokens in the history and never
builds it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from copy import copy

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops import Changes, Ids, LogitsRow
from tailrace.protocol import Sampling


class TokenCounts:
    """How often each token occurs in a history that grows and may shrink: arrays of ids and counts, ready for numpy."""

    __slots__ = ("_counts", "_ids", "_places", "counts", "ids")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        ids, counts = np.unique(np.fromiter(tokens, dtype=np.intp), return_counts=True)
        self._places: dict[int, int] = {token: place for place, token in enumerate(ids.tolist())}
        room = max(64, 2 * len(ids))
        self._ids = np.zeros(room, np.intp)
        self._counts = np.zeros(room, np.float32)
        self._ids[: len(ids)] = ids
        self._counts[: len(ids)] = counts
        #: The tokens that occur, in no order, without repetition: another array as soon as there are others.
        self.ids: Ids
        #: How often each of ``ids`` occurs.
        self.counts: npt.NDArray[np.float32]
        self._cut()

    def __len__(self) -> int:
        return len(self._places)

    def _cut(self) -> None:
        self.ids, self.counts = self._ids[: len(self._places)], self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """One more ``token``."""
        place = self._places.get(token)
        if place is not None:
            self._counts[place] += 1
            return
        place = len(self._places)
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[place] = token
        self._counts[place] = 1
        self._places[token] = place
        self._cut()

    def remove(self, token: int) -> None:
        """One ``token`` less; it must occur."""
        place = self._places[token]
        self._counts[place] -= 1
        if self._counts[place]:
            return
        # The last entry takes the freed place.
        del self._places[token]
        last = len(self._places)
        if place != last:
            moved = int(self._ids[last])
            self._ids[place] = moved
            self._counts[place] = self._counts[last]
            self._places[moved] = place
        self._cut()


class Penalties:
    """One sequence's logit_bias, repeat penalty (over the last tokens of prompt and reply) and frequency and presence
    penalties (over the reply).
    """

    __slots__ = ("_changes", "_exempt", "_params", "_recent", "_reply", "_window")

    def __init__(self, params: Sampling, prompt: Seq[int], newline: int | None = None, *, bias: bool = True) -> None:
        """``newline``: the token that isn't counted where ``params`` say so. ``bias`` False: the penalties alone."""
        self._params = params
        self._changes = Changes(
            repeat=params.repeat_penalty, frequency=params.frequency_penalty, presence=params.presence_penalty
        )
        if params.logit_bias and bias:
            self._changes.biased = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
            self._changes.bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self._exempt = None if params.penalize_nl else newline
        self._recent: TokenCounts | None = None
        self._window: deque[int] | None = None
        last = params.repeat_last_n
        if params.repeat_penalty != 1.0 and last != 0:
            recent = prompt if last < 0 else prompt[-last:]
            counted = recent if self._exempt is None else [token for token in recent if token != self._exempt]
            self._recent = TokenCounts(counted)
            self._window = deque(recent) if last > 0 else None
        penalised = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._reply = TokenCounts() if penalised else None

    def again(self) -> Penalties:
        """The same history for one more place in a chain; ``accept`` is for the first one alone."""
        other = copy(self)
        changes = self._changes
        other._changes = Changes(repeat=changes.repeat, frequency=changes.frequency, presence=changes.presence)
        return other

    def __bool__(self) -> bool:
        """Whether they can ever change a logit."""
        return len(self._changes.biased) > 0 or self._recent is not None or self._reply is not None

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """Change ``row``, until ``undo``. ``scale``: what its logits will be divided by afterwards and the penalties
        are not.
        """
        if not self:
            return
        changes, params = self._changes, self._params
        if self._recent is not None:
            changes.recent = self._recent.ids
        if self._reply is not None:
            changes.reply, changes.counts = self._reply.ids, self._reply.counts
        if scale != 1.0:
            changes.frequency, changes.presence = params.frequency_penalty * scale, params.presence_penalty * scale
            changes.record = None  # Which has taken over the former ones.
        logits_ops.apply(row, changes)

    def undo(self, row: LogitsRow) -> None:
        """Put ``row`` back as it was before ``apply``."""
        if self:
            logits_ops.undo(row, self._changes)

    def accept(self, token: int) -> None:
        """``token`` has become part of the reply."""
        if self._reply is not None and token != self._exempt:
            self._reply.add(token)
        if self._recent is None:
            return
        if token != self._exempt:
            self._recent.add(token)
        if self._window is not None:
            self._window.append(token)
            if len(self._window) > self._params.repeat_last_n and (old := self._window.popleft()) != self._exempt:
                self._recent.remove(old)
