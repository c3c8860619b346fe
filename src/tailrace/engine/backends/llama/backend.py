"""One GGUF model in one llama.cpp context. It decides nothing: who runs, and where, is the scheduler's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np

from tailrace.engine.backends.base import BackendError, KVLayoutError, KVState, Logits
from tailrace.engine.backends.llama import memory_budget as memory
from tailrace.engine.backends.llama.batch import make_batch
from tailrace.engine.backends.llama.embedding_context import POOLINGS, LlamaEmbeddingContext
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab
from tailrace.engine.backends.llama.model_loader import LogSink, Progress, load_model, redirect_log
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.backends.llama.sequence_state import with_streams
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.repacked_weights import RepackedWeights
from tailrace.engine.kv_cache.layout import CELL_PADDING, Layout, LayoutPolicy
from tailrace.engine.sampling.logits_ops import RowMaxima, set_row_maxima
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.errors import ConfigurationError, ModelError
from tailrace.protocol import ModelInfo

#: ``llama_get_logits`` with a plain address for its result: the binding makes a pointer object of it.
_get_logits = llama._lib["llama_get_logits"]
_get_logits.argtypes = [ctypes.c_void_p]
_get_logits.restype = ctypes.c_void_p


class LlamaBackend:
    """One GGUF model in one llama.cpp context. See ``Backend``."""

    def __init__(
        self, path: Path, options: LlamaOptions, *, log: LogSink | None = None, progress: Progress | None = None
    ) -> None:
        """Load ``path``. Raises ModelError when llama.cpp can't, ConfigurationError when an option can't work."""
        redirect_log(log)
        llama.llama_backend_init()
        self._options = options
        self._pools = ThreadPools(options.decode_pool, options.prefill_pool)
        self._repacked = RepackedWeights(memory.for_copies(path, options))
        self._model, self.assignments = load_model(
            path,
            gpu_layers=options.gpu_layers,
            own_weights=options.own_weights,
            copies=self._repacked.budget > 0,
            offloads=memory.offloads(options),
            progress=progress,
        )
        self.model_path = path
        self._words = LlamaVocab(self._model)
        self._vocab = self._words.pointer
        self._vocab_size = self._words.size
        trained = llama.llama_model_n_ctx_train(self._model)
        context = options.ctx or trained
        heads = max(1, llama.llama_model_n_head(self._model))
        width = llama.llama_model_n_embd(self._model) // heads * llama.llama_model_n_head_kv(self._model)
        # K and V, two bytes a number.
        self.bytes_per_cell = max(1, 2 * 2 * width * llama.llama_model_n_layer(self._model))
        limit = options.kv_tokens or memory.for_cells(
            context, self.bytes_per_cell, options, copies=self._repacked.budget
        )
        if limit < context:
            raise ConfigurationError(
                f"kv_tokens is {limit} but one request may have ctx {context} tokens: raise --kv-tokens or lower --ctx"
            )
        limit = -(-limit // CELL_PADDING) * CELL_PADDING
        slots = min(llama.llama_max_parallel_sequences(), options.parallel)
        self.can_truncate = not (
            llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        )
        own_attention = self.can_truncate and loader.status() == "on" and not memory.offloads(options)
        self.layout_policy = LayoutPolicy(
            slots,
            limit,
            context,
            always_shared=own_attention,
            fixed=self._rope_follows_context(),
            initial_cells=memory.at_start(self.bytes_per_cell),
        )
        self.layout = self.layout_policy.initial()
        self.max_batch = max(options.batch, options.parallel)
        self._context = self._make_context(self.layout)
        self._memory = llama.llama_get_memory(self._context)
        self._batch, self._views = make_batch(self.max_batch)
        #: Where the logits of the last batch lie, and how many rows: a new view of them costs 20 µs of a step.
        self._logits_at: tuple[int | None, int] = (0, 0)
        self._logits = np.empty((0, self._vocab_size), np.float32)
        always_shared = self._memory is not None and self.layout_policy.always_shared and not self.layout_policy.fixed
        if always_shared and not self._attends_past_nothing():
            self.layout_policy = replace(self.layout_policy, always_shared=False)
            self._replace_context(self.layout_policy.initial())
        self.fim_tokens = self._fim_tokens()
        self.embedding_context = self._make_embedding_context(context)
        self.vocabulary = [self._words.piece(token, special=False) for token in range(self._vocab_size)]
        # Special tokens' own text isn't in the vocabulary, but can stand in a prompt.
        special = {token: self._words.special(token) for token, piece in enumerate(self.vocabulary) if not piece}
        self.max_token_bytes = max(map(len, (*self.vocabulary, *(text.encode() for text in special.values()))))
        self.end_tokens = frozenset(t for t in range(self._vocab_size) if llama.llama_vocab_is_eog(self._vocab, t))
        ends = llama.llama_vocab_eot(self._vocab), llama.llama_vocab_eos(self._vocab)
        self.eot_token: int | None = next((token for token in ends if token >= 0), None)
        newline = llama.llama_vocab_nl(self._vocab)
        self.newline_token = newline if newline >= 0 else None
        self.strips_leading_space = self._strips_space()
        start = llama.llama_vocab_bos(self._vocab)
        self.start_token = start if start >= 0 else None
        self.info = ModelInfo(
            architecture=self._metadata("general.architecture") or "unknown",
            description=_text(llama.llama_model_desc, self._model),
            parameters=llama.llama_model_n_params(self._model),
            size_bytes=llama.llama_model_size(self._model),
            context=context,
            context_trained=trained,
            kv_cells=limit,
            parallel=options.parallel,
            chat_template=_decoded(llama.llama_model_chat_template(self._model, None)),
            bos_token=self._words.bos_text,
            eos_token=self._words.special(llama.llama_vocab_eos(self._vocab)),
            generates=self._memory is not None,
            infill=self.fim_tokens is not None,
            infill_tokens=self._named_infill_tokens(),
            end_tokens=tuple(sorted(self.end_tokens)),
            start_token=start if start >= 0 and llama.llama_vocab_get_add_bos(self._vocab) else None,
            embedding_width=self.embedding_context.n_embd if self.embedding_context is not None else 0,
            special_tokens={token: text for token, text in special.items() if text},
        )

    def warm_up(self) -> None:
        """Compute a token: that brings the weights into memory, in the kernels' order, and the threads up, so that the
        first request doesn't pay for it.
        """
        self._words.warm_up()
        with self._repacked.repacking():
            start = self.start_token or 0
            if self.info.generates:
                self._decode([start], [0], [0], [0])
                self.reset()
            elif self.embedding_context is not None:
                self.embedding_context.reserve(1)
                self.embedding_context.embed([start], [0], [0])
                self.embedding_context.close()

    @property
    def repacked_bytes(self) -> int:
        """Bytes of weights that the kernels have a copy of."""
        return self._repacked.bytes

    def tokenize(self, text: str, *, special: bool = True, start: bool | None = None) -> list[int]:
        """See ``Backend``. The start token isn't added when the text already begins with it (templates write it)."""
        bos = self.info.bos_token
        start = not (bos and text.startswith(bos)) if start is None else start
        return self._words.tokenize(text, start=start, special=special)

    def tokenize_fragment(self, text: str) -> list[int]:
        """See ``Backend``."""
        return self._words.stretch(text)

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """See ``Backend``."""
        return self._words.can_tokenize_inline(texts)

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """See ``Backend``. What has no plain ranges is llama.cpp's own work, which is faster for short texts."""
        if text.literal_spans:
            return tokens_of(self._words, text)
        return self.tokenize(text.text, special=text.parse_special, start=text.add_special)

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """See ``Backend``."""
        if self.layout.shared or not 0 < n_decode_tokens < len(tokens):
            return self._decode(tokens, positions, slots, outputs, n_decode_tokens=n_decode_tokens)
        # In one batch, the prompt's first token would be computed together with the replies', and each of those would
        # attend as far as the prompt reaches.
        last = [output - n_decode_tokens for output in outputs if output >= n_decode_tokens]
        of_prompts = self._decode(tokens[n_decode_tokens:], positions[n_decode_tokens:], slots[n_decode_tokens:], last)
        if last:
            of_prompts = of_prompts.copy()  # The next call writes where it lies.
        of_replies = self._decode(
            tokens[:n_decode_tokens],
            positions[:n_decode_tokens],
            slots[:n_decode_tokens],
            outputs[: len(outputs) - len(last)],
            n_decode_tokens=n_decode_tokens,
        )
        return np.concatenate((of_replies, of_prompts)) if last else of_replies

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """See ``Backend``. What the batch has of the last call stays where it is."""
        count = len(tokens)
        self._views.tokens[:count] = tokens
        positions = self._views.positions[:count]
        positions += 1
        return self._compute(count, count, n_decode_tokens=count)

    def _decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], *, n_decode_tokens: int = 0
    ) -> Logits:
        count = len(tokens)
        views = self._views
        # Slice assignment from lists runs in C: 3 µs for 8 tokens, where five ctypes stores a token cost 20.
        views.tokens[:count] = tokens
        views.positions[:count] = positions
        views.slots[:count] = slots
        views.outputs[:count] = 0
        views.outputs[outputs] = 1
        self._batch.n_tokens = count
        self._pools.use(self._context, prefill=count > len(outputs))
        return self._compute(count, len(outputs), n_decode_tokens=n_decode_tokens)

    def _compute(self, count: int, rows: int, *, n_decode_tokens: int) -> Logits:
        """Compute the batch as it stands, of ``count`` tokens with so many rows of logits; its first ``replies`` tokens
        are replies'.
        """
        loader.set_exact_tokens(n_decode_tokens)
        code = llama.llama_decode(self._context, self._batch)
        if code != 0:
            raise BackendError(f"llama_decode failed with code {code} on a batch of {count} tokens")
        # Rows come in batch order. Also waits for the computation where it runs beside us (GPU).
        address: int | None = _get_logits(self._context)
        if (address, rows) != self._logits_at:
            self._logits = _floats(address, rows, self._vocab_size)
            self._logits_at = address, rows
        maxima = loader.take_row_maxima(rows, self._vocab_size)
        set_row_maxima(RowMaxima(address, rows, self._vocab_size, maxima) if address and maxima else None)
        return self._logits

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``. Milliseconds, and 25 ms more for each 1,000 tokens of the starter model that move."""
        states = {old: self.kv_save(old) for old, _ in slot_map if self._holds_any(old)}
        previous = self.layout
        try:
            self._replace_context(layout)
        except ModelError as error:
            try:
                self._replace_context(previous)
            except ModelError as second:
                raise BackendError(f"the KV cache is lost: {second}") from error
            lost = frozenset(slot for slot, state in states.items() if not self._restore(slot, state))
            raise KVLayoutError(str(error), lost) from error
        return [new for old, new in slot_map if old in states and not self._restore(new, states[old])]

    def kv_swap(self, one: int, other: int) -> None:
        """See ``Backend``."""
        states = [(to, self.kv_save(at)) for at, to in ((one, other), (other, one)) if self._holds_any(at)]
        for slot in (one, other):
            llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        for slot, state in states:
            if not self._restore(slot, state):
                raise BackendError(f"a state of {state.size} bytes can't be put into slot {slot} of {self.layout}")

    def kv_save(self, slot: int) -> KVState:
        """See ``Backend``. 3 GB/s or more: 15 ms for 2,000 tokens of the starter model."""
        state = np.empty(llama.llama_state_seq_get_size(self._context, slot), np.uint8)
        written = llama.llama_state_seq_get_data(self._context, _bytes_of(state), state.size, slot)
        if written != state.size:
            raise BackendError(f"slot {slot}'s KV can't be read out")
        return state

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """See ``Backend``."""
        return self._restore(slot, state) and self.kv_truncate(slot, length)

    def kv_truncate(self, slot: int, length: int) -> bool:
        """See ``Backend``."""
        if llama.llama_memory_seq_rm(self._memory, slot, length, -1):
            return True
        # Recurrent and sliding-window memories can't drop a part; dropping everything always works.
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """See ``Backend``. Between streams the library copies whole streams, however little they hold: not used."""
        if not self.layout.shared:
            return self.kv_load(target, self.kv_save(source), length)
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.kv_truncate(target, length)

    def reset(self) -> None:
        """See ``Backend``."""
        if self._memory is not None:
            llama.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """See ``Backend``."""
        if self._context is not None:
            if self.embedding_context is not None:
                self.embedding_context.close()
            llama.llama_free(self._context)
            self._repacked.free()
            llama.llama_model_free(self._model)
            self._pools.close()
            self._context = None

    def _attends_past_nothing(self) -> bool:
        """Whether attention takes no time for what a token doesn't see: whether the kernels of our own compute it. They
        know which models they can do, so one token is computed and they are asked.
        """
        before = loader.attention_counts()
        self._decode([0], [0], [0], [0])
        self.reset()
        here, them = (after - count for after, count in zip(loader.attention_counts(), before, strict=True))
        return here > 0 and not them

    def _rope_follows_context(self) -> bool:
        """Models with two sets of RoPE factors (LongRoPE) choose by the context's size: theirs must not change."""
        architecture = self._metadata("general.architecture")
        return self._metadata(f"{architecture}.rope.scaling.original_context_length") is not None

    def _replace_context(self, layout: Layout) -> None:
        """Make an empty context of this layout. Raises ModelError without the memory; there is no context then."""
        if self._context is not None:
            # The old one is freed first: there may not be memory for two.
            llama.llama_free(self._context)
            self._context = None
        self._context = self._make_context(layout)
        self._memory = llama.llama_get_memory(self._context)
        self.layout = layout

    def _make_context(self, layout: Layout) -> llama.llama_context_p:
        params = llama.llama_context_default_params()
        params.n_ctx = layout.total
        params.n_batch = self.max_batch
        params.n_ubatch = min(512, self.max_batch)
        params.n_seq_max = layout.partitions or self.layout_policy.slots
        params.kv_unified = layout.shared
        params.no_perf = True
        context = llama.llama_init_from_model(self._model, params)
        if context is None:
            raise ModelError(
                f"llama.cpp can't make a context of {layout.total} tokens for this model (its log above says why); "
                "a smaller --kv-tokens or --ctx takes less memory"
            )
        self._pools.attach(context)
        return context

    def _holds_any(self, slot: int) -> bool:
        if slot >= (self.layout.partitions or self.layout_policy.slots):
            return False
        return bool(llama.llama_memory_seq_pos_max(self._memory, slot) >= 0)

    def _restore(self, slot: int, state: KVState) -> bool:
        """Put the state into the empty slot. False, and nothing there, where it has no room or isn't understood."""
        fitting = with_streams(state, max(1, self.layout.partitions))
        if fitting is None:
            return False
        if llama.llama_state_seq_set_data(self._context, _bytes_of(fitting), fitting.size, slot) == fitting.size:
            return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def _strips_space(self) -> bool:
        """Asked of the first token that begins with a space: the tokenizer's setting has another default in each
        kind.
        """
        token = next(
            (token for token, piece in enumerate(self.vocabulary) if piece[:1] == b" " and len(piece) > 1), None
        )
        if token is None:
            return False
        buffer = ctypes.create_string_buffer(256)
        tokens = (llama.llama_token * 1)(token)
        length = llama.llama_detokenize(self._vocab, tokens, 1, buffer, len(buffer), False, True)
        return length > 0 and buffer.raw[:1] != b" "

    def _fim_tokens(self) -> tuple[int, int, int] | None:
        vocab = self._vocab
        marks = (llama.llama_vocab_fim_pre(vocab), llama.llama_vocab_fim_suf(vocab), llama.llama_vocab_fim_mid(vocab))
        return marks if min(marks) >= 0 else None

    def _named_infill_tokens(self) -> dict[str, int]:
        vocab = self._vocab
        found = {
            "prefix": llama.llama_vocab_fim_pre(vocab),
            "suffix": llama.llama_vocab_fim_suf(vocab),
            "middle": llama.llama_vocab_fim_mid(vocab),
            "repository": llama.llama_vocab_fim_rep(vocab),
            "file": llama.llama_vocab_fim_sep(vocab),
        }
        return {name: token for name, token in found.items() if token >= 0}

    def _make_embedding_context(self, context: int) -> LlamaEmbeddingContext | None:
        """None for models whose pooling gives a rank and no vector."""
        architecture = self._metadata("general.architecture")
        pooling = POOLINGS.get(self._metadata(f"{architecture}.pooling_type"))
        if pooling is None:
            return None
        causal = self._metadata(f"{architecture}.attention.causal") != "false"
        return LlamaEmbeddingContext(self._model, self._pools, context=context, pooling=pooling, causal=causal)

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def _floats(address: int | None, rows: int, width: int) -> Logits:
    """A view of so many rows of floats."""
    if not rows or address is None:
        return np.empty((0, width), np.float32)
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (rows, width))


def _bytes_of(state: KVState) -> object:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _text(function: Callable[..., int], model: llama.llama_model_p) -> str:
    buffer = ctypes.create_string_buffer(256)
    function(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _required(pointer: object, why: str) -> object:
    if pointer is None:
        raise ModelError(why)
    return pointer
