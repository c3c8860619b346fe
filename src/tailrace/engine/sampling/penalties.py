"""Logit bias, and repeat, frequency and presence penalties.

The token counts follow the tokens one by one. So a step's work depends on the number of different tokens in the
history, and the counts are never built anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from copy import copy

import numpy as np

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import Float32Array, LogitsRow, TokenIds
from tailrace.generation_params import Sampling


class TokenCounts:
    """How often each token occurs in a history that grows and may shrink, as arrays of ids and counts."""

    __slots__ = ("_count_buffer", "_id_buffer", "_index_of", "counts", "ids")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        ids, counts = np.unique(np.fromiter(tokens, dtype=np.intp), return_counts=True)
        self._index_of: dict[int, int] = {token: index for index, token in enumerate(ids.tolist())}
        capacity = max(64, 2 * len(ids))
        self._id_buffer = np.zeros(capacity, np.intp)
        self._count_buffer = np.zeros(capacity, np.float32)
        self._id_buffer[: len(ids)] = ids
        self._count_buffer[: len(ids)] = counts
        #: The distinct tokens, in no order. A new array whenever the set changes: ``AdjustmentStruct`` relies on that.
        self.ids: TokenIds
        #: How often each of ``ids`` occurs.
        self.counts: Float32Array
        self._slice_buffers()

    def __len__(self) -> int:
        return len(self._index_of)

    def _slice_buffers(self) -> None:
        self.ids, self.counts = self._id_buffer[: len(self._index_of)], self._count_buffer[: len(self._index_of)]

    def add(self, token: int) -> None:
        """Count one more ``token``."""
        index = self._index_of.get(token)
        if index is not None:
            self._count_buffer[index] += 1
            return
        index = len(self._index_of)
        if index == len(self._id_buffer):
            self._id_buffer = np.concatenate((self._id_buffer, np.zeros_like(self._id_buffer)))
            self._count_buffer = np.concatenate((self._count_buffer, np.zeros_like(self._count_buffer)))
        self._id_buffer[index] = token
        self._count_buffer[index] = 1
        self._index_of[token] = index
        self._slice_buffers()

    def remove(self, token: int) -> None:
        """Count one ``token`` less. It must occur."""
        index = self._index_of[token]
        self._count_buffer[index] -= 1
        if self._count_buffer[index]:
            return
        # The last entry moves to the freed index.
        del self._index_of[token]
        last = len(self._index_of)
        if index != last:
            moved = int(self._id_buffer[last])
            self._id_buffer[index] = moved
            self._count_buffer[index] = self._count_buffer[last]
            self._index_of[moved] = index
        self._slice_buffers()


class Penalties:
    """A logits processor: one sequence's logit_bias, its repeat penalty (over the last tokens of prompt and reply), and
    its frequency and presence penalties (over the reply).
    """

    __slots__ = ("_adjustment", "_exempt_token", "_params", "_recent_counts", "_reply_counts", "_window")

    def __init__(self, params: Sampling, prompt: Seq[int], newline: int | None = None, *, bias: bool = True) -> None:
        """``newline`` is the token that isn't penalised if ``params`` say so. ``bias`` False leaves out logit_bias."""
        self._params = params
        self._adjustment = LogitAdjustment(
            repeat_penalty=params.repeat_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
        )
        if params.logit_bias and bias:
            self._adjustment.bias_tokens = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
            self._adjustment.bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self._exempt_token = None if params.penalize_nl else newline
        self._recent_counts: TokenCounts | None = None
        self._window: deque[int] | None = None
        last_n = params.repeat_last_n
        if params.repeat_penalty != 1.0 and last_n != 0:
            recent = prompt if last_n < 0 else prompt[-last_n:]
            exempt = self._exempt_token
            self._recent_counts = TokenCounts(
                recent if exempt is None else [token for token in recent if token != exempt]
            )
            self._window = deque(recent) if last_n > 0 else None
        counts_reply = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._reply_counts = TokenCounts() if counts_reply else None

    def share(self) -> Penalties:
        """Another processor over the same history, without bias. ``accept`` must be called on the first one alone."""
        other = copy(self)
        adjustment = self._adjustment
        other._adjustment = LogitAdjustment(
            repeat_penalty=adjustment.repeat_penalty,
            frequency_penalty=adjustment.frequency_penalty,
            presence_penalty=adjustment.presence_penalty,
        )
        return other

    def __bool__(self) -> bool:
        """Whether they can ever change a logit."""
        has_penalties = self._recent_counts is not None or self._reply_counts is not None
        return has_penalties or len(self._adjustment.bias_tokens) > 0

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """See ``LogitsProcessor``."""
        if not self:
            return
        adjustment, params = self._adjustment, self._params
        if self._recent_counts is not None:
            adjustment.repeat_tokens = self._recent_counts.ids
        if self._reply_counts is not None:
            adjustment.count_tokens, adjustment.counts = self._reply_counts.ids, self._reply_counts.counts
        if scale != 1.0:
            adjustment.frequency_penalty = params.frequency_penalty * scale
            adjustment.presence_penalty = params.presence_penalty * scale
            adjustment.native_struct = None  # It has the penalties of another scale.
        logits_ops.for_row(row).apply(row, adjustment)

    def undo(self, row: LogitsRow) -> None:
        """See ``LogitsProcessor``."""
        if self:
            logits_ops.for_row(row).undo(row, self._adjustment)

    def accept(self, token: int) -> None:
        """``token`` has become part of the reply."""
        if self._reply_counts is not None and token != self._exempt_token:
            self._reply_counts.add(token)
        if self._recent_counts is None:
            return
        if token != self._exempt_token:
            self._recent_counts.add(token)
        if self._window is not None:
            self._window.append(token)
            if len(self._window) > self._params.repeat_last_n and (old := self._window.popleft()) != self._exempt_token:
                self._recent_counts.remove(old)
