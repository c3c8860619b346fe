"""A backend without a model: deterministic, instant, with bytes as tokens. Tests use it, and benchmarks of the server.

Token t < 256 is the byte t, 256 ends a reply and 257 ends each tokenised prompt. The prompt scripts the reply: the
text of the last ``<say>...</say>`` in it, with ``\\xNN`` escapes for bytes. A prompt without a script is echoed. At
``<nan>`` in a script the logits are NaN. At ``<hang>`` the step never ends. A text with ``<stuck>`` is never tokenised.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from tailrace.engine.backends.base import (
    EmbeddingContext,
    HiddenStates,
    KVState,
    Logits,
    PredictionContext,
    RankFormat,
    StateMove,
)
from tailrace.engine.backends.fake_state_move import FakeStateMove
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.kv_cache.rollback import Rollback
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.special_tokens import SpecialToken, SpecialTokens
from tailrace.models.metadata_override import MetadataOverride
from tailrace.protocol import EngineCounters, ModelInfo, Pooling

END = 256
START = 257
#: Fill in the middle: the tokens before prefix, suffix and middle.
INFILL = (258, 259, 260)
_VOCABULARY = 261
_NAMES = {END: "<end>", START: "<start>", 258: "<prefix>", 259: "<suffix>", 260: "<middle>"}
#: The logit of the script's byte; all others are 0. No other token is ever sampled, but a logit_bias of 100 beats it.
_CERTAIN = 90.0
_BROKEN = b"<nan>"
_HANG = b"<hang>"
_STUCK = "<stuck>"
#: A step that hangs ends after this time.
_FOR_EVER = 3600.0
#: The memory of the model that is imitated: KV of all tokens, KV of a sliding window, one recurrent state, or a hybrid.
#: It decides how slots can be cut.
Memory = Literal["dense", "sliding", "recurrent", "hybrid"]
#: Cells at first of a cache that grows in place: few, so that it grows.
_FIRST_CELLS = 512
#: Length of the sliding window, in tokens.
_WINDOW = 32
#: The size that a checkpoint is taken to have.
_CHECKPOINT_BYTES = 400
_SCRIPT = re.compile(rb"<say>(.*?)</say>", re.DOTALL)
#: Contains every message as it is, so that a script in any message is found.
_TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"


class FakeBackend:
    """See the module and ``Backend``."""

    def __init__(
        self,
        *,
        ctx: int,
        parallel: int,
        kv_tokens: int,
        batch: int,
        step_seconds: float = 0.0,
        weights_mb: int = 0,
        always_shared: bool = False,
        in_place: bool = False,
        piece_tokens: int = 0,
        memory: Memory = "dense",
        snapshots: int = 0,
    ) -> None:
        """``step_seconds``: duration of each step. ``weights_mb``: memory to allocate, as a model's weights would.

        ``always_shared``: the KV cache is shared and grows, as with tailrace's own attention; ``in_place``: no state
        moves then. ``piece_tokens``: see ``Backend``. ``snapshots``: see ``Rollback``.
        """
        context = ctx or 8192
        limit = kv_tokens or context * 4
        self.layout_policy = LayoutPolicy(parallel, limit, context, always_shared=always_shared)
        if in_place:
            self.layout_policy = replace(self.layout_policy, initial_cells=_FIRST_CELLS, reserved_cells=limit)
        self.layout = self.layout_policy.initial()
        self.rollback = Rollback(
            checkpoint_bytes=_CHECKPOINT_BYTES if memory in ("recurrent", "hybrid") else 0,
            window=_WINDOW if memory == "sliding" else 0,
            has_cells=memory != "recurrent",
            snapshots=snapshots,
        )
        self._memory = memory
        self.max_batch = max(batch, parallel)
        self.piece_tokens = piece_tokens
        self.vocabulary = [bytes([value]) for value in range(256)] + [b""] * (_VOCABULARY - 256)
        self.max_token_bytes = 1
        self.model_path: Path | None = None
        self.metadata_overrides: tuple[MetadataOverride, ...] = ()
        self._names = SpecialTokens(SpecialToken(token, name) for token, name in _NAMES.items())
        self.bytes_per_cell = 4
        self.end_tokens = frozenset({END})
        self.eot_token: int | None = END
        self.newline_token: int | None = ord("\n")
        self.strips_leading_space = False
        self.start_token: int | None = None
        self.fim_tokens: tuple[int, int, int] | None = INFILL
        self.embedding_context: EmbeddingContext | None = FakeEmbeddingContext()
        self.prediction_context: PredictionContext | None = None
        self.counters = EngineCounters()
        self.step_seconds = step_seconds
        self.first_step_seconds = step_seconds
        self.worker_links = None
        self.speed_watch = None
        self._weights = np.ones(weights_mb * 1_000_000, np.uint8)
        self.info = ModelInfo(
            architecture="fake",
            description="scripted bytes",
            parameters=0,
            size_bytes=0,
            context=context,
            context_trained=context,
            kv_cells=limit,
            parallel=parallel,
            chat_template=_TEMPLATE,
            bos_token="",
            eos_token="",
            infill=True,
            end_tokens=(END,),
            infill_tokens=dict(zip(("prefix", "suffix", "middle"), INFILL, strict=True)),
            embedding_width=FakeEmbeddingContext.n_embd,
            rank_score="logit",
            special_tokens=_NAMES,
        )
        self._tokens: list[list[int]] = [[] for _ in range(parallel)]
        self._droppable = [0] * parallel  #: by slot, the tokens that ``kv_drop`` may drop
        self._floors = [0] * parallel  #: by slot, of a sliding window: see ``kv_floor``
        #: By slot: the scripted reply and the prompt's length, while the slot's prompt stays the same.
        self._scripts: dict[int, tuple[bytes, int]] = {}
        self._last: tuple[list[int], list[int]] = ([], [])  #: positions and slots of the last decode

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool | None = None) -> list[int]:
        """See ``Backend``."""
        return [*text.encode("utf-8"), START] if add_special is None else list(text.encode("utf-8"))

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """See ``Backend``: all are."""
        return True

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """See ``Backend``. Special tokens are recognised only in texts in which one of them is ordinary text."""
        if _STUCK in text.text:
            time.sleep(_FOR_EVER)
        pieces = self._names.split(text.text, special=text.parse_special, literal_spans=text.literal_spans)
        if not text.literal_spans or pieces == self._names.split(text.text, special=text.parse_special):
            return self.tokenize(text.text, parse_special=text.parse_special, add_special=text.add_special)
        return [token for piece in pieces for token in ([piece] if isinstance(piece, int) else piece.encode())]

    def tokenize_fragment(self, text: str) -> list[int]:
        """See ``Backend``."""
        return list(text.encode("utf-8"))

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """See ``Backend``. The script's next byte is certain at each temperature that a request may have."""
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self._last = positions, slots
        for slot in set(slots):
            self._droppable[slot] = min(self.rollback.snapshots, slots.count(slot) - 1)
        for token, position, slot in zip(tokens, positions, slots, strict=True):
            held = self._tokens[slot]
            if position != len(held):
                raise AssertionError(f"slot {slot} holds {len(held)} tokens, but position {position} is written")
            held.append(token)
        self._check_capacity(slots)
        logits = np.zeros((len(outputs), _VOCABULARY), np.float32)
        for row, index in enumerate(outputs):
            following = self._next(slots[index], positions[index])
            if following is None:
                logits[row] = np.nan
            else:
                logits[row, following] = _CERTAIN
        return logits

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """See ``Backend``."""
        positions, slots = self._last
        if len(set(slots)) != len(tokens) or len(slots) != len(tokens):
            raise AssertionError(f"{len(tokens)} tokens can't follow those in the slots {slots}")
        return self.decode(tokens, [position + 1 for position in positions], slots, list(range(len(tokens))))

    def _check_capacity(self, slots: list[int]) -> None:
        """Raise AssertionError where the layout has no cells for the slots' tokens."""
        layout = self.layout
        if layout.shared:
            return  # Cells of the shared layout aren't counted here.
        for slot in set(slots):
            if slot >= layout.partitions or len(self._tokens[slot]) > layout.cells:
                raise AssertionError(f"slot {slot} with {len(self._tokens[slot])} tokens is outside of {layout}")

    def _next(self, slot: int, position: int) -> int | None:
        """The token after ``position``; None for NaN. Later tokens of the slot may be drafts and no prompt."""
        if slot not in self._scripts:
            self._scripts[slot] = _script(self._tokens[slot][: position + 1])
        script, start = self._scripts[slot]
        written = position + 1 - start
        if script[written : written + len(_BROKEN)] == _BROKEN:
            return None
        if script[written : written + len(_HANG)] == _HANG:
            time.sleep(_FOR_EVER)
        return script[written] if written < len(script) else END

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``."""
        content = {new: self._tokens[old] for old, new in slot_map}
        self.layout = layout
        self._scripts.clear()
        self._tokens = [content.get(slot, []) for slot in range(len(self._tokens))]
        self._floors = [self.rollback.state_floor(len(held)) for held in self._tokens]
        return []

    def kv_touch_ahead(self, used_cells: int, max_bytes: int) -> bool:
        """See ``Backend``: its memory needs no touching."""
        return False

    def kv_swap(self, first: int, second: int) -> None:
        """See ``Backend``."""
        self._tokens[first], self._tokens[second] = self._tokens[second], self._tokens[first]
        for slot in (first, second):
            self._floors[slot] = self.rollback.state_floor(len(self._tokens[slot]))
        self._scripts.clear()

    def kv_save(self, slot: int) -> KVState:
        """See ``Backend``."""
        return np.array(self._tokens[slot], np.int32).view(np.uint8)

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """See ``Backend``."""
        self._tokens[slot] = state.view(np.int32).tolist()
        self._floors[slot] = self.rollback.state_floor(len(self._tokens[slot]))
        return self.kv_truncate(slot, length)

    def kv_begin_save(self, slot: int) -> StateMove | None:
        """See ``Backend``."""
        if not self.piece_tokens:
            return None
        held = self._tokens[slot]
        return FakeStateMove(held, np.array(held, np.int32).view(np.uint8), [], len(held), self.piece_tokens)

    def kv_begin_load(self, slot: int, state: KVState, length: int) -> StateMove | None:
        """See ``Backend``."""
        if not self.piece_tokens:
            return None
        return FakeStateMove(state.view(np.int32).tolist(), state, self._tokens[slot], length, self.piece_tokens)

    def kv_truncate(self, slot: int, length: int) -> bool:
        """See ``Backend``. Raises AssertionError for a length that the imitated memory can't be reduced to."""
        held = self._tokens[slot]
        if 0 < length < len(held) and length < self.kv_floor(slot):
            raise AssertionError(f"a {self._memory} memory of {len(held)} tokens can't be cut to {length}")
        del held[length:]
        self._scripts.pop(slot, None)
        if not held:
            self._floors[slot] = 0
        return True

    def kv_drop(self, slot: int, length: int) -> bool:
        """See ``Backend``."""
        dropped = len(self._tokens[slot]) - length
        if not 0 < dropped <= self._droppable[slot]:
            raise AssertionError(f"slot {slot} can drop {self._droppable[slot]} tokens, not {dropped}")
        del self._tokens[slot][length:]
        self._droppable[slot] = 0
        self._scripts.pop(slot, None)
        return True

    def kv_floor(self, slot: int) -> int:
        """See ``Backend``."""
        return len(self._tokens[slot]) if self.rollback.by_checkpoints else self._floors[slot]

    def kv_checkpoint(self, slot: int, reused: KVState | None = None) -> KVState:
        """See ``Backend``. It has all tokens, so that it can't be put back where it doesn't belong."""
        if not self.rollback.by_checkpoints:
            raise AssertionError(f"a {self._memory} memory needs no checkpoints")
        return self.kv_save(slot)

    def kv_settle(self) -> bool:
        """See ``Backend``."""
        return False

    def kv_rollback(self, slot: int, checkpoint: KVState, length: int) -> bool:
        """See ``Backend``."""
        tokens = checkpoint.view(np.int32).tolist()
        if len(tokens) != length or (self.rollback.has_cells and self._tokens[slot][:length] != tokens):
            raise AssertionError(f"a checkpoint of {len(tokens)} tokens isn't that of slot {slot} at {length}")
        self._tokens[slot] = tokens
        self._scripts.pop(slot, None)
        return True

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """See ``Backend``. Without a shared layout the copy is that of a saved state."""
        self._tokens[target] = self._tokens[source][:]
        floor = self._floors[source] if self.layout.shared else self.rollback.state_floor(len(self._tokens[source]))
        self._floors[target] = floor
        return self.kv_truncate(target, length)

    def share_cores(self, place: int, count: int) -> None:
        """See ``Backend``."""
        self.core_part = (place, count)

    def reset(self) -> None:
        """See ``Backend``."""
        for slot in range(len(self._tokens)):
            self.kv_truncate(slot, 0)

    def close(self) -> None:
        """See ``Backend``: there is nothing to free."""


