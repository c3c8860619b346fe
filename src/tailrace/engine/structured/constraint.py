"""The state of one reply's grammar after the tokens so far: which tokens may come next, and which must."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog
from llguidance import LLMatcher

from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.matcher import check

#: Processor seconds of a mask from which the next ones are computed ahead, and the reply sits out meanwhile.
SLOW_SECONDS = 0.005
#: Processor seconds that a reply's masks may take together, and what each of its tokens adds. The first
#: masks of a large grammar take up to 0.2 s.
BUDGET_SECONDS = 1.0
BUDGET_SECONDS_PER_TOKEN = 0.02

#: Bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]


class MaskBudget:
    """What a reply's masks may still take, in processor seconds."""

    __slots__ = ("seconds_left",)

    def __init__(self) -> None:
        self.seconds_left = BUDGET_SECONDS


class KeyFilter(Protocol):
    """See ``unique_keys``."""

    def narrow(self, mask: Mask) -> Mask:
        """The mask without tokens that would repeat a key."""
        ...

    def accept(self, token: int) -> None:
        """The reply goes on with ``token``."""
        ...


class Constraint:
    """A reply's grammar. One thread at a time may use it: a second thread has to wait for the first.

    A grammar whose masks take long is ``slow``. The loop then defers each token (``defer``), and another thread accepts
    it and computes the next mask (``compute_or_fail``).
    """

    __slots__ = (
        "_address",
        "_bits",
        "_budget",
        "_cancelled",
        "_deferred",
        "_failure",
        "_jump_forward",
        "_keys",
        "_mask",
        "_matcher",
        "finished",
        "last_seconds",
    )

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary_size: int,
        *,
        jump_forward: bool = True,
        keys: KeyFilter | None = None,
        first_mask: Mask | None = None,
        expected_seconds: float = 0.0,
        budget: MaskBudget | None = None,
    ) -> None:
        """``matcher`` and ``keys`` belong to this reply alone. ``keys`` filters repeated keys out of open objects.
        Without ``jump_forward`` no token is forced: each one is chosen. ``first_mask``: that of the reply's start, if
        it is known. ``expected_seconds``: what a mask takes. ``budget``: the reply's, if it has other constraints, too.
        """
        self._matcher = matcher
        self._keys = keys
        self._bits: Mask = np.empty((vocabulary_size + 31) // 32, np.uint32)
        self._address = self._bits.ctypes.data
        self._mask = first_mask  #: None: not computed
        self._failure: BaseException | None = None
        self._deferred: int | None = None
        self._cancelled = False
        self._jump_forward = jump_forward
        self._budget = budget or MaskBudget()
        #: Processor seconds of the last mask.
        self.last_seconds = expected_seconds
        #: The grammar is at its end: no token may follow.
        self.finished = False

    @property
    def unconstrained(self) -> bool:
        """Whether no mask has to be computed: all tokens may come next, or nearly all (see ``mask``)."""
        return False

    @property
    def slow(self) -> bool:
        """Whether masks take so long that they are computed ahead."""
        return self.last_seconds > SLOW_SECONDS

    @property
    def ready(self) -> bool:
        """Whether ``mask`` answers at once."""
        return self._mask is not None or self.finished or self._failure is not None

    def compute(self) -> None:
        """Accept the deferred token, and compute the next one's mask, unless that is done. Masks are computed without
        the GIL. Raises GrammarError.
        """
        if self._deferred is not None:
            token, self._deferred = self._deferred, None
            self._consume(token)
            check(self._matcher)
            self.finished = self._matcher.is_stopped()
        if self._mask is None and not self.finished:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._bits.nbytes)
            self._mask = self._bits if self._keys is None else self._keys.narrow(self._bits)

    def compute_or_fail(self) -> None:
        """``compute``, but an error waits for the next ``mask``: it belongs to this reply alone. So does the time: a
        reply fails whose masks take more than its budget.
        """
        if self._cancelled or self._failure is not None:
            return
        begun = time.thread_time()
        try:
            self.compute()
        except GrammarError as error:
            self._failure = error
        except BaseException as error:  # llguidance's panics aren't Exceptions.
            structlog.get_logger().exception("a mask can't be computed")
            self._failure = error
        self.last_seconds = time.thread_time() - begun
        self._budget.seconds_left -= self.last_seconds
        if self._budget.seconds_left < 0.0 and self._failure is None:
            self._failure = GrammarError(
                "finding the tokens that it allows takes too long. A reply's grammar may take "
                f"{BUDGET_SECONDS:g} s of processor time, and {1000 * BUDGET_SECONDS_PER_TOKEN:g} ms more for each "
                "token. Make the grammar less ambiguous"
            )

    def cancel(self) -> None:
        """The reply has ended: nothing has to be computed any more. Any thread may call it."""
        self._cancelled = True

    def mask(self) -> Mask | None:
        """The tokens that may come next, with end tokens where the reply may end; None: all. Valid until ``accept``.

        Raises GrammarError where the grammar has become too complex, or the mask can't be computed.
        """
        if self._mask is None and self._failure is None:
            self.compute()
        if isinstance(self._failure, GrammarError):
            raise self._failure
        if self._failure is not None:
            raise GrammarError(f"the next mask can't be computed: {self._failure}") from self._failure
        check(self._matcher)
        return self._mask

    def accept(self, token: int) -> list[int]:
        """The reply goes on with ``token``, which the mask allows. Returns the tokens that must follow (jump-forward):
        they are accepted already. Raises GrammarError as ``mask`` does.
        """
        self._consume(token)
        return self.jump_forward()

    def defer(self, token: int) -> None:
        """The reply goes on with ``token``, which ``compute`` accepts. No token is forced after it."""
        self._mask = None
        self._deferred = token

    def jump_forward(self) -> list[int]:
        """The tokens that must come next: they are accepted already. None where masks are slow."""
        matcher = self._matcher
        forced: list[int] = []
        if self._jump_forward and self.last_seconds <= SLOW_SECONDS and not matcher.is_stopped():
            forced = matcher.compute_ff_tokens()
            if forced:
                del forced[matcher.try_consume_tokens(forced) :]
                self._budget.seconds_left += BUDGET_SECONDS_PER_TOKEN * len(forced)
                if self._keys is not None:
                    for token in forced:
                        self._keys.accept(token)
        check(matcher)
        self.finished = matcher.is_stopped()
        return forced

    def _consume(self, token: int) -> None:
        self._mask = None
        self._budget.seconds_left += BUDGET_SECONDS_PER_TOKEN
        if not self._matcher.consume_token(token):
            check(self._matcher)
            raise AssertionError(f"the grammar doesn't allow token {token}")
        if self._keys is not None:
            self._keys.accept(token)

    def accepts(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may come next, one after the other. Nothing changes."""
        return self._matcher.validate_tokens(list(tokens))
