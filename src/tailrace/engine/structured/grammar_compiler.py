"""Grammars to constraints, beside the loop: tried in the sandbox, compiled once, remembered, copied for each reply."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog
from llguidance import LLMatcher, LLTokenizer

from tailrace.engine.backends.base import Backend
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_sandbox import GrammarSandbox
from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.engine.structured.lazy_grammar import LazyGrammar
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.structured.trigger_watcher import TokenIndex
from tailrace.engine.structured.unique_keys import KeyTokens, UniqueKeys, has_open_objects
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.protocol import Grammar

#: Bytes of a grammar's text.
MAX_GRAMMAR_BYTES = 262_144
#: Grammars, and refusals, that are remembered. Most take less than a megabyte; the sandbox lets none take over 64.
_REMEMBERED = 32
#: The compiling thread's stack. The sandbox has the usual 8 MB: what passes there has room here.
_STACK = 64 * 1024**2


#: Text that is compiled in a second, roughly.
_BYTES_A_SECOND = 50_000


class ReplyGrammar(NamedTuple):
    """A compiled grammar of a whole reply; ``vocabulary`` where its objects may be open."""

    matcher: LLMatcher
    vocabulary: KeyTokens | None


#: A compiled grammar, or why there is none.
CompileOutcome = ReplyGrammar | LazyGrammar | GrammarError
OnCompiled = Callable[[CompileOutcome], None]
IsWanted = Callable[[], bool]


class GrammarCompiler:
    """One for a model. ``request`` may be called by any thread; compiling has a thread of its own."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._end_tokens = sorted(backend.end_tokens)
        self._sandbox = GrammarSandbox(backend.vocabulary, self._end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._tokens: TokenIndex | None = None
        self._vocabulary: KeyTokens | None = None
        self._known: OrderedDict[Grammar, CompileOutcome] = OrderedDict()  #: least recently used first
        self._lock = threading.Lock()
        self._work: queue.PriorityQueue[tuple[float, int, Grammar, OnCompiled, IsWanted]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def request(self, grammar: Grammar, done: OnCompiled, wanted: IsWanted = lambda: True) -> None:
        """Call ``done`` with the grammar's matcher or with why there is none: at once when that is known, else later on
        the compiling thread, unless it isn't ``wanted`` any more when its turn comes.

        A small grammar passes a large one that came shortly before it: clients don't wait for each other's schemas.
        """
        grammar = _without_beginning(grammar)
        known = self._recall(grammar)
        if known is None and grammar.watch is None and len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
            known = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        if known is None and not self._end_tokens:
            known = GrammarError("this model has no end token, without which no grammar can be kept to")
        if known is not None:
            done(known)
            return
        with self._lock:
            if self._thread is None:
                before = threading.stack_size(_STACK)
                self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
                self._thread.start()
                threading.stack_size(before)
        turn = time.monotonic() + len(grammar.text) / _BYTES_A_SECOND
        self._work.put((turn, next(self._numbers), grammar, done, wanted))

    def constraint(self, compiled: ReplyGrammar | LazyGrammar, *, fast_forward: bool, begun: str = "") -> Constraint:
        """A reply's own state, at the grammar's start, or behind what the prompt has ``begun`` of a watched reply."""
        if isinstance(compiled, LazyGrammar):
            return compiled.constraint(fast_forward=fast_forward, begun=begun)
        keys = None if compiled.vocabulary is None else UniqueKeys(compiled.vocabulary)
        matcher = compiled.matcher.deep_copy()
        return Constraint(matcher, len(self._backend.vocabulary), fast_forward=fast_forward, keys=keys)

    def _run(self) -> None:
        while True:
            _, _, grammar, done, wanted = self._work.get()
            if not wanted():
                continue
            result = self._recall(grammar)
            if result is None:
                result = self._compile(grammar)
                self._remember(grammar, result)
            done(result)

    def _compile(self, grammar: Grammar) -> CompileOutcome:
        if grammar.simpler is None:
            return self._compiled(grammar)
        # What calls may be worth holding to is tried in turn: their schemas, then their names alone.
        result: CompileOutcome = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        for text in (grammar.text, grammar.simpler):
            if len(text.encode()) <= MAX_GRAMMAR_BYTES:
                result = self._compiled(msgspec.structs.replace(grammar, text=text, simpler=None))
            if not isinstance(result, GrammarError):
                break
        return result

    def _compiled(self, grammar: Grammar) -> CompileOutcome:
        try:
            document = self._sandbox.document(grammar)
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(self._backend.vocabulary, self._end_tokens, self._cut)
            matcher = compile_grammar(self._tokenizer, document)
            vocabulary = self._key_vocabulary() if _writes_open_json(grammar, document) else None
            if grammar.watch is None:
                return ReplyGrammar(matcher, vocabulary)
            return LazyGrammar(matcher, self._tokenizer, grammar.watch, self._known_tokens(), vocabulary)
        except GrammarError as error:
            structlog.get_logger().debug("a grammar was refused", kind=grammar.kind, error=str(error))
            return error

    def _cut(self, text: str) -> list[int]:
        """Text that a grammar forces, as the model's own tokenizer cuts it; nothing where that isn't safe."""
        short = self._backend.can_tokenize_inline([TokenizerInput(text, parse_special=False, add_special=False)])
        return self._backend.tokenize_fragment(text) if short else []

    def _known_tokens(self) -> TokenIndex:
        if self._tokens is None:
            self._tokens = TokenIndex(self._backend.vocabulary)
        return self._tokens

    def _key_vocabulary(self) -> KeyTokens:
        if self._vocabulary is None:
            self._vocabulary = KeyTokens(self._known_tokens())
        return self._vocabulary

    def _recall(self, grammar: Grammar) -> CompileOutcome | None:
        with self._lock:
            known = self._known.get(grammar)
            if known is not None:
                self._known.move_to_end(grammar)
            return known

    def _remember(self, grammar: Grammar, result: CompileOutcome) -> None:
        with self._lock:
            self._known[grammar] = result
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _writes_open_json(grammar: Grammar, document: str) -> bool:
    """Whether the reply's JSON may have keys that the grammar doesn't name. Not told of what may have other text that
    looks like JSON: a thought before it, and strings without quotes.
    """
    if grammar.kind not in ("json_schema", "calls") or "until_" in document or "[suffix=" in document:
        return False
    return has_open_objects(document)


def _without_beginning(grammar: Grammar) -> Grammar:
    """The grammar as it is compiled: what a reply has begun with is that reply's own."""
    if grammar.watch is None or not grammar.watch.begun:
        return grammar
    return msgspec.structs.replace(grammar, watch=msgspec.structs.replace(grammar.watch, begun=""))
