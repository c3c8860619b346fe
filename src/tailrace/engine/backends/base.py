"""What the loop needs of a model. ``llama`` is the real one, ``fake`` the one without a model."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.errors import TailraceError
from tailrace.protocol import ModelInfo, Pooling

Logits = npt.NDArray[np.float32]
HiddenStates = npt.NDArray[np.float32]
#: A slot's KV outside of the cache, as bytes.
KVState = npt.NDArray[np.uint8]


class BackendError(TailraceError):
    """The model's computation failed in a way that leaves its state unknown; the process has to end."""


class KVLayoutError(TailraceError):
    """There is no memory for a new layout. The old one is there again, with what its slots held, except for ``lost``:
    slots that are empty now.
    """

    def __init__(self, message: str, lost: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.lost = lost


class EmbeddingContext(Protocol):
    """A context of its own beside the cache, for texts that are read and not continued: a row for each of their tokens.

    It takes no memory before the first ``reserve``.
    """

    n_embd: int  #: numbers of an embedding
    pooling: Pooling  #: the model's own
    causal: bool  #: else a token's row depends on those after it too: each text has to be read in one pass
    slots: int  #: texts that may be in progress at the same time
    max_pass_tokens: int  #: tokens of one pass
    cells: int  #: tokens that the texts in progress may have together, as reserved

    def reserve(self, cells: int) -> None:
        """Have room for at least so many tokens; every slot becomes empty. Raises ModelError without the memory."""
        ...

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """Append ``tokens[i]`` at ``positions[i]`` of ``slots[i]``; the model's last hidden state at each, shape
        (len(tokens), n_embd), valid until the next call. Raises BackendError.
        """
        ...

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> Logits:
        """As ``embed``, with the logits at each: shape (len(tokens), vocabulary)."""
        ...

    def clear(self, slot: int) -> None:
        """Empty the slot."""
        ...


class Backend(Protocol):
    """A loaded model with a KV cache that is cut into slots (see ``layout``): one sequence's positions each.

    In the pool ``kv_copy`` costs no cells.
    """

    info: ModelInfo
    vocabulary: list[bytes]  #: bytes of each token as they appear in text; empty for control tokens
    max_token_bytes: int  #: bytes of text that one token stands for at most
    end_tokens: frozenset[int]  #: end-of-generation tokens
    eot_token: int | None  #: the end token that a turn of a conversation ends with, else the text's; None: it has none
    newline_token: int | None  #: the line break's; None: there is none alone
    strips_leading_space: bool  #: whether a text's first token is shown without the space in front of it
    start_token: int | None  #: what an empty prompt becomes; None where the model has none
    bytes_per_cell: int  #: memory that one cell takes, about
    layout_policy: LayoutPolicy  #: which layouts this model and memory allow
    layout: Layout  #: how the cache is cut now
    can_truncate: bool  #: whether a slot's beginning can be kept without its end (recurrent memories can't)
    max_batch: int  #: tokens that one ``decode`` takes at most
    fim_tokens: tuple[int, int, int] | None  #: markers before a prefix, a suffix and the middle to fill in

    @property
    def embedding_context(self) -> EmbeddingContext | None:
        """None where texts can't be embedded."""
        ...

    @property
    def model_path(self) -> Path | None:
        """The file whose vocabulary tokenises; None where tokenising needs no file, and no protection."""
        ...

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """Whether these texts of one request may be tokenised here. Others can end the process, or take long."""
        ...

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """The text's tokens. Safe to call from another thread while ``decode`` runs, if the text is short."""
        ...

    def tokenize(self, text: str, *, special: bool = True, start: bool | None = None) -> list[int]:
        """Tokens of ``text``, special tokens recognised if ``special``, with those that the model wants around it if
        ``start`` (None: with the start token where the model wants one and the text doesn't begin with it).

        Safe to call from another thread while ``decode`` runs.
        """
        ...

    def tokenize_fragment(self, text: str) -> list[int]:
        """Tokens of ``text`` as it stands within a reply: no start token, special tokens' names are plain text.

        Safe to call from another thread as ``tokenize`` is. Some models' tokenizers put a space in front.
        """
        ...

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """Append ``tokens[i]`` at ``positions[i]`` of ``slots[i]`` and return a row of logits for each batch index in
        ``outputs`` (rising): shape (len(outputs), vocabulary), valid and writable until the next call.

        The first ``n_decode_tokens`` tokens are replies', the others prompts'. The two may be computed in separate
        passes, and prompts less exactly: a reply's logits must not depend on how many of its tokens come at once.

        Raises BackendError.
        """
        ...

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """The same again, one position further: ``tokens[i]`` goes behind token i of the last ``decode``, which had one
        token a slot and wanted a row of each. What these slots hold is still what it left. Else as ``decode``.
        """
        ...

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """Divide the cells anew: the content of slot ``slot_map[i][0]`` goes to slot ``slot_map[i][1]``; other slots
        become empty. Returns the new slots whose content couldn't be moved; they are empty, too.

        Raises KVLayoutError without the memory: the old layout is there again. Raises BackendError.
        """
        ...

    def kv_swap(self, one: int, other: int) -> None:
        """Exchange what two slots hold."""
        ...

    def kv_save(self, slot: int) -> KVState:
        """A copy of what the slot holds."""
        ...

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """Put the first ``length`` positions of ``state`` into the (empty) slot. False as in ``kv_truncate``."""
        ...

    def kv_truncate(self, slot: int, length: int) -> bool:
        """Keep the slot's first ``length`` positions. False when this model can't (then the slot is empty)."""
        ...

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """Let ``target`` (empty) have the first ``length`` positions of ``source``. False as in ``kv_truncate``."""
        ...

    def reset(self) -> None:
        """Empty every slot."""
        ...

    def close(self) -> None:
        """Give back the memory."""
        ...
