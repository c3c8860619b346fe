"""A pass of tokens through the replies' context: its batch, the threads that compute it, and its rows of logits.

It makes no policy: ``backend`` decides what is computed together.
"""

from __future__ import annotations

import llama_cpp.llama_cpp as llama
import numpy as np

from tailrace.engine.backends.base import BackendError, Logits
from tailrace.engine.backends.llama.batch import make_batch
from tailrace.engine.backends.llama.context import LlamaContext
from tailrace.engine.backends.llama.prediction_context import LlamaPredictionContext
from tailrace.engine.backends.llama.result_rows import get_logits, rows_at
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.kernels import loader
from tailrace.engine.sampling.logits_ops import RowMaxima, set_row_maxima


class ForwardPass:
    """See the module. There is one for a context; its batch is filled anew for each pass."""

    def __init__(self, context: LlamaContext, pools: ThreadPools, *, max_batch: int, vocab_size: int) -> None:
        """``max_batch``: tokens of one pass, at most."""
        self._context = context
        self._pools = pools
        self._vocab_size = vocab_size
        self._batch, self._views = make_batch(max_batch)
        #: Address and rows of the last logits: a new array over the same memory would cost 20 µs of each step.
        self._logits_at: tuple[int | None, int] = (0, 0)
        self._logits = np.empty((0, vocab_size), np.float32)
        #: It gets the hidden states of each pass; None: the pass makes none.
        self.prediction_context: LlamaPredictionContext | None = None

    def compute(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], *, n_decode_tokens: int = 0
    ) -> Logits:
        """Compute all tokens in one pass. Arguments and result as in ``Backend.decode``."""
        count = len(tokens)
        self._views.fill(tokens, positions, slots, outputs)
        self._batch.n_tokens = count
        self._pools.use(self._context.pointer, prefill=count > len(outputs))
        return self._run(count, len(outputs), n_decode_tokens=n_decode_tokens)

    def compute_apart(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int
    ) -> Logits:
        """As ``compute``, with a pass for the prompts' tokens and one for the ``n_decode_tokens`` before them."""
        prompt_outputs = [output - n_decode_tokens for output in outputs if output >= n_decode_tokens]
        prompt_logits = self.compute(
            tokens[n_decode_tokens:], positions[n_decode_tokens:], slots[n_decode_tokens:], prompt_outputs
        )
        prediction, prompt_hidden = self.prediction_context, None
        if prompt_outputs:
            # The next pass overwrites them.
            prompt_logits = prompt_logits.copy()
            prompt_hidden = None if prediction is None else prediction.hidden.copy()
        decode_logits = self.compute(
            tokens[:n_decode_tokens],
            positions[:n_decode_tokens],
            slots[:n_decode_tokens],
            outputs[: len(outputs) - len(prompt_outputs)],
            n_decode_tokens=n_decode_tokens,
        )
        if prediction is not None and prompt_hidden is not None:
            prediction.hidden = np.concatenate((prediction.hidden, prompt_hidden))
        return np.concatenate((decode_logits, prompt_logits)) if prompt_outputs else decode_logits

    def repeat(self, tokens: list[int]) -> Logits:
        """See ``Backend.decode_repeat``. Slots and outputs are in the batch's arrays already."""
        count = len(tokens)
        self._views.tokens[:count] = tokens
        positions = self._views.positions[:count]
        positions += 1
        return self._run(count, count, n_decode_tokens=count)

    def _run(self, count: int, rows: int, *, n_decode_tokens: int) -> Logits:
        """Compute the filled batch of ``count`` tokens with ``rows`` outputs."""
        loader.set_exact_tokens(n_decode_tokens)
        context, prediction = self._context.pointer, self.prediction_context
        if prediction is not None:
            prediction.before_pass(self._context, has_outputs=rows > 0)
        code = llama.llama_decode(context, self._batch)
        if code != 0:
            raise BackendError(f"llama_decode failed with code {code} on a batch of {count} tokens")
        if prediction is not None:
            prediction.after_pass(self._context, count)
        # The rows are in batch order. On a GPU, this call waits for the computation.
        address: int | None = get_logits(context)
        if (address, rows) != self._logits_at:
            self._logits = rows_at(address, rows, self._vocab_size)
            self._logits_at = address, rows
        maxima = loader.take_row_maxima(rows, self._vocab_size)
        set_row_maxima(RowMaxima(address, rows, self._vocab_size, maxima) if address and maxima else None)
        return self._logits
