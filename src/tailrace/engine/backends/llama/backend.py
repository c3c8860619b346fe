"""One GGUF model in llama.cpp. It makes no policy: the scheduler decides which sequences run and in which slots."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.base import KVState, Logits, StateMove
from tailrace.engine.backends.llama import memory_budget
from tailrace.engine.backends.llama.context import LlamaContext
from tailrace.engine.backends.llama.embedding_context import LlamaEmbeddingContext
from tailrace.engine.backends.llama.forward_pass import ForwardPass
from tailrace.engine.backends.llama.layout_plan import plan_layouts
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab
from tailrace.engine.backends.llama.model_loader import LogSink, Progress, load_model, redirect_log
from tailrace.engine.backends.llama.model_metadata import (
    Metadata,
    chat_template,
    description,
    is_causal,
    kv_shape,
    recurrent_state,
)
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.backends.llama.placement_report import report_placement, with_memory
from tailrace.engine.backends.llama.prediction_context import LlamaPredictionContext, open_prediction
from tailrace.engine.backends.llama.prediction_layers import has_prediction_layer
from tailrace.engine.backends.llama.relayout import Relayout
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.backends.llama.touched_bytes import touched_bytes
from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.build import TIERS_OF_CHOICE, cpu_tiers
from tailrace.engine.kernels.repacked_weights import RepackedWeights
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.kv_cache.rollback import Rollback
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.errors import ModelError
from tailrace.models.kv_shape import F16_CACHE
from tailrace.models.model_header import read_header
from tailrace.protocol import EngineCounters, ModelInfo, RankScore

#: Time of a token in a large pass ÷ time of a pass of one token, at most. Usual is a tenth and less.
_PASS_PART = 0.2
#: Bytes that a WordPiece token is taken for, at most, where a text is refused by its size.
_WORD_BYTES = 4096
#: Architectures whose classifier ends with a softmax in llama.cpp (``build_pooling``).
_RANK_PROBABILITIES = ("qwen3", "qwen3vl")


class LlamaBackend:
    """One GGUF model in llama.cpp. See ``Backend``."""

    def __init__(
        self, path: Path, options: LlamaOptions, *, log: LogSink | None = None, progress: Progress | None = None
    ) -> None:
        """Load ``path``. Raises ModelError when llama.cpp can't, ConfigurationError when an option can't work."""
        redirect_log(log)
        llama.llama_backend_init()
        header = read_header(path)
        options = replace(options, predicts=options.predicts and has_prediction_layer(header.values, header.tensors))
        self.model_path = path
        self.metadata_overrides = options.overrides
        self._pools = ThreadPools(options.decode_pool, options.prefill_pool)
        self._repacked = RepackedWeights(memory_budget.repacked_weights(path, options))
        self._model, self.assignments = load_model(
            path,
            options,
            repacks=self._repacked.budget > 0,
            offloads=memory_budget.offloads(options),
            progress=progress,
        )
        self.placed = options.placed
        self.placement = report_placement(self._model, options.placed) if options.placed is not None else None
        self._metadata = Metadata(self._model, options.overrides)
        self._vocab = LlamaVocab(self._model, self._metadata)
        # An encoder has no KV cache, so its heads may have any size.
        self.cache_types = options.cache_types if is_causal(self._metadata) else F16_CACHE
        shape = kv_shape(self._model, self._metadata, header.tensors)
        shape.check(self.cache_types)
        self.bytes_per_cell = max(1, shape.token_bytes(self.cache_types))
        self.max_batch = max(options.batch, options.parallel)
        max_context = options.ctx or llama.llama_model_n_ctx_train(self._model)
        self.layout_policy = plan_layouts(
            options,
            max_context,
            self.bytes_per_cell,
            repacked_bytes=self._repacked.budget,
            # LongRoPE models choose between two sets of factors by the context's size, which must not change then.
            fixed=self._metadata.of_architecture("rope.scaling.original_context_length") is not None,
        )
        try:
            self._context = self._open_context(options)
        except ModelError:
            # With fewer layers on devices, another load may fit.
            llama.llama_model_free(self._model)
            self._pools.close()
            raise
        self._relayout = Relayout(self._context)
        self.layout_policy = replace(self.layout_policy, reserved_cells=self._context.reserved_cells)
        self.piece_tokens = self._context.piece_tokens
        self._forward = ForwardPass(self._context, self._pools, max_batch=self.max_batch, vocab_size=self._vocab.size)
        self.worker_links: WorkerLinks | None = None
        self.speed_watch: SpeedWatch | None = None
        self.first_step_seconds = 0.0
        self.attention = ""  #: what computes it, after ``warm_up``
        self.rollback = self._measure()
        self.embedding_context = LlamaEmbeddingContext.for_model(
            self._model,
            self._metadata,
            self._vocab,
            self._pools,
            cache_types=self.cache_types,
            rope=options.rope,
            on_devices=options.placed is not None,
        )
        if options.predicts:
            self._forward.prediction_context = open_prediction(
                self._model, self._pools, self.layout_policy.slots, self.cache_types, options.rope
            )
        if self.placement is not None and options.placed is not None and self._context.pointer is not None:
            cache = self.bytes_per_cell * self.layout.total
            self.placement = with_memory(self.placement, self._context.pointer, options.placed, cache)
        self._describe_vocabulary()
        self.info = self._describe_model(options, max_context)

    def _open_context(self, options: LlamaOptions) -> LlamaContext:
        return LlamaContext(
            self._model,
            self.layout_policy.initial(),
            slots=self.layout_policy.slots,
            max_batch=self.max_batch,
            bytes_per_cell=self.bytes_per_cell,
            cache_types=self.cache_types,
            rope=options.rope,
            pools=self._pools,
            reserved_cells=self.layout_policy.reserved_cells,
            snapshots=memory_budget.snapshots(recurrent_state(self._metadata), self._pass_bytes(), options),
            is_local=options.placed is not None and options.placed.placement.kv_is_local,
            on_devices=memory_budget.kv_on_devices(options),
        )

    def _measure(self) -> Rollback:
        """How slots can be cut. Two tokens are computed to find out what the model's memory and attention are.

        The shared layout is fast only where no attention reads cells that a token doesn't see: with tailrace's own
        attention, and without any. The kernels know which models they can compute. Where llama.cpp's attention computes
        some of the model, the always shared layout is given up.
        """
        policy = self.layout_policy
        is_shared = policy.always_shared and not policy.fixed
        if not self._context.has_memory or not (is_shared or self._context.needs_checkpoints):
            return Rollback(window=self._context.window)
        before = loader.attention_counts()
        self._forward.compute([0, 0], [0, 1], [0, 0], [1])
        own, upstream = (after - count for after, count in zip(loader.attention_counts(), before, strict=True))
        rollback = self._context.measure_rollback()
        self.reset()
        has_attention = not llama.llama_model_is_recurrent(self._model)
        if is_shared and (upstream > 0 or (has_attention and own == 0)):
            self.layout_policy = replace(policy, always_shared=False, reserved_cells=0)
            self._context.reserved_cells = 0
            self._context.replace(self.layout_policy.initial())
        return rollback

    def _describe_vocabulary(self) -> None:
        """Set the attributes that follow from the vocabulary."""
        vocab = self._vocab
        self.vocabulary = vocab.all_pieces()
        #: The text of each special token isn't in ``vocabulary``, but can stand in a prompt.
        self._special_texts = {
            token: vocab.special_text(token) for token, piece in enumerate(self.vocabulary) if not piece
        }
        texts = (*self.vocabulary, *(text.encode() for text in self._special_texts.values()))
        # A WordPiece token may stand for a word of any length, and for the spaces around it.
        self.max_token_bytes = max(_WORD_BYTES if vocab.has_word_pieces else 1, *map(len, texts))
        self.end_tokens = vocab.end_tokens()
        self.eot_token = vocab.eot_token()
        self.newline_token = vocab.newline_token()
        self.start_token = vocab.start_token()
        self.fim_tokens = vocab.fim_tokens()
        self.strips_leading_space = vocab.strips_leading_space(self.vocabulary)

    def _describe_model(self, options: LlamaOptions, max_context: int) -> ModelInfo:
        model, vocab, embedding = self._model, self._vocab, self.embedding_context
        return ModelInfo(
            architecture=self._metadata.value("general.architecture") or "unknown",
            description=description(model),
            parameters=llama.llama_model_n_params(model),
            size_bytes=llama.llama_model_size(model),
            context=max_context,
            context_trained=llama.llama_model_n_ctx_train(model),
            kv_cells=self.layout_policy.max_cells,
            parallel=options.parallel,
            chat_template=chat_template(model),
            bos_token=vocab.bos_text,
            eos_token=vocab.eos_text,
            generates=self._context.has_memory,
            infill=self.fim_tokens is not None,
            infill_tokens=vocab.named_fim_tokens(),
            end_tokens=tuple(sorted(self.end_tokens)),
            start_token=self.start_token if vocab.adds_start_token else None,
            embedding_width=embedding.n_embd if embedding is not None and embedding.pooling else 0,
            rank_score=self._rank_score(),
            special_tokens={token: text for token, text in self._special_texts.items() if text},
            pass_bytes=self._pass_bytes(),
            cell_bytes=self.bytes_per_cell,
            kernels=loader.tier() or "",
            fastest_kernels=next((tier for tier in cpu_tiers() if tier in TIERS_OF_CHOICE["on"]), ""),
            kernels_reason="" if loader.status() == "on" else loader.status(),
            devices=self.placement.devices if self.placement else (),
            placement_differences=self.placement.differences if self.placement else (),
        )

    def _rank_score(self) -> RankScore | None:
        """The kind of score that the model gives documents, if it is a reranker."""
        if self.embedding_context is None or self.embedding_context.rank_format is None:
            return None
        architecture = self._metadata.value("general.architecture")
        return "probability" if architecture in _RANK_PROBABILITIES else "logit"

    def _pass_bytes(self) -> int:
        """Weights that a pass with one token reads."""
        return touched_bytes((tensor for tensor, *_ in self.assignments), self._metadata.number)

    def warm_up(self) -> None:
        """Compute a token twice. That loads the weights, repacks them and starts the threads before the first request,
        and it measures how long a step may take.
        """
        self._vocab.warm_up()
        before = loader.attention_counts()
        with self._repacked.repacking():
            self._pass_seconds()
        own, upstream = (after - count for after, count in zip(loader.attention_counts(), before, strict=True))
        self.attention = "llama.cpp" if not own else "own kernels and llama.cpp" if upstream else "own kernels"
        self.first_step_seconds = self._largest_pass_seconds(self._pass_seconds())

    def _pass_seconds(self) -> float:
        """Compute one token; its seconds."""
        start = self.start_token or 0
        begun = time.monotonic()
        if self.info.generates:
            self._forward.compute([start], [0], [0], [0])
            if (prediction := self.prediction_context) is not None:
                prediction.predict([start], prediction.hidden, [1], [0], [0])
                prediction.forget(0, 0)
            self.reset()
        elif self.embedding_context is not None:
            self.embedding_context.reserve(1)
            ranks = self.embedding_context.rank_format is not None
            (self.embedding_context.rank if ranks else self.embedding_context.embed)([start], [0], [0])
            self.embedding_context.close()
        return time.monotonic() - begun

    def _largest_pass_seconds(self, token_seconds: float) -> float:
        """An upper estimate: a pass takes a fraction of what its tokens take one by one. A model that isn't causal
        computes a whole text.
        """
        embedding = self.embedding_context
        tokens = self.info.context if embedding is not None and not embedding.causal else self.max_batch
        return tokens * token_seconds * _PASS_PART

    @property
    def counters(self) -> EngineCounters:
        """See ``Backend``."""
        return self._context.transfers.counters

    @property
    def prediction_context(self) -> LlamaPredictionContext | None:
        """See ``Backend``."""
        return self._forward.prediction_context

    @property
    def layout(self) -> Layout:
        """See ``Backend``."""
        return self._context.layout

    @property
    def repacked_bytes(self) -> int:
        """Bytes of the kernels' repacked weights."""
        return self._repacked.bytes

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool | None = None) -> list[int]:
        """See ``Backend``. No start token is added to a text that begins with it, as texts from templates do."""
        bos = self.info.bos_token
        if add_special is None:
            add_special = not (bos and text.startswith(bos))
        return self._vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def tokenize_fragment(self, text: str) -> list[int]:
        """See ``Backend``."""
        return self._vocab.tokenize_segment(text)

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """See ``Backend``."""
        return self._vocab.can_tokenize_inline(texts)

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """See ``Backend``. For short texts llama.cpp's own search for special tokens is faster."""
        if text.literal_spans:
            return tokens_of(self._vocab, text)
        return self.tokenize(text.text, parse_special=text.parse_special, add_special=text.add_special)

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """See ``Backend``."""
        one_pass = self.layout.shared and not self.rollback.by_checkpoints
        if one_pass or not 0 < n_decode_tokens < len(tokens):
            return self._forward.compute(tokens, positions, slots, outputs, n_decode_tokens=n_decode_tokens)
        # In one batch, llama.cpp would compute the prompt's first token together with the replies' tokens, and each of
        # those would attend as far as the prompt reaches. Recurrent layers are computed for equal numbers of tokens.
        return self._forward.compute_apart(tokens, positions, slots, outputs, n_decode_tokens)

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """See ``Backend``."""
        return self._forward.repeat(tokens)

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``."""
        return self._relayout(layout, slot_map)

    def kv_touch_ahead(self, used_cells: int, max_bytes: int) -> bool:
        """See ``Backend``."""
        return self._context.touch_ahead(used_cells, max_bytes)

    def kv_swap(self, first: int, second: int) -> None:
        """See ``Backend``."""
        self._context.swap(first, second)

    def kv_save(self, slot: int) -> KVState:
        """See ``Backend``."""
        return self._context.save(slot)

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """See ``Backend``."""
        return self._context.restore(slot, state) and self._context.truncate(slot, length)

    def kv_begin_save(self, slot: int) -> StateMove | None:
        """See ``Backend``."""
        return self._context.begin_save(slot)

    def kv_begin_load(self, slot: int, state: KVState, length: int) -> StateMove | None:
        """See ``Backend``."""
        return self._context.begin_load(slot, state, length)

    def kv_truncate(self, slot: int, length: int) -> bool:
        """See ``Backend``."""
        return self._context.truncate(slot, length)

    def kv_drop(self, slot: int, length: int) -> bool:
        """See ``Backend``."""
        return self._context.drop(slot, length)

    def kv_floor(self, slot: int) -> int:
        """See ``Backend``."""
        return self._context.floor(slot)

    def kv_checkpoint(self, slot: int, reused: KVState | None = None) -> KVState:
        """See ``Backend``."""
        return self._context.checkpoint(slot, reused)

    def kv_settle(self) -> bool:
        """See ``Backend``."""
        return self._context.coming.settle()

    def kv_rollback(self, slot: int, checkpoint: KVState, length: int) -> bool:
        """See ``Backend``."""
        return self._context.roll_back(slot, checkpoint, length)

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """See ``Backend``."""
        return self._context.copy(source, target, length)

    def share_cores(self, place: int, count: int) -> None:
        """See ``Backend``."""
        self._pools.share(place, count)

    def reset(self) -> None:
        """See ``Backend``."""
        self._context.clear()

    def close(self) -> None:
        """See ``Backend``."""
        if self._context.pointer is None:
            return
        if self.embedding_context is not None:
            self.embedding_context.close()
        if self.prediction_context is not None:
            self.prediction_context.close()
        self._context.close()
        self._repacked.free()
        llama.llama_model_free(self._model)
        self._pools.close()
