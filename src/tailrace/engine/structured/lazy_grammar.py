"""A lazy grammar: it constrains a reply from a call's trigger to the call's end. All other text is unconstrained."""

from __future__ import annotations

import structlog
from llguidance import LLMatcher, LLTokenizer

from tailrace.engine.structured.constraint import Constraint, Mask, MaskBudget
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.matcher import check
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.engine.structured.trigger_watcher import TriggerHit, TriggerWatcher, WatcherState
from tailrace.engine.structured.unique_keys import KeyTokens, UniqueKeys
from tailrace.generation_params import LazyTriggers


class LazyGrammar:
    """The compiled grammar of calls, with its triggers. Replies have their own copies of everything that changes."""

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        triggers: LazyTriggers,
        tokens: TokenIndex,
        key_tokens: KeyTokens | None = None,
        *,
        expected_seconds: float = 0.0,
    ) -> None:
        """``key_tokens``: only where arguments may have open objects. ``expected_seconds``: what a mask takes. Raises
        GrammarError for a trigger that no call begins with.
        """
        self._expected_seconds = expected_seconds
        self._key_tokens = key_tokens
        self._tokenizer = tokenizer
        self._vocabulary_size = len(tokens.pieces)
        self.optional = triggers.optional
        self._matcher = matcher
        self._after_prefix: dict[tuple[str | int, ...], LLMatcher] = {}  #: by the trigger's grammar prefix
        self.watcher = TriggerWatcher(triggers, tokens, self._call_allows)
        self.watcher.prepare()

    def constraint(self, *, jump_forward: bool, reply_start: str = "") -> LazyConstraint:
        """One reply's state, after ``reply_start``, which the prompt already has of the reply."""
        constraint = LazyConstraint(self, jump_forward=jump_forward)
        if reply_start:
            constraint.resume(reply_start.encode("utf-8", "surrogatepass"))
        return constraint

    def begin_call(self, hit: TriggerHit, budget: MaskBudget, *, jump_forward: bool) -> tuple[Constraint, list[int]]:
        """The constraint of the call that ``hit`` starts, and the tokens that must follow."""
        constraint, taken = self.enter_call(hit, budget, jump_forward=jump_forward)
        if taken != len(hit.rest):
            raise AssertionError(f"the call's grammar doesn't allow {hit.rest!r}")
        return constraint, constraint.jump_forward()

    def enter_call(self, hit: TriggerHit, budget: MaskBudget, *, jump_forward: bool) -> tuple[Constraint, int]:
        """The constraint of the call that ``hit`` starts, and how many bytes of ``hit.rest`` it has accepted."""
        matcher = self._matcher_after(hit.trigger).deep_copy()
        rest = self._tokenizer.tokenize_bytes(hit.rest) if hit.rest else []
        count = matcher.try_consume_tokens(rest)
        taken = len(self._tokenizer.decode_bytes(rest[:count]))
        keys = None
        if self._key_tokens is not None:
            keys = UniqueKeys(self._key_tokens)
            for piece in self.watcher.triggers[hit.trigger].grammar_prefix:
                keys.feed(piece.encode() if isinstance(piece, str) else b"")
            keys.feed(hit.rest[:taken])
        constraint = Constraint(
            matcher,
            self._vocabulary_size,
            jump_forward=jump_forward,
            keys=keys,
            expected_seconds=self._expected_seconds,
            budget=budget,
        )
        constraint.finished = matcher.is_stopped()
        return constraint, taken

    def _matcher_after(self, trigger: int) -> LLMatcher:
        """The grammar after the trigger's prefix."""
        prefix = self.watcher.triggers[trigger].grammar_prefix
        matcher = self._after_prefix.get(prefix)
        if matcher is not None:
            return matcher
        matcher = self._matcher.deep_copy()
        for piece in prefix:
            tokens = [piece] if isinstance(piece, int) else self._tokenizer.tokenize_bytes(piece.encode())
            if matcher.try_consume_tokens(tokens) != len(tokens):
                check(matcher)
                raise GrammarError(f"no call begins with {piece!r}")
        self._after_prefix[prefix] = matcher
        return matcher

    def _call_allows(self, trigger: int, rest: bytes) -> bool:
        matcher = self._matcher_after(trigger)
        tokens = self._tokenizer.tokenize_bytes(rest)
        return bool(matcher.deep_copy().try_consume_tokens(tokens) == len(tokens))