class FakeEmbeddingContext:
    """See ``EmbeddingContext``. A token's hidden state is one of 16 unit vectors, by the token's last four bits.

    A document's rank is the number of its distinct bytes that the query has, less those that it hasn't.
    """

    n_embd = 16
    pooling: Pooling | None = "mean"
    rank_format: RankFormat | None = RankFormat(between=(START,), after=(END,))
    causal = True
    slots = 4
    max_pass_tokens = 64

    def __init__(self) -> None:
        self.cells = 0
        self._held: list[list[int]] = [[] for _ in range(self.slots)]

    def reserve(self, cells: int) -> None:
        """See ``EmbeddingContext``."""
        self.cells = cells
        self._held = [[] for _ in range(self.slots)]

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """See ``EmbeddingContext``."""
        self._append(tokens, positions, slots)
        rows: HiddenStates = np.eye(self.n_embd, dtype=np.float32)[np.array(tokens) % self.n_embd]
        return rows

    def rank(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """See ``EmbeddingContext``."""
        self._append(tokens, positions, slots)
        return np.array([[_rank(self._held[slot])] for slot in dict.fromkeys(slots)], np.float32)

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> Logits:
        """See ``EmbeddingContext``. Every next token is as likely as any other."""
        self._append(tokens, positions, slots)
        return np.zeros((len(tokens), _VOCABULARY), np.float32)

    def clear(self, slot: int) -> None:
        """See ``EmbeddingContext``."""
        self._held[slot].clear()

    def _append(self, tokens: list[int], positions: list[int], slots: list[int]) -> None:
        for token, position, slot in zip(tokens, positions, slots, strict=True):
            held = self._held[slot]
            if position != len(held):
                raise AssertionError(f"slot {slot} holds {len(held)} tokens, but position {position} is written")
            held.append(token)
        if (count := sum(map(len, self._held))) > self.cells:
            raise AssertionError(f"{count} tokens are in {self.cells} cells")


def _rank(tokens: list[int]) -> float:
    """The rank of a pair."""
    if START not in tokens:
        return 0.0  # The document hasn't begun.
    place = tokens.index(START)
    query, document = set(tokens[:place]), set(tokens[place + 1 :]) - {END}
    return float(len(document & query) - len(document - query))


def _script(tokens: list[int]) -> tuple[bytes, int]:
    """The scripted reply, and its position: after the prompt's last START token or fill-in-the-middle token."""
    ends = [place for place, token in enumerate(tokens) if token in (START, INFILL[2])]
    if not ends:
        return b"", len(tokens)
    start = ends[-1] + 1
    prompt = bytes(token for token in tokens[:start] if token < 256)
    scripts = _SCRIPT.findall(prompt)
    if not scripts:
        return prompt, start
    reply, _ = codecs.escape_decode(scripts[-1])
    return reply, start
