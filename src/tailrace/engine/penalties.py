"""Bias and penalties: what a request adds to and takes from the logits of a few tokens before anything is chosen.

The counts follow the tokens one by one, so that a step costs by the number of different tokens in the history and never
builds it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt

from tailrace.engine.rows import Ids, Row
from tailrace.messages import Sampling


class TokenCounts:
    """How often each token occurs in a history that grows and may shrink: arrays of ids and counts, ready for numpy."""

    __slots__ = ("_counts", "_ids", "_places")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        ids, counts = np.unique(np.fromiter(tokens, dtype=np.intp), return_counts=True)
        self._places: dict[int, int] = {token: place for place, token in enumerate(ids.tolist())}
        room = max(64, 2 * len(ids))
        self._ids = np.zeros(room, np.intp)
        self._counts = np.zeros(room, np.float32)
        self._ids[: len(ids)] = ids
        self._counts[: len(ids)] = counts

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ids(self) -> Ids:
        """The tokens that occur, in no order, without repetition."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """How often each of ``ids`` occurs."""
        return self._counts[: len(self._places)]

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


class Penalties:
    """One sequence's logit_bias, repeat penalty (over the last tokens of prompt and reply) and frequency and presence
    penalties (over the reply).
    """

    __slots__ = ("_bias", "_params", "_recent", "_reply", "_window")

    def __init__(self, params: Sampling, prompt: Seq[int]) -> None:
        self._params = params
        self._bias: tuple[Ids, Row] | None = None
        if params.logit_bias:
            ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
            self._bias = ids, np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self._recent: TokenCounts | None = None
        self._window: deque[int] | None = None
        last = params.repeat_last_n
        if params.repeat_penalty != 1.0 and last != 0:
            recent = prompt if last < 0 else prompt[-last:]
            self._recent = TokenCounts(recent)
            self._window = deque(recent) if last > 0 else None
        penalised = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._reply = TokenCounts() if penalised else None

    def __bool__(self) -> bool:
        """Whether they can ever change a logit."""
        return self._bias is not None or self._recent is not None or self._reply is not None

    def apply(self, row: Row) -> list[tuple[Ids, Row]]:
        """Change ``row``; what is returned lets ``undo`` put it back."""
        params = self._params
        changed: list[tuple[Ids, Row]] = []
        if self._bias is not None:
            ids, bias = self._bias
            before = row.take(ids)
            changed.append((ids, before))
            row[ids] = before + bias
        if self._recent:
            ids = self._recent.ids
            before = row.take(ids)
            changed.append((ids, before))
            with np.errstate(over="ignore"):
                # A penalty over 1 divides what is positive and multiplies the rest: that is the lesser of the two.
                # ``where`` asks each logit for its sign and takes twice as long.
                either = np.minimum if params.repeat_penalty > 1.0 else np.maximum
                row[ids] = either(before / params.repeat_penalty, before * params.repeat_penalty)
        if self._reply:
            ids = self._reply.ids
            before = row.take(ids)
            changed.append((ids, before))
            row[ids] = before - (self._reply.counts * params.frequency_penalty + params.presence_penalty)
        return changed

    def accept(self, token: int) -> None:
        """``token`` has become part of the reply."""
        if self._reply is not None:
            self._reply.add(token)
        if self._recent is None:
            return
        self._recent.add(token)
        if self._window is not None:
            self._window.append(token)
            if len(self._window) > self._params.repeat_last_n:
                self._recent.remove(self._window.popleft())


def undo(row: Row, changed: list[tuple[Ids, Row]]) -> None:
    """Put ``row`` back as it was before ``Penalties.apply``."""
    for ids, before in reversed(changed):
        row[ids] = before
