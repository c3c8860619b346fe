"""Compiles grammars beside the loop: each is tried in the sandbox, compiled once, cached, and copied for each reply."""

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
from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.structured.grammar_sandbox import GrammarSandbox
from tailrace.engine.structured.lazy_grammar import LazyGrammar
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.engine.structured.unique_keys import KeyTokens, UniqueKeys, has_open_objects
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.machine.thread_name import name_thread
from tailrace.protocol import EngineCounters, Grammar

#: Bytes of a grammar's text.
MAX_GRAMMAR_BYTES = 262_144
#: Grammars and refusals in the cache. Most take less than a megabyte; the sandbox allows 64.
_CACHED = 32
#: The compiling thread's stack. The sandbox has the usual 8 MB: what passes there fits here.
_STACK = 64 * 1024**2
#: Bytes of grammar that compile in a second, roughly.
_BYTES_PER_SECOND = 50_000


class ReplyGrammar(NamedTuple):
    """A compiled grammar of a whole reply. ``key_tokens``: only where its objects may be open."""

    matcher: LLMatcher
    key_tokens: KeyTokens | None


#: A compiled grammar, or the reason why there is none.
CompileOutcome = ReplyGrammar | LazyGrammar | GrammarError | CompilerUnavailable
OnCompiled = Callable[[CompileOutcome], None]
IsWanted = Callable[[], bool]


class _Job(NamedTuple):
    """A grammar that waits for the compiling thread; the smallest ``due`` comes first."""

    due: float
    number: int
    grammar: Grammar
    done: OnCompiled
    is_wanted: IsWanted


