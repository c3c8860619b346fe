"""A second context, for texts that are computed and not continued: embeddings, ranks, and probabilities of prompts.

Hidden states are pooled outside of llama.cpp, so a text may be computed in several passes and each request chooses its
pooling. llama.cpp computes a reranker's classifier. The replies' context isn't used for it: with embeddings on, it
would have other graphs, and llama.cpp would put out every token of every batch.
"""

from __future__ import annotations

import llama_cpp.llama_cpp as llama
import numpy as np

from tailrace.engine.backends.base import BackendError, HiddenStates, Logits, RankFormat
from tailrace.engine.backends.llama.batch import BatchViews, make_batch
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab
from tailrace.engine.backends.llama.model_metadata import Metadata, chat_template, is_causal, kv_shape
from tailrace.engine.backends.llama.model_params import context_params
from tailrace.engine.backends.llama.options import RopeOptions
from tailrace.engine.backends.llama.result_rows import get_embeddings, get_logits, get_slot_result, rows_at
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.kernels import loader
from tailrace.errors import ModelError
from tailrace.machine.free_memory import MemoryGauge
from tailrace.models.kv_shape import CacheTypes
from tailrace.protocol import Pooling

#: ``enum llama_pooling_type`` as the metadata has it, except for ``_RANK``. Models without one are pooled by the mean.
_POOLINGS: dict[str | None, Pooling] = {None: "mean", "0": "mean", "1": "mean", "2": "cls", "3": "last"}
#: A reranker's pooling: its classifier makes numbers of the text, and the first is the document's score.
_RANK = "4"
#: Bytes of one pass's logits: llama.cpp always allocates them.
_LOGITS_BYTES = 64 * 1024**2
#: Texts in progress at the same time. Each attends over all cells of the others, masked.
_SLOTS = 8


class LlamaEmbeddingContext:
    """See ``EmbeddingContext``."""

    @classmethod
    def for_model(
        cls,
        model: llama.llama_model_p,
        metadata: Metadata,
        vocab: LlamaVocab,
        pools: ThreadPools,
        *,
        cache_types: CacheTypes,
        rope: RopeOptions,
        on_devices: bool = False,
    ) -> LlamaEmbeddingContext | None:
        """The model's embedding context; None for models with a pooling that isn't known here. ``on_devices``: the
        model is placed on devices.
        """
        kind = metadata.of_architecture("pooling_type")
        pooling = _POOLINGS.get(kind)
        if pooling is None and kind != _RANK:
            return None
        rank_format = None if pooling else vocab.rank_format(chat_template(model, "rerank"))
        return cls(
            model,
            pools,
            pooling=pooling,
            rank_format=rank_format,
            causal=is_causal(metadata),
            bytes_per_cell=kv_shape(model, metadata).token_bytes(cache_types),
            cache_types=cache_types,
            rope=rope,
            on_devices=on_devices,
        )

    def __init__(
        self,
        model: llama.llama_model_p,
        pools: ThreadPools,
        *,
        pooling: Pooling | None,
        rank_format: RankFormat | None,
        causal: bool,
        bytes_per_cell: int,
        cache_types: CacheTypes,
        rope: RopeOptions,
        on_devices: bool,
    ) -> None:
        self._model = model
        self._on_devices = on_devices
        self._pools = pools
        self._bytes_per_cell = bytes_per_cell
        self._cache_types = cache_types
        self._rope = rope
        self._gauge = MemoryGauge()
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self.n_embd = llama.llama_model_n_embd_out(model)
        self.pooling = pooling
        self.rank_format = rank_format
        self.causal = causal
        self.slots = _SLOTS
        self.max_pass_tokens = max(32, min(512, _LOGITS_BYTES // (4 * self._vocab_size)))
        self.cells = 0
        self._context: llama.llama_context_p | None = None
        self._memory: llama.llama_memory_t | None = None
        self._batch: llama.llama_batch | None = None
        self._views: BatchViews | None = None

    def reserve(self, cells: int) -> None:
        """See ``EmbeddingContext``. Sizes grow by an eighth or more, because each growth makes a new context."""
        self.close()
        power = 512
        while power < cells:
            power *= 2
        size = -(-cells // (power // 8)) * (power // 8)
        # Models that aren't causal have no KV cache.
        if self.causal and not self._gauge.allows(size * self._bytes_per_cell):
            raise ModelError(
                f"there is no memory for an embedding pass of {size} tokens; send shorter texts, or try again"
            )
        if not self.causal:
            self.max_pass_tokens = size  # A whole text has to fit into one pass.
        params = context_params(
            cells=size,
            slots=self.slots,
            batch=self.max_pass_tokens,
            cache_types=self._cache_types,
            rope=self._rope,
        )
        params.embeddings = True
        ranks = self.rank_format is not None
        params.pooling_type = llama.LLAMA_POOLING_TYPE_RANK if ranks else llama.LLAMA_POOLING_TYPE_NONE
        self._context = llama.llama_init_from_model(self._model, params)
        if self._context is None:
            raise ModelError(
                f"llama.cpp can't make a context for an embedding pass of {size} tokens; send shorter texts"
            )
        self._pools.attach(self._context, prefill=True)
        self._memory = llama.llama_get_memory(self._context)
        self._batch, self._views = make_batch(self.max_pass_tokens)
        self.cells = size
        if self._on_devices:
            # A worker that frees a buffer forgets the last graph, which llama.cpp would have it compute again in the
            # next step, and ends the connection then. After another graph it sends the step's anew.
            self._decode([0], [0], [0], embeddings=True)
            self.clear(0)

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """See ``EmbeddingContext``."""
        self._decode(tokens, positions, slots, embeddings=True)
        return rows_at(get_embeddings(self._context), len(tokens), self.n_embd)

    def rank(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """See ``EmbeddingContext``."""
        self._decode(tokens, positions, slots, embeddings=True)
        rows = [rows_at(get_slot_result(self._context, slot), 1, 1) for slot in dict.fromkeys(slots)]
        return np.concatenate(rows)

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> Logits:
        """See ``EmbeddingContext``."""
        self._decode(tokens, positions, slots, embeddings=False)
        return rows_at(get_logits(self._context), len(tokens), self._vocab_size)

    def clear(self, slot: int) -> None:
        """See ``EmbeddingContext``."""
        if self._memory is not None:
            llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def close(self) -> None:
        """Free the memory. ``reserve`` allocates it again."""
        if self._context is not None:
            self._pools.detach(self._context)
            llama.llama_free(self._context)
        self._context = self._memory = None
        self.cells = 0

    def _decode(self, tokens: list[int], positions: list[int], slots: list[int], *, embeddings: bool) -> None:
        assert self._batch is not None, "reserve comes first"
        assert self._views is not None, "reserve comes first"
        count = len(tokens)
        self._views.fill(tokens, positions, slots)
        self._batch.n_tokens = count
        llama.llama_set_embeddings(self._context, embeddings)
        loader.set_exact_tokens(0)
        code = llama.llama_decode(self._context, self._batch)
        if code != 0:
            raise BackendError(f"llama_decode failed with code {code} on {count} tokens of an embedding pass")
