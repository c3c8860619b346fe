"""The state of one reply's grammar after the tokens so far: which tokens may come next, and which must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog
from llguidance import LLMatcher

from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.matcher import check

#: Bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]


class KeyFilter(Protocol):
    """See ``unique_keys``."""

    def narrow(self, mask: Mask) -> Mask:
        """The mask without tokens that would repeat a key."""
        ...

    def accept(self, token: int) -> None:
        """The reply goes on with ``token``."""
        ...


class Constraint:
    """A reply's grammar. One thread at a time may use it: a second thread has to wait for the first."""

    __slots__ = ("_address", "_bits", "_failure", "_jump_forward", "_keys", "_mask_computed", "_matcher", "finished")

    def __init__(
        self, matcher: LLMatcher, vocabulary_size: int, *, jump_forward: bool = True, keys: KeyFilter | None = None
    ) -> None:
        """``matcher`` and ``keys`` belong to this reply alone. ``keys`` filters repeated keys out of open objects.
        Without ``jump_forward`` no token is forced: each one is chosen.
        """
        self._matcher = matcher
        self._keys = keys
        self._bits: Mask = np.empty((vocabulary_size + 31) // 32, np.uint32)
        self._address = self._bits.ctypes.data
        self._mask_computed = False
        self._failure: Exception | None = None
        self._jump_forward = jump_forward
        #: The grammar is at its end: no token may follow.
        self.finished = False

    @property
    def unconstrained(self) -> bool:
        """Whether no mask has to be computed: all tokens may come next, or nearly all (see ``mask``)."""
        return False

    def compute(self) -> None:
        """Compute the next token's mask, unless that is done. Runs without the GIL."""
        if not self._mask_computed:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._bits.nbytes)
            self._mask_computed = True

    def compute_or_fail(self) -> None:
        """``compute``, but an error waits for the next ``mask``: it belongs to this reply alone."""
        try:
            self.compute()
        except Exception as error:
            structlog.get_logger().exception("a mask can't be computed")
            self._failure = error

    def mask(self) -> Mask | None:
        """The tokens that may come next, with end tokens where the reply may end; None: all. Valid until ``accept``.

        Raises GrammarError where the grammar has become too complex, or the mask can't be computed.
        """
        if self._failure is not None:
            raise GrammarError(f"the next mask can't be computed: {self._failure}") from self._failure
        self.compute()
        check(self._matcher)
        return self._bits if self._keys is None else self._keys.narrow(self._bits)

    def accept(self, token: int) -> list[int]:
        """The reply goes on with ``token``, which the mask allows. Returns the tokens that must follow (jump-forward):
        they are accepted already. Raises GrammarError as ``mask`` does.
        """
        matcher = self._matcher
        self._mask_computed = False
        if not matcher.consume_token(token):
            check(matcher)
            raise AssertionError(f"the grammar doesn't allow token {token}")
        if self._keys is not None:
            self._keys.accept(token)
        return self.jump_forward()

    def jump_forward(self) -> list[int]:
        """The tokens that must come next: they are accepted already."""
        matcher = self._matcher
        forced: list[int] = []
        if self._jump_forward and not matcher.is_stopped():
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