class GrammarCompiler:
    """One for a model. Any thread may call ``request``; a thread of this object compiles."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.counters = EngineCounters()  #: grammars_compiled and grammar_seconds
        self._end_tokens = sorted(backend.end_tokens)
        self._sandbox = GrammarSandbox(backend.vocabulary, self._end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._token_index: TokenIndex | None = None
        self._key_tokens: KeyTokens | None = None
        self._cache: OrderedDict[Grammar, CompileOutcome] = OrderedDict()  #: least recently used first
        self._lock = threading.Lock()
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def request(self, grammar: Grammar, done: OnCompiled, is_wanted: IsWanted = lambda: True) -> None:
        """Call ``done`` with the compiled grammar, or with the reason why there is none: at once where that is known,
        else later on the compiling thread. A grammar that isn't wanted any more is skipped there.

        A small grammar passes a large one that came shortly before it.
        """
        grammar = _without_reply_start(grammar)
        outcome = self._cached(grammar)
        if outcome is None and grammar.triggers is None and len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
            outcome = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        if outcome is None and not self._end_tokens:
            outcome = GrammarError("this model has no end token, without which no grammar can be kept to")
        if outcome is None:
            outcome = self._start_thread()
        if outcome is not None:
            done(outcome)
            return
        due = time.monotonic() + len(grammar.text) / _BYTES_PER_SECOND
        self._jobs.put(_Job(due, next(self._numbers), grammar, done, is_wanted))

    def constraint(
        self, compiled: ReplyGrammar | LazyGrammar, *, jump_forward: bool, reply_start: str = ""
    ) -> Constraint:
        """One reply's state, at the grammar's start. A lazy grammar has read ``reply_start``, which the prompt has."""
        if isinstance(compiled, LazyGrammar):
            return compiled.constraint(jump_forward=jump_forward, reply_start=reply_start)
        keys = None if compiled.key_tokens is None else UniqueKeys(compiled.key_tokens)
        matcher = compiled.matcher.deep_copy()
        return Constraint(matcher, len(self._backend.vocabulary), jump_forward=jump_forward, keys=keys)

    def _start_thread(self) -> CompilerUnavailable | None:
        """Start the compiling thread, unless it runs; the reason where the system has no thread left."""
        with self._lock:
            if self._thread is not None:
                return None
            before = threading.stack_size(_STACK)
            try:
                thread = threading.Thread(target=self._run, name="grammars", daemon=True)
                thread.start()
            except RuntimeError as error:
                structlog.get_logger().error("no thread for compiling grammars", error=str(error))
                return CompilerUnavailable(f"no thread can be started for compiling grammars: {error}")
            finally:
                threading.stack_size(before)
            self._thread = thread
            return None

    def _run(self) -> None:
        name_thread("grammars")
        while True:
            job = self._jobs.get()
            try:
                if job.is_wanted():
                    job.done(self._outcome(job.grammar))
            except BaseException:
                # A defect of the caller's callbacks. Other requests' grammars go on.
                structlog.get_logger().exception("a compiled grammar can't be delivered", kind=job.grammar.kind)

    def _outcome(self, grammar: Grammar) -> CompileOutcome:
        """The cached outcome, or a new one. A failure that isn't the grammar's is not cached."""
        outcome = self._cached(grammar)
        if outcome is not None:
            return outcome
        begun = time.perf_counter()
        try:
            outcome = self._compile_or_fall_back(grammar)
        except CompilerUnavailable as error:
            structlog.get_logger().error("a grammar can't be compiled now", kind=grammar.kind, error=str(error))
            return error
        except BaseException as error:
            structlog.get_logger().exception("compiling a grammar has failed", kind=grammar.kind)
            return CompilerUnavailable(f"compiling the grammar has failed: {error!r}")
        finally:
            self.counters.grammars_compiled += 1
            self.counters.grammar_seconds += time.perf_counter() - begun
        self._store(grammar, outcome)
        return outcome

    def _compile_or_fall_back(self, grammar: Grammar) -> CompileOutcome:
        if grammar.fallback is None:
            return self._compile(grammar)
        # Calls are held to their schemas, or at least to the functions' names.
        outcome: CompileOutcome = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        for text in (grammar.text, grammar.fallback):
            if len(text.encode()) <= MAX_GRAMMAR_BYTES:
                outcome = self._compile(msgspec.structs.replace(grammar, text=text, fallback=None))
            if not isinstance(outcome, GrammarError):
                break
        return outcome

    def _compile(self, grammar: Grammar) -> CompileOutcome:
        try:
            document = self._sandbox.document(grammar)
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(self._backend.vocabulary, self._end_tokens, self._tokenize_forced)
            matcher = compile_grammar(self._tokenizer, document)
            key_tokens = self._tokens_of_keys() if _writes_open_json(grammar, document) else None
            if grammar.triggers is None:
                return ReplyGrammar(matcher, key_tokens)
            return LazyGrammar(matcher, self._tokenizer, grammar.triggers, self._index(), key_tokens)
        except GrammarError as error:
            structlog.get_logger().debug("a grammar was refused", kind=grammar.kind, error=str(error))
            return error

    def _tokenize_forced(self, text: str) -> list[int]:
        """Text that a grammar forces, by the model's own tokenizer; empty where that isn't safe in this process."""
        safe = self._backend.can_tokenize_inline([TokenizerInput(text, parse_special=False, add_special=False)])
        return self._backend.tokenize_fragment(text) if safe else []

    def _index(self) -> TokenIndex:
        if self._token_index is None:
            self._token_index = TokenIndex(self._backend.vocabulary)
        return self._token_index

    def _tokens_of_keys(self) -> KeyTokens:
        if self._key_tokens is None:
            self._key_tokens = KeyTokens(self._index())
        return self._key_tokens

    def _cached(self, grammar: Grammar) -> CompileOutcome | None:
        with self._lock:
            outcome = self._cache.get(grammar)
            if outcome is not None:
                self._cache.move_to_end(grammar)
            return outcome

    def _store(self, grammar: Grammar, outcome: CompileOutcome) -> None:
        with self._lock:
            self._cache[grammar] = outcome
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)


def _writes_open_json(grammar: Grammar, document: str) -> bool:
    """Whether the reply's JSON may have keys that the grammar doesn't name. False where other text may look like JSON:
    a thought before it, or strings without quotes.
    """
    if grammar.kind not in ("json_schema", "calls") or "until_" in document or "[suffix=" in document:
        return False
    return has_open_objects(document)


def _without_reply_start(grammar: Grammar) -> Grammar:
    """The grammar as it is compiled: the start of a reply is that reply's own."""
    if grammar.triggers is None or not grammar.triggers.reply_start:
        return grammar
    return msgspec.structs.replace(grammar, triggers=msgspec.structs.replace(grammar.triggers, reply_start=""))
