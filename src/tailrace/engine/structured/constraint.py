"""What one reply may still say: the state of its grammar after the tokens so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from tailrace.engine.structured.matcher import check

#: Bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]


class KeyFilter(Protocol):
    """See ``keys``."""

    def narrow(self, mask: Mask) -> Mask:
        """The mask without tokens that would write a key again."""
        ...

    def accept(self, token: int) -> None:
        """The reply goes on with ``token``."""
        ...


class Constraint:
    """A reply's grammar. Not for two threads at once: what one computes, another may use after waiting for it."""

    __slots__ = ("_address", "_bits", "_forced", "_keys", "_matcher", "_ready", "finished")

    def __init__(
        self, matcher: LLMatcher, vocabulary_size: int, *, fast_forward: bool = True, keys: KeyFilter | None = None
    ) -> None:
        """``matcher`` is this reply's own. With ``fast_forward`` false nothing is forced: each token is chosen.
        ``keys`` keeps objects that are open from having a key twice; it is this reply's own as well.
        """
        self._matcher = matcher
        self._keys = keys
        self._bits: Mask = np.empty((vocabulary_size + 31) // 32, np.uint32)
        self._address = self._bits.ctypes.data
        self._ready = False
        self._forced = fast_forward
        #: The grammar is at its end: no token may follow.
        self.finished = False

    @property
    def free(self) -> bool:
        """Whether no mask has to be computed: any token may come next, or nearly any (see ``mask``)."""
        return False

    def compute(self) -> None:
        """Compute the next token's mask, unless that is done: 3 to 300 µs at a vocabulary of 49k, without the GIL."""
        if not self._ready:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._bits.nbytes)
            self._ready = True

    def mask(self) -> Mask | None:
        """The tokens that may come next, end tokens among them where the reply may end; None: all. Valid until
        ``accept``.

        Raises GrammarError when the grammar has become too complex.
        """
        self.compute()
        check(self._matcher)
        return self._bits if self._keys is None else self._keys.narrow(self._bits)

    def accept(self, token: int) -> list[int]:
        """The reply goes on with ``token``, which the mask allows, and then must go on with the tokens returned: they
        are accepted already. Raises GrammarError as ``mask`` does.
        """
        matcher = self._matcher
        self._ready = False
        if not matcher.consume_token(token):
            check(matcher)
            raise AssertionError(f"the grammar doesn't allow token {token}")
        if self._keys is not None:
            self._keys.accept(token)
        return self.force()

    def force(self) -> list[int]:
        """The tokens that must come next: they are accepted already."""
        matcher = self._matcher
        forced: list[int] = []
        if self._forced and not matcher.is_stopped():
            forced = matcher.compute_ff_tokens()
            del forced[matcher.try_consume_tokens(forced) :]
            if self._keys is not None:
                for token in forced:
                    self._keys.accept(token)
        check(matcher)
        self.finished = matcher.is_stopped()
        return forced

    def accepts(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may come next, one after the other. Nothing changes."""
        return self._matcher.validate_tokens(list(tokens))
