"""A second context of the model, which computes its prediction layers (MTP, also called NextN).

A prediction layer takes a token and the model's last hidden state of the token before it, and gives the logits of the
token after. It has a KV cache of its own. The replies' context is asked for hidden states in passes with outputs alone:
in others llama.cpp would compute the last layer for tokens whose logits aren't needed.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np

from tailrace.engine.backends.base import BackendError, HiddenStates
from tailrace.engine.backends.llama.batch import make_batch
from tailrace.engine.backends.llama.context import LlamaContext
from tailrace.engine.backends.llama.model_params import context_params
from tailrace.engine.backends.llama.options import RopeOptions
from tailrace.engine.backends.llama.prediction_layers import GET_HIDDEN, SET_HIDDEN
from tailrace.engine.backends.llama.result_rows import get_logits, rows_at
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.kernels import loader
from tailrace.engine.sampling.logits_ops import RowMaxima, set_row_maxima
from tailrace.engine.sampling.sampler import greedy_tokens
from tailrace.models.kv_shape import CacheTypes

#: Cells of each slot. Older tokens are forgotten.
_CELLS = 1024


class LlamaPredictionContext:
    """See ``PredictionContext``."""

    def __init__(
        self,
        model: llama.llama_model_p,
        pools: ThreadPools,
        *,
        slots: int,
        cache_types: CacheTypes,
        rope: RopeOptions,
    ) -> None:
        """Raises MemoryError where llama.cpp can't make the context."""
        self.slots = slots
        self.cells = _CELLS
        self.max_pass_tokens = max(512, slots)
        self.n_embd = llama.llama_model_n_embd_out(model)
        self._pools = pools
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._set_hidden = getattr(llama._lib, SET_HIDDEN)
        self._set_hidden.argtypes = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool]
        self._set_hidden.restype = None
        self._get_hidden = getattr(llama._lib, GET_HIDDEN)
        self._get_hidden.argtypes = [ctypes.c_void_p]
        self._get_hidden.restype = ctypes.c_void_p
        # A pass may need cells for all of its tokens before older ones are forgotten.
        cells = slots * _CELLS + self.max_pass_tokens
        params = context_params(
            cells=cells, slots=slots, batch=self.max_pass_tokens, cache_types=cache_types, rope=rope
        )
        params.ctx_type = llama.LLAMA_CONTEXT_TYPE_MTP
        self._context: llama.llama_context_p | None = llama.llama_init_from_model(model, params)
        if self._context is None:
            raise MemoryError("llama.cpp can't make a context for the model's prediction layer")
        self._set_hidden(self._context, True, True)
        pools.attach(self._context)
        self._memory = llama.llama_get_memory(self._context)
        self._batch, self._views = make_batch(self.max_pass_tokens)
        self._inputs = np.zeros((self.max_pass_tokens, self.n_embd), np.float32)
        self._batch.embd = ctypes.cast(self._inputs.ctypes.data, type(self._batch.embd))
        #: Which of the replies' contexts was asked last, and whether for hidden states.
        self._asked: tuple[int, bool] = (0, False)
        self.collects = True
        self.hidden: HiddenStates = np.empty((0, self.n_embd), np.float32)

    def before_pass(self, context: LlamaContext, *, has_outputs: bool) -> None:
        """The replies' context will compute a pass."""
        wanted = self.collects and has_outputs
        if self._asked != (context.opened, wanted):
            self._set_hidden(context.pointer, wanted, False)
            self._asked = context.opened, wanted

    def after_pass(self, context: LlamaContext, count: int) -> None:
        """The replies' context has computed a pass of ``count`` tokens."""
        _, given = self._asked
        self.hidden = rows_at(self._get_hidden(context.pointer) if given else None, count, self.n_embd)

    def predict(
        self,
        tokens: list[int],
        hidden: HiddenStates,
        positions: list[int],
        slots: list[int],
        outputs: list[int],
    ) -> tuple[list[int], HiddenStates]:
        """See ``PredictionContext``."""
        count = len(tokens)
        self._views.fill(tokens, positions, slots, outputs)
        self._inputs[:count] = hidden
        self._batch.n_tokens = count
        loader.set_exact_tokens(0)
        code = llama.llama_decode(self._context, self._batch)
        if code != 0:
            raise BackendError(f"llama_decode failed with code {code} on {count} tokens of the prediction layer")
        rows = len(outputs)
        address: int | None = get_logits(self._context)
        maxima = loader.take_row_maxima(rows, self._vocab_size)
        set_row_maxima(RowMaxima(address, rows, self._vocab_size, maxima) if address and maxima else None)
        likeliest = greedy_tokens(rows_at(address, rows, self._vocab_size)) if rows else []
        set_row_maxima(None)
        return likeliest or [], rows_at(self._get_hidden(self._context), rows, self.n_embd)

    def forget(self, slot: int, start: int, end: int = -1) -> None:
        """See ``PredictionContext``."""
        llama.llama_memory_seq_rm(self._memory, slot, start, end)

    def close(self) -> None:
        """Free the context."""
        if self._context is not None:
            self._pools.detach(self._context)
            llama.llama_free(self._context)
        self._context = None


def open_prediction(
    model: llama.llama_model_p, pools: ThreadPools, slots: int, cache_types: CacheTypes, rope: RopeOptions
) -> LlamaPredictionContext | None:
    """The context of the model's prediction layer; None where there is no memory for it."""
    try:
        return LlamaPredictionContext(model, pools, slots=slots, cache_types=cache_types, rope=rope)
    except MemoryError:
        return None