class LazyConstraint(Constraint):
    """One reply's state under a lazy grammar. See ``Constraint``."""

    __slots__ = ("_after_call", "_budget", "_call", "_grammar", "_jump_forward_in_calls", "_state")

    def __init__(self, grammar: LazyGrammar, *, jump_forward: bool) -> None:
        self._grammar = grammar
        self._jump_forward_in_calls = jump_forward
        self._state: WatcherState = grammar.watcher.first
        self._after_call: WatcherState = grammar.watcher.first
        self._call: Constraint | None = None
        self._budget = MaskBudget()  # One for all calls of the reply.
        self.finished = False

    @property
    def unconstrained(self) -> bool:
        """See ``Constraint``."""
        return self._call is None

    @property
    def slow(self) -> bool:
        """See ``Constraint``."""
        return self._call is not None and self._call.slow

    @property
    def ready(self) -> bool:
        """See ``Constraint``."""
        return self._call is None or self._call.ready

    @property
    def last_seconds(self) -> float:  # type: ignore[override]  # the call's
        """See ``Constraint``."""
        return 0.0 if self._call is None else self._call.last_seconds

    def compute(self) -> None:
        """See ``Constraint``."""
        if self._call is not None:
            self._call.compute()
            self._end_call()

    def compute_or_fail(self) -> None:
        """See ``Constraint``."""
        if self._call is not None:
            self._call.compute_or_fail()
            self._end_call()

    def cancel(self) -> None:
        """See ``Constraint``."""
        if (call := self._call) is not None:
            call.cancel()

    def defer(self, token: int) -> None:
        """See ``Constraint``."""
        assert self._call is not None
        self._call.defer(token)

    def mask(self) -> Mask | None:
        """See ``Constraint``."""
        if self._call is None:
            return self._grammar.watcher.mask(self._state)
        try:
            return self._call.mask()
        except GrammarError as error:
            self._give_up(error)
            return None

    def accept(self, token: int) -> list[int]:
        """See ``Constraint``."""
        call, forced = self._call, []
        if call is not None:
            try:
                forced = call.accept(token)
            except GrammarError as error:
                self._give_up(error)
                return []
        else:
            watcher = self._grammar.watcher
            found = watcher.step(self._state, token)
            if isinstance(found, WatcherState):
                self._state = found
                return forced
            self._after_call = watcher.start(watcher.triggers[found.trigger].next_mode)
            call, forced = self._grammar.begin_call(found, self._budget, jump_forward=self._jump_forward_in_calls)
            self._call = call
        self._end_call()
        return forced

    def _end_call(self) -> None:
        """Go on without constraint if the call is at its end."""
        if self._call is not None and self._call.finished:
            self._call, self._state = None, self._after_call

    def resume(self, reply_start: bytes) -> None:
        """Follow the part of the reply that the prompt has. A call in it that breaks the grammar isn't constrained."""
        watcher = self._grammar.watcher
        while reply_start:
            found = watcher.follow(self._state, reply_start)
            if isinstance(found, WatcherState):
                self._state = found
                return
            self._after_call = watcher.start(watcher.triggers[found.trigger].next_mode)
            call, taken = self._grammar.enter_call(found, self._budget, jump_forward=self._jump_forward_in_calls)
            reply_start = found.rest[taken:]
            if not reply_start and not call.finished:
                self._call = call
                return
            self._state = self._after_call

    def _give_up(self, error: GrammarError) -> None:
        """Go on without the grammar, which can't be followed any further, if it is optional. Raises GrammarError."""
        if not self._grammar.optional:
            raise error
        structlog.get_logger().warning("a call is no longer constrained by its grammar", error=str(error))
        self._call, self._state = None, self._after_call
