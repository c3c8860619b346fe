"""The interface between the engine and a loaded model: the two protocols, their array types and their errors."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.kv_cache.rollback import Rollback
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.errors import TailraceError
from tailrace.models.metadata_override import MetadataOverride
from tailrace.protocol import EngineCounters, ModelInfo, Pooling

#: A row for each output, a column for each token of the vocabulary.
Logits = npt.NDArray[np.float32]
#: A row for each token, a column for each dimension of the embedding.
HiddenStates = npt.NDArray[np.float32]
#: A slot's KV entries as bytes, outside of the cache.
KVState = npt.NDArray[np.uint8]
#: A length that no slot reaches: nothing is cut.
WHOLE = 2**31 - 1


class BackendError(TailraceError):
    """A computation failed and the model's state is unknown: the process has to end."""


class KVLayoutError(TailraceError):
    """There is no memory for the new KV layout. The backend has the previous layout again and can go on."""

    def __init__(self, message: str, lost: frozenset[int] = frozenset()) -> None:
        """``lost``: slots of the previous layout that had content and are empty now."""
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True)
class RankFormat:
    """How a query and a document become the text of a reranker."""

    template: str | None = None  #: with ``{query}`` and ``{document}``; None: the tokens below stand around the two
    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class EmbeddingContext(Protocol):
    """A second context of the model, for texts that are computed and not continued: a result for each of their tokens,
    or one for a text.

    It takes no memory before the first ``reserve``.
    """

    n_embd: int  #: dimensions of an embedding
    pooling: Pooling | None  #: the model's own; None: it makes no embeddings
    rank_format: RankFormat | None  #: None: the model isn't a reranker
    causal: bool  #: whether a token attends to earlier tokens only; else a text has to be computed in one pass
    slots: int  #: texts that may be in progress at the same time
    max_pass_tokens: int  #: tokens of one pass, at most
    cells: int  #: tokens that all texts in progress may have together, as reserved

    def reserve(self, cells: int) -> None:
        """Get memory for at least ``cells`` tokens; every slot is empty then. Raises ModelError without the memory."""
        ...

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """Append ``tokens[i]`` at ``positions[i]`` of ``slots[i]``.

        Returns the model's last hidden state at each token, shape (len(tokens), n_embd), valid until the next call.
        Raises BackendError.
        """
        ...

    def rank(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """As ``embed``, with a reranker's output for each slot's tokens so far: shape (slots, 1), in the order in which
        the slots occur first.
        """
        ...

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> Logits:
        """As ``embed``, with the logits at each token: shape (len(tokens), vocabulary)."""
        ...

    def clear(self, slot: int) -> None:
        """Empty the slot."""
        ...


class StateMove(Protocol):
    """A slot's state on its way out of the cache or into it. Until it is done, nothing may change these positions.

    The state that leaves is that of the moment in which ``state`` is there first. Further positions may be appended.
    """

    @property
    def done(self) -> bool:
        """Whether all of it has moved, or can't be moved."""
        ...

    @property
    def state(self) -> KVState | None:
        """The state. None before the copy begins, and once it can't be loaded: the slot is empty."""
        ...

    def advance(self) -> None:
        """Move about ``Backend.piece_tokens`` positions, or touch memory for so many. What can't be divided is copied
        at once at the end. Raises BackendError.
        """
        ...


class PredictionContext(Protocol):
    """A second context of a model that has a layer for predicting further tokens (MTP).

    From a token and the model's hidden state of the token before it, the layer predicts the token after. It has a KV
    cache with slots of its own, whose positions may begin anywhere and have no gaps.
    """

    slots: int
    cells: int  #: tokens that a slot may hold
    max_pass_tokens: int  #: tokens of one ``predict``, at most
    collects: bool  #: whether ``hidden`` is wanted of the coming calls of ``Backend.decode``: it slows them down
    #: The model's last hidden state of each token of the last ``Backend.decode``, shape (tokens, width), in the batch's
    #: order and valid until the next one. Empty without ``collects``, and where that call had no outputs. It may lack
    #: the rows of prompts.
    hidden: HiddenStates

    def predict(
        self, tokens: list[int], hidden: HiddenStates, positions: list[int], slots: list[int], outputs: list[int]
    ) -> tuple[list[int], HiddenStates]:
        """Append ``tokens[i]`` at ``positions[i]`` of ``slots[i]``. ``hidden``: a row for each, of the token before it.

        Returns the likeliest next token and the layer's own hidden state for each of ``outputs``, valid until the next
        call. No tokens where a row has none. Raises BackendError.
        """
        ...

    def forget(self, slot: int, start: int, end: int = -1) -> None:
        """Remove the positions from ``start`` to before ``end`` from the slot; -1: to its end."""
        ...


class Backend(Protocol):
    """A loaded model with a KV cache that is divided into slots (see ``kv_cache.layout``). A slot holds one sequence.

    In a shared layout ``kv_copy`` takes no additional cells.
    """

    info: ModelInfo
    vocabulary: list[bytes]  #: each token's bytes in text; empty for control tokens
    max_token_bytes: int  #: bytes of text that one token stands for, at most
    end_tokens: frozenset[int]  #: end-of-generation tokens
    eot_token: int | None  #: ends a turn of a conversation, or else a text; None where the model has neither
    newline_token: int | None  #: None where no token is a single line break
    strips_leading_space: bool  #: whether detokenising leaves out the space before a text's first token
    start_token: int | None  #: the BOS token, which an empty prompt becomes; None where the model has none
    bytes_per_cell: int  #: memory of one cell (one token's KV), approximately
    layout_policy: LayoutPolicy  #: the layouts that this model and the memory allow
    rollback: Rollback  #: how the end of a slot can be removed
    piece_tokens: int  #: positions of a state that move at once; 0: states move whole
    max_batch: int  #: tokens of one ``decode``, at most
    first_step_seconds: float  #: upper estimate of how long a step takes, before any step was measured
    fim_tokens: tuple[int, int, int] | None  #: fill in the middle: the tokens before prefix, suffix and middle

    @property
    def counters(self) -> EngineCounters:
        """The backend's own counts, in the fields for them; it goes on counting in this object."""
        ...

    @property
    def layout(self) -> Layout:
        """The current layout."""
        ...

    @property
    def embedding_context(self) -> EmbeddingContext | None:
        """None where texts can't be embedded."""
        ...

    @property
    def prediction_context(self) -> PredictionContext | None:
        """None where the model has no prediction layer, or isn't to draft with it."""
        ...

    @property
    def worker_links(self) -> WorkerLinks | None:
        """None where the model isn't placed on workers."""
        ...

    @property
    def speed_watch(self) -> SpeedWatch | None:
        """None where nothing has predicted the model's speed."""
        ...

    @property
    def metadata_overrides(self) -> Seq[MetadataOverride]:
        """Values that the model's file has otherwise."""
        ...

    @property
    def model_path(self) -> Path | None:
        """The file whose vocabulary the tokenising process loads; None where tokenising needs no such process."""
        ...

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """Whether these texts of one request may be tokenised in this process. Other texts can end it, or take long."""
        ...

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """The text's tokens. Thread-safe beside ``decode`` for texts that ``can_tokenize_inline``."""
        ...

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool | None = None) -> list[int]:
        """The text's tokens. ``parse_special``: special tokens are recognised.

        ``add_special``: with the tokens that the model wants before and after a text. None: the same, unless the text
        begins with the start token. Thread-safe beside ``decode``.
        """
        ...

    def tokenize_fragment(self, text: str) -> list[int]:
        """Tokens of ``text`` within a reply: without a start token, and special tokens' names are ordinary text.

        Thread-safe beside ``decode``. Some models' tokenizers put a space in front.
        """
        ...

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """Append ``tokens[i]`` at ``positions[i]`` of ``slots[i]``; returns logits for the batch indices ``outputs``.

        ``outputs`` is rising. The result has the shape (len(outputs), vocabulary); it is valid and writable until the
        next call. The first ``n_decode_tokens`` tokens are of sequences that decode, the others of prompts. The two may
        be computed in separate passes, and prompts less exactly: a reply's logits must not depend on how many of its
        tokens come at once. Raises BackendError.
        """
        ...

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """Decode the last ``decode``'s slots one position further: ``tokens[i]`` follows that call's token i.

        That call had one token and one output for each slot, and the slots are as it left them. Otherwise as
        ``decode``.
        """
        ...

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """Divide the cache anew: old slot ``slot_map[i][0]``'s content goes to new slot ``slot_map[i][1]``.

        All other slots are empty then. Returns the new slots whose content couldn't be moved; they are empty, too.
        Raises KVLayoutError without the memory, BackendError when the previous layout can't be restored either.
        """
        ...

    def kv_touch_ahead(self, used_cells: int, max_bytes: int) -> bool:
        """Touch memory of the cells behind the ``used_cells`` before a step needs it: about ``max_bytes``, at least a
        page. Whether there may be more to touch.
        """
        ...

    def kv_swap(self, first: int, second: int) -> None:
        """Exchange the content of two slots. Raises BackendError."""
        ...

    def kv_save(self, slot: int) -> KVState:
        """A copy of the slot's content. Raises BackendError."""
        ...

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """Put the first ``length`` positions of ``state`` into the empty slot. False as in ``kv_truncate``."""
        ...

    def kv_begin_save(self, slot: int) -> StateMove | None:
        """As ``kv_save``, in pieces. The slot keeps its content, and may go on. None where the slot is empty. Raises
        MemoryError.
        """
        ...

    def kv_begin_load(self, slot: int, state: KVState, length: int) -> StateMove | None:
        """As ``kv_load``, in pieces. None where this state is loaded whole."""
        ...

    def kv_truncate(self, slot: int, length: int) -> bool:
        """Reduce the slot to its first ``length`` positions. False when this model can't: the slot is empty then.

        Lengths from ``kv_floor`` on succeed, and 0.
        """
        ...

    def kv_drop(self, slot: int, length: int) -> bool:
        """Drop the last tokens of the last ``decode``, so that the slot has ``length``. False as in ``kv_truncate``.

        At least one token of that call stays, and at most ``rollback.snapshots`` go. Only for models with snapshots.
        """
        ...

    def kv_floor(self, slot: int) -> int:
        """The smallest length above 0 to which ``kv_truncate`` can reduce the slot now. 0: to any.

        A model that rolls back by checkpoints has the slot's length.
        """
        ...

    def kv_checkpoint(self, slot: int, reused: KVState | None = None) -> KVState:
        """A copy of the part of the slot's content that ``kv_truncate`` can't cut, as it is at the present length.

        It belongs to the slot's tokens so far, and serves each slot and layout that holds them. It is valid for the
        life of the loaded model, and in a file for any process with the same model. The cost is that of copying
        ``rollback.checkpoint_bytes``. ``reused``: memory that may be overwritten, of an old one say.
        Only for models that roll back by checkpoints. Raises BackendError, MemoryError.

        Its bytes may be those of a device, and come with ``kv_settle``. ``kv_rollback`` has them come first.
        """
        ...

    def kv_settle(self) -> bool:
        """Have a piece of a checkpoint come from a device. False: all bytes of all checkpoints are there."""
        ...

    def kv_rollback(self, slot: int, checkpoint: KVState, length: int) -> bool:
        """Reduce the slot to its first ``length`` positions, at which ``checkpoint`` was taken.

        The slot holds these tokens, and any that follow. Where a token takes no cell (``rollback.has_cells``), it may
        hold anything. False where that fails: the slot is empty then.
        """
        ...

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """Copy ``source``'s first positions into the empty slot ``target``. False as in ``kv_truncate``."""
        ...

    def share_cores(self, place: int, count: int) -> None:
        """``count`` engines compute on the planned cores, and this one is at ``place`` among them: the coming passes
        have the threads and CPUs that are its part, at least one.
        """
        ...

    def reset(self) -> None:
        """Empty every slot."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
