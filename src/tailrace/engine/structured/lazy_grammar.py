"""A reply that is free but for its calls: from a call's marker to the call's end a grammar holds it."""

from __future__ import annotations

import structlog
from llguidance import LLMatcher, LLTokenizer

from tailrace.engine.structured.constraint import Constraint, Mask
from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.engine.structured.matcher import check
from tailrace.engine.structured.trigger_watcher import TokenIndex, TriggerHit, TriggerWatcher, WatcherState
from tailrace.engine.structured.unique_keys import KeyTokens, UniqueKeys
from tailrace.protocol import Watch


class LazyGrammar:
    """A compiled grammar of calls with its watch. Replies have copies of their own of what changes."""

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        watch: Watch,
        tokens: TokenIndex,
        vocabulary: KeyTokens | None = None,
    ) -> None:
        """``vocabulary``: where arguments' objects may be open."""
        self._vocabulary = vocabulary
        self._tokenizer = tokenizer
        self._size = len(tokens.pieces)
        self.optional = watch.optional
        self._matcher = matcher
        self._begun: dict[tuple[str | int, ...], LLMatcher] = {}  #: by what has been written of the call
        self.watcher = TriggerWatcher(watch, tokens, self._accepts)
        self.watcher.prepare()

    def constraint(self, *, fast_forward: bool, begun: str = "") -> LazyConstraint:
        """A reply's own state, at its beginning, or behind what the prompt has ``begun``."""
        constraint = LazyConstraint(self, fast_forward=fast_forward)
        if begun:
            constraint.resume(begun.encode("utf-8", "surrogatepass"))
        return constraint

    def begun(self, hit: TriggerHit, *, fast_forward: bool) -> tuple[Constraint, list[int]]:
        """The constraint of the call that ``hit`` has begun, and the tokens that must follow."""
        constraint, taken = self.entered(hit, fast_forward=fast_forward)
        if taken != len(hit.rest):
            raise AssertionError(f"the call's grammar doesn't allow {hit.rest!r}")
        return constraint, constraint.force()

    def entered(self, hit: TriggerHit, *, fast_forward: bool) -> tuple[Constraint, int]:
        """The same behind so many bytes of ``hit.rest`` as the grammar allows. Nothing is forced."""
        matcher = self._begin(hit.trigger).deep_copy()
        rest = self._tokenizer.tokenize_bytes(hit.rest) if hit.rest else []
        count = matcher.try_consume_tokens(rest)
        taken = len(self._tokenizer.decode_bytes(rest[:count]))
        keys = None
        if self._vocabulary is not None:
            keys = UniqueKeys(self._vocabulary)
            for piece in self.watcher.triggers[hit.trigger].opens:
                keys.feed(piece.encode() if isinstance(piece, str) else b"")
            keys.feed(hit.rest[:taken])
        constraint = Constraint(matcher, self._size, fast_forward=fast_forward, keys=keys)
        constraint.finished = matcher.is_stopped()
        return constraint, taken

    def _begin(self, trigger: int) -> LLMatcher:
        """The grammar behind the trigger's text."""
        opens = self.watcher.triggers[trigger].opens
        begun = self._begun.get(opens)
        if begun is not None:
            return begun
        begun = self._matcher.deep_copy()
        for piece in opens:
            tokens = [piece] if isinstance(piece, int) else self._tokenizer.tokenize_bytes(piece.encode())
            if begun.try_consume_tokens(tokens) != len(tokens):
                check(begun)
                raise GrammarError(f"no call begins with {piece!r}")
        self._begun[opens] = begun
        return begun

    def _accepts(self, trigger: int, rest: bytes) -> bool:
        matcher = self._begin(trigger)
        tokens = self._tokenizer.tokenize_bytes(rest)
        return bool(matcher.deep_copy().try_consume_tokens(tokens) == len(tokens))


class LazyConstraint(Constraint):
    """One reply's state. See ``Constraint``."""

    __slots__ = ("_after", "_call", "_calls", "_fast_forward", "_state")

    def __init__(self, calls: LazyGrammar, *, fast_forward: bool) -> None:
        self._calls = calls
        self._fast_forward = fast_forward
        self._state: WatcherState = calls.watcher.first
        self._after: WatcherState = calls.watcher.first
        self._call: Constraint | None = None
        self.finished = False

    @property
    def free(self) -> bool:
        """See ``Constraint``."""
        return self._call is None

    def compute(self) -> None:
        """See ``Constraint``."""
        if self._call is not None:
            self._call.compute()

    def mask(self) -> Mask | None:
        """See ``Constraint``."""
        if self._call is None:
            return self._calls.watcher.mask(self._state)
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
            found = self._calls.watcher.step(self._state, token)
            if isinstance(found, WatcherState):
                self._state = found
                return forced
            self._after = self._calls.watcher.start(self._calls.watcher.triggers[found.trigger].goes)
            call, forced = self._calls.begun(found, fast_forward=self._fast_forward)
            self._call = call
        if call.finished:
            self._call, self._state = None, self._after
        return forced

    def resume(self, begun: bytes) -> None:
        """Go behind what the prompt has of the reply. A call in it that isn't as the grammar has it isn't held."""
        watcher = self._calls.watcher
        while begun:
            found = watcher.read(self._state, begun)
            if isinstance(found, WatcherState):
                self._state = found
                return
            self._after = watcher.start(watcher.triggers[found.trigger].goes)
            call, taken = self._calls.entered(found, fast_forward=self._fast_forward)
            begun = found.rest[taken:]
            if not begun and not call.finished:
                self._call = call
                return
            self._state = self._after

    def _give_up(self, error: GrammarError) -> None:
        """Go on without the grammar, which has become too complex, unless that was promised."""
        if not self._calls.optional:
            raise error
        structlog.get_logger().warning("a call is no longer held by its grammar", error=str(error))
        self._call, self._state = None, self._after
