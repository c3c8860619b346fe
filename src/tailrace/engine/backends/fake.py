"""A backend without a model: deterministic, instant, byte-level. For protocol edges and the front end's ceiling.

Token t < 256 is the byte t, 256 ends a reply and 257 ends every tokenised prompt. The prompt scripts the reply: the
last ``<say>...</say>`` in it is said, with ``\\xNN`` escapes for bytes; a prompt without a script is echoed. Where a
script says ``<nan>``, the logits aren't numbers. ``step_seconds`` makes each step last as long as a model's would,
``weights_mb`` takes as much memory as its weights. ``memory`` is what a slot's content can be cut to, as models of that
kind allow it.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal

import numpy as np

from tailrace.engine.backends.base import EmbeddingContext, HiddenStates, KVState, Logits
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.special_tokens import SpecialToken, SpecialTokens
from tailrace.protocol import ModelInfo, Pooling

END = 256
START = 257
#: The tokens around a prefix, a suffix and the middle that is to be filled in.
INFILL = (258, 259, 260)
_VOCABULARY = 261
_NAMES = {END: "<end>", START: "<start>", 258: "<prefix>", 259: "<suffix>", 260: "<middle>"}
#: A logit so far above the others' 0 that nothing else is ever drawn, and that a logit_bias of 100 still beats.
_CERTAIN = 90.0
_BROKEN = b"<nan>"
#: What a model remembers its tokens by: keys and values of all or of the last ones, one state of all, or some of both.
Memory = Literal["dense", "sliding", "recurrent", "hybrid"]
#: Tokens that a sliding window is long.
_WINDOW = 32
_SCRIPT = re.compile(rb"<say>(.*?)</say>", re.DOTALL)
#: Writes the conversation out plainly, so that a script in any message is found.
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
        memory: Memory = "dense",
    ) -> None:
        """``always_shared``: the KV cache is one pool that grows, as it is with our own attention."""
        context = ctx or 8192
        limit = kv_tokens or context * 4
        self.layout_policy = LayoutPolicy(parallel, limit, context, always_shared=always_shared)
        self.layout = self.layout_policy.initial()
        self.can_truncate = memory == "dense"
        self._memory = memory
        self.max_batch = max(batch, parallel)
        self.vocabulary = [bytes([value]) for value in range(256)] + [b""] * (_VOCABULARY - 256)
        self.max_token_bytes = 1
        self.model_path: Path | None = None
        self._names = SpecialTokens(SpecialToken(token, name) for token, name in _NAMES.items())
        self.bytes_per_cell = 4
        self.end_tokens = frozenset({END})
        self.eot_token: int | None = END
        self.newline_token: int | None = ord("\n")
        self.strips_leading_space = False
        self.start_token: int | None = None
        self.fim_tokens: tuple[int, int, int] | None = INFILL
        self.embedding_context: EmbeddingContext | None = FakeEmbeddingContext()
        self.step_seconds = step_seconds
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
            special_tokens=_NAMES,
        )
        self._tokens: list[list[int]] = [[] for _ in range(parallel)]
        #: For each slot the reply that its prompt asks for and the prompt's length; kept while the prompt is the same.
        self._scripts: dict[int, tuple[bytes, int]] = {}
        self._last: tuple[list[int], list[int]] = ([], [])  #: positions and slots of the last decode

    def tokenize(self, text: str, *, special: bool = True, start: bool | None = None) -> list[int]:
        """See ``Backend``."""
        return [*text.encode("utf-8"), START] if start is None else list(text.encode("utf-8"))

    def can_tokenize_inline(self, texts: Seq[TokenizerInput]) -> bool:
        """See ``Backend``: all are."""
        return True

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """See ``Backend``. Names of special tokens are known only in texts that have one which is plain."""
        pieces = self._names.split(text.text, special=text.parse_special, literal_spans=text.literal_spans)
        if not text.literal_spans or pieces == self._names.split(text.text, special=text.parse_special):
            return self.tokenize(text.text, special=text.parse_special, start=text.add_special)
        return [token for piece in pieces for token in ([piece] if isinstance(piece, int) else piece.encode())]

    def tokenize_fragment(self, text: str) -> list[int]:
        """See ``Backend``."""
        return list(text.encode("utf-8"))

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """See ``Backend``. The script's next byte is certain at any temperature that a request may have."""
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self._last = positions, slots
        for token, position, slot in zip(tokens, positions, slots, strict=True):
            held = self._tokens[slot]
            if position != len(held):
                raise AssertionError(f"slot {slot} holds {len(held)} tokens, but position {position} is written")
            held.append(token)
        self._check_room(slots)
        logits = np.zeros((len(outputs), _VOCABULARY), np.float32)
        for row, index in enumerate(outputs):
            said = self._next(slots[index], positions[index])
            if said is None:
                logits[row] = np.nan
            else:
                logits[row, said] = _CERTAIN
        return logits

    def decode_repeat(self, tokens: list[int]) -> Logits:
        """See ``Backend``."""
        positions, slots = self._last
        if len(set(slots)) != len(tokens) or len(slots) != len(tokens):
            raise AssertionError(f"{len(tokens)} tokens can't follow those in the slots {slots}")
        return self.decode(tokens, [position + 1 for position in positions], slots, list(range(len(tokens))))

    def _check_room(self, slots: list[int]) -> None:
        """A real cache would have no cells for more than the layout says."""
        layout = self.layout
        if layout.shared:
            return  # Shared cells aren't told apart here.
        for slot in set(slots):
            if slot >= layout.partitions or len(self._tokens[slot]) > layout.cells:
                raise AssertionError(f"slot {slot} with {len(self._tokens[slot])} tokens is outside of {layout}")

    def _next(self, slot: int, position: int) -> int | None:
        """The token behind ``position``. What the slot holds beyond may be a draft, and no part of the prompt."""
        if slot not in self._scripts:
            self._scripts[slot] = _script(self._tokens[slot][: position + 1])
        script, start = self._scripts[slot]
        said = position + 1 - start
        if script[said : said + len(_BROKEN)] == _BROKEN:
            return None
        return script[said] if said < len(script) else END

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``."""
        held = {new: self._tokens[old] for old, new in slot_map}
        self.layout = layout
        self._tokens = [held.get(slot, []) for slot in range(len(self._tokens))]
        self._scripts.clear()
        if self._memory not in ("recurrent", "hybrid"):
            return []
        # A state is of the layout that it comes from: nothing of it can be taken over.
        self._tokens = [[] for _ in self._tokens]
        return [new for _, new in slot_map if held[new]]

    def kv_swap(self, one: int, other: int) -> None:
        """See ``Backend``."""
        self._tokens[one], self._tokens[other] = self._tokens[other], self._tokens[one]
        self._scripts.clear()

    def kv_save(self, slot: int) -> KVState:
        """See ``Backend``."""
        return np.array(self._tokens[slot], np.int32).view(np.uint8)

    def kv_load(self, slot: int, state: KVState, length: int) -> bool:
        """See ``Backend``."""
        self._tokens[slot] = state.view(np.int32).tolist()
        return self.kv_truncate(slot, length)

    def kv_truncate(self, slot: int, length: int) -> bool:
        """See ``Backend``."""
        held = self._tokens[slot]
        done = self._can_cut(len(held), length)
        del held[length if done else 0 :]
        self._scripts.pop(slot, None)
        return done

    def kv_copy(self, source: int, target: int, length: int) -> bool:
        """See ``Backend``."""
        self._tokens[target] = self._tokens[source][:]
        return self.kv_truncate(target, length)

    def _can_cut(self, held: int, length: int) -> bool:
        """Whether a slot that holds so many tokens can go back to the first ``length``."""
        if length >= held or self._memory == "dense":
            return True
        # What stood in the window at ``length`` has left it since.
        return self._memory == "sliding" and held <= _WINDOW

    def reset(self) -> None:
        """See ``Backend``."""
        for slot in range(len(self._tokens)):
            self.kv_truncate(slot, 0)

    def close(self) -> None:
        """See ``Backend``: there is nothing to give back."""


class FakeEmbeddingContext:
    """See ``EmbeddingContext``. A token's hidden state is one of 16 unit vectors, by the token's last four bits."""

    n_embd = 16
    pooling: Pooling = "mean"
    causal = True
    slots = 4
    max_pass_tokens = 64

    def __init__(self) -> None:
        self.cells = 0
        self._held = [0] * self.slots

    def reserve(self, cells: int) -> None:
        """See ``EmbeddingContext``."""
        self.cells = cells
        self._held = [0] * self.slots

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        """See ``EmbeddingContext``."""
        self._append(positions, slots)
        rows: HiddenStates = np.eye(self.n_embd, dtype=np.float32)[np.array(tokens) % self.n_embd]
        return rows

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> Logits:
        """See ``EmbeddingContext``. Every next token is as likely as any other."""
        self._append(positions, slots)
        return np.zeros((len(tokens), _VOCABULARY), np.float32)

    def clear(self, slot: int) -> None:
        """See ``EmbeddingContext``."""
        self._held[slot] = 0

    def _append(self, positions: list[int], slots: list[int]) -> None:
        for position, slot in zip(positions, slots, strict=True):
            if position != self._held[slot]:
                raise AssertionError(f"slot {slot} holds {self._held[slot]} tokens, but position {position} is written")
            self._held[slot] += 1
        if sum(self._held) > self.cells:
            raise AssertionError(f"{sum(self._held)} tokens are in {self.cells} cells")


def _script(tokens: list[int]) -> tuple[bytes, int]:
    """The reply that a prompt asks for, and where it starts: after the prompt's last START token, or the middle's."""
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
