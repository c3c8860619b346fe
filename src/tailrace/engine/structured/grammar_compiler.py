"""Compiles grammars beside the loop: each is tried in the sandbox, compiled once, cached, and copied for each reply.

Small grammars have a lane of their own, with little time for each. Large ones, and small ones that take longer, are
compiled in the other lane, whose thread and processes stand back behind the model's threads. A lane takes turns between
callers. A grammar that no request waits for any more leaves its lane, or its process is killed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
import structlog
from llguidance import LLMatcher, LLTokenizer

from tailrace.engine.backends.base import Backend
from tailrace.engine.caller_queue import CallerQueue
from tailrace.engine.structured.constraint import Constraint, Mask
from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.structured.grammar_sandbox import (
    CPU_SECONDS,
    GrammarSandbox,
    GrammarTooCostly,
    Trial,
    TrialCancelled,
)
from tailrace.engine.structured.lazy_grammar import LazyGrammar
from tailrace.engine.structured.matcher import check, compile_grammar, make_tokenizer
from tailrace.engine.structured.sandbox_messages import TryResult
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.engine.structured.unique_keys import KeyTokens, UniqueKeys, has_open_objects
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.generation_params import Grammar
from tailrace.own_process.thread_name import name_thread
from tailrace.own_process.thread_priority import lower_priority
from tailrace.protocol import EngineCounters

#: Bytes of a grammar's text.
MAX_GRAMMAR_BYTES = 262_144
#: Grammars and refusals in the cache, and the memory that they may take together. Most take less than a megabyte; the
#: sandbox allows 64.
_CACHED = 32
_CACHED_BYTES = 256 * 1024**2
#: The compiling threads' stacks. The sandbox has the usual 8 MB: what passes there fits here.
_STACK = 64 * 1024**2
#: Bytes of a grammar that is tried in the quick lane first, and its seconds of CPU there. Usual ones take 10 ms.
_QUICK_BYTES = 16_384
_QUICK_CPU_SECONDS = 0.25
#: How far the processes of the other lane stand back: they get about 1.5 % of a core that the model also wants.
_NICE = 19


class ReplyGrammar(NamedTuple):
    """A compiled grammar of a whole reply. ``key_tokens``: only where its objects may be open. ``first_mask``: that of
    the reply's start. ``mask_seconds``: what a mask takes.
    """

    matcher: LLMatcher
    key_tokens: KeyTokens | None
    first_mask: Mask | None = None
    mask_seconds: float = 0.0


#: A compiled grammar, or the reason why there is none.
CompileOutcome = ReplyGrammar | LazyGrammar | GrammarError | CompilerUnavailable
OnCompiled = Callable[[CompileOutcome], None]


class _Job:
    """A grammar that waits for a lane or is in it. Requests with the same grammar share a job."""

    def __init__(self, grammar: Grammar, caller: str) -> None:
        self.grammar = grammar
        self.caller = caller  #: the first request's
        self.size = len(grammar.text) + len(grammar.fallback or "")
        self.callbacks: dict[int, OnCompiled] = {}  #: by the request's id
        self.trial = Trial()


class _Lane:
    """A thread, its queue and its sandbox. A sandbox has the priority of the thread that starts it."""

    def __init__(self, name: str, cpu_seconds: float, nice: int, sandbox: GrammarSandbox) -> None:
        self.name = name
        self.sandbox = sandbox
        self.cpu_seconds = cpu_seconds
        self.nice = nice
        self.queue: CallerQueue[_Job] = CallerQueue(lambda job: job.size)
        self.thread: threading.Thread | None = None


class GrammarCompiler:
    """One for a model. Any thread may call ``request`` and ``cancel``; threads of this object compile."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.counters = EngineCounters()  #: grammars_compiled and grammar_seconds
        self._end_tokens = sorted(backend.end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._token_index: TokenIndex | None = None
        self._key_tokens: KeyTokens | None = None
        self._tables = threading.Lock()  #: for making the three above
        #: Least recently used first, with the bytes of memory that it takes.
        self._cache: OrderedDict[Grammar, tuple[CompileOutcome, int]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Condition()
        self._jobs: dict[Grammar, _Job] = {}  #: all of them
        self._job_of: dict[int, _Job] = {}  #: by the request's id
        self._quick = _Lane("grammars", _QUICK_CPU_SECONDS, 0, self._make_sandbox())
        self._patient = _Lane("large grammars", CPU_SECONDS, _NICE, self._make_sandbox())

    def _make_sandbox(self) -> GrammarSandbox:
        return GrammarSandbox(self._backend.vocabulary, self._end_tokens)

    def prepare(self) -> None:
        """Make llguidance's tokenizer now, unless a grammar has done so. No other thread runs meanwhile, which takes a
        second for a large vocabulary: so it isn't left to the first grammar.
        """
        if self._end_tokens:
            self._grammar_tokenizer()

    def request(self, identity: int, caller: str, grammar: Grammar, done: OnCompiled) -> None:
        """Call ``done`` with the compiled grammar, or with the reason why there is none: at once where that is known,
        else later on another thread.
        """
        grammar = _without_reply_start(grammar)
        outcome = self._cached(grammar)
        if outcome is None and grammar.triggers is None and len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
            outcome = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        if outcome is None and not self._end_tokens:
            outcome = GrammarError("this model has no end token, without which no grammar can be kept to")
        if outcome is None:
            outcome = self._queue(identity, caller, grammar, done)
        if outcome is not None:
            done(outcome)

    def cancel(self, identity: int) -> None:
        """The request's grammar isn't wanted any more. Its ``done`` may still be called if the call is imminent."""
        with self._lock:
            job = self._job_of.pop(identity, None)
            if job is None:
                return
            job.callbacks.pop(identity, None)
            if job.callbacks:
                return
            del self._jobs[job.grammar]
            for lane in (self._quick, self._patient):
                lane.queue.remove(job.caller, job)
        job.trial.cancel()

    def constraint(
        self, compiled: ReplyGrammar | LazyGrammar, *, jump_forward: bool, reply_start: str = ""
    ) -> Constraint:
        """One reply's state, at the grammar's start. A lazy grammar has read ``reply_start``, which the prompt has."""
        if isinstance(compiled, LazyGrammar):
            return compiled.constraint(jump_forward=jump_forward, reply_start=reply_start)
        keys = None if compiled.key_tokens is None else UniqueKeys(compiled.key_tokens)
        matcher = compiled.matcher.deep_copy()
        return Constraint(
            matcher,
            len(self._backend.vocabulary),
            jump_forward=jump_forward,
            keys=keys,
            first_mask=compiled.first_mask,
            expected_seconds=compiled.mask_seconds,
        )

    def _queue(self, identity: int, caller: str, grammar: Grammar, done: OnCompiled) -> CompilerUnavailable | None:
        """Queue the grammar; the reason where no thread can take it."""
        with self._lock:
            job = self._jobs.get(grammar)
            if job is None:
                job = _Job(grammar, caller)
                lane = self._quick if job.size <= _QUICK_BYTES else self._patient
                failure = self._ensure_thread(lane)
                if failure is not None:
                    return failure
                self._jobs[grammar] = job
                lane.queue.add(caller, job)
                self._lock.notify_all()
            job.callbacks[identity] = done
            self._job_of[identity] = job
        return None

    def _ensure_thread(self, lane: _Lane) -> CompilerUnavailable | None:
        """Start the lane's thread, unless it runs; the reason where the system has no thread left."""
        if lane.thread is not None:
            return None
        before = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=self._run, args=(lane,), name=lane.name, daemon=True)
            thread.start()
        except RuntimeError as error:
            structlog.get_logger().error("no thread for compiling grammars", error=str(error))
            return CompilerUnavailable(f"no thread can be started for compiling grammars: {error}")
        finally:
            threading.stack_size(before)
        lane.thread = thread
        return None

    def _run(self, lane: _Lane) -> None:
        name_thread(lane.name)
        if lane.nice:
            lower_priority(threading.get_native_id())
        while True:
            with self._lock:
                while (job := lane.queue.take()) is None:
                    self._lock.wait()
            outcome = self._outcome(job, lane)
            if outcome is not None:
                self._deliver(job, outcome)

    def _deliver(self, job: _Job, outcome: CompileOutcome) -> None:
        with self._lock:
            if self._jobs.get(job.grammar) is job:
                del self._jobs[job.grammar]
            callbacks = list(job.callbacks.items())
            job.callbacks.clear()
            for identity, _ in callbacks:
                self._job_of.pop(identity, None)
        for _, done in callbacks:
            try:
                done(outcome)
            except BaseException:
                # A defect of the caller's callbacks. Other requests' grammars go on.
                structlog.get_logger().exception("a compiled grammar can't be delivered", kind=job.grammar.kind)

    def _outcome(self, job: _Job, lane: _Lane) -> CompileOutcome | None:
        """The cached outcome, or a new one. None where the job was cancelled, or goes to the other lane. A failure that
        isn't the grammar's is not cached.
        """
        grammar = job.grammar
        outcome = self._cached(grammar)
        if outcome is not None:
            return outcome
        begun = time.perf_counter()
        try:
            outcome, size = self._compile_or_fall_back(job, lane)
        except TrialCancelled:
            return None
        except GrammarTooCostly:
            with self._lock:
                failure = self._ensure_thread(self._patient)
                if failure is None and job.callbacks:
                    self._patient.queue.add(job.caller, job)
                    self._lock.notify_all()
            return failure
        except CompilerUnavailable as error:
            structlog.get_logger().error("a grammar can't be compiled now", kind=grammar.kind, error=str(error))
            return error
        except BaseException as error:
            structlog.get_logger().exception("compiling a grammar has failed", kind=grammar.kind)
            return CompilerUnavailable(f"compiling the grammar has failed: {error!r}")
        finally:
            self.counters.grammars_compiled += 1
            self.counters.grammar_seconds += time.perf_counter() - begun
        self._store(grammar, outcome, size)
        return outcome

    def _compile_or_fall_back(self, job: _Job, lane: _Lane) -> tuple[CompileOutcome, int]:
        """The outcome, and the bytes of memory that it takes. Raises GrammarTooCostly in the quick lane."""
        grammar = job.grammar
        if grammar.fallback is None:
            return self._compile(grammar, job.trial, lane)
        # Calls are held to their schemas, or at least to the functions' names.
        outcome: CompileOutcome = GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        size = 0
        for text in (grammar.text, grammar.fallback):
            if len(text.encode()) <= MAX_GRAMMAR_BYTES:
                outcome, size = self._compile(
                    msgspec.structs.replace(grammar, text=text, fallback=None), job.trial, lane
                )
            if not isinstance(outcome, GrammarError):
                break
        return outcome, size

    def _compile(self, grammar: Grammar, trial: Trial, lane: _Lane) -> tuple[CompileOutcome, int]:
        try:
            result = lane.sandbox.attempt(grammar, trial, cpu_seconds=lane.cpu_seconds, nice=lane.nice)
            compiled = self._compile_tried(grammar, result)
        except GrammarTooCostly as error:
            if lane is self._quick:
                raise
            return error, 0
        except GrammarError as error:
            structlog.get_logger().debug("a grammar was refused", kind=grammar.kind, error=str(error))
            return error, 0
        if trial.cancelled:
            raise TrialCancelled
        return compiled, result.memory_bytes

    def _compile_tried(self, grammar: Grammar, result: TryResult) -> ReplyGrammar | LazyGrammar:
        """Compile a grammar that has passed the sandbox. Raises GrammarError."""
        assert result.document is not None
        tokenizer = self._grammar_tokenizer()
        matcher = compile_grammar(tokenizer, result.document)
        key_tokens = self._tokens_of_keys() if _writes_open_json(grammar, result.document) else None
        if grammar.triggers is None:
            first_mask: Mask = np.empty((len(self._backend.vocabulary) + 31) // 32, np.uint32)
            matcher.unsafe_compute_mask_ptr(first_mask.ctypes.data, first_mask.nbytes)
            check(matcher)
            return ReplyGrammar(matcher, key_tokens, first_mask, result.mask_seconds)
        return LazyGrammar(
            matcher,
            tokenizer,
            grammar.triggers,
            self._index(),
            key_tokens,
            expected_seconds=result.mask_seconds,
        )

    def _grammar_tokenizer(self) -> LLTokenizer:
        with self._tables:
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(self._backend.vocabulary, self._end_tokens, self._tokenize_forced)
            return self._tokenizer

    def _tokenize_forced(self, text: str) -> list[int]:
        """Text that a grammar forces, by the model's own tokenizer; empty where that isn't safe in this process."""
        safe = self._backend.can_tokenize_inline([TokenizerInput(text, parse_special=False, add_special=False)])
        return self._backend.tokenize_fragment(text) if safe else []

    def _index(self) -> TokenIndex:
        with self._tables:
            if self._token_index is None:
                self._token_index = TokenIndex(self._backend.vocabulary)
            return self._token_index

    def _tokens_of_keys(self) -> KeyTokens:
        index = self._index()
        with self._tables:
            if self._key_tokens is None:
                self._key_tokens = KeyTokens(index)
            return self._key_tokens

    def _cached(self, grammar: Grammar) -> CompileOutcome | None:
        with self._lock:
            found = self._cache.get(grammar)
            if found is None:
                return None
            self._cache.move_to_end(grammar)
            return found[0]

    def _store(self, grammar: Grammar, outcome: CompileOutcome, size: int) -> None:
        with self._lock:
            _, before = self._cache.pop(grammar, (None, 0))
            self._cache[grammar] = outcome, size
            self._cached_bytes += size - before
            while len(self._cache) > _CACHED or (self._cached_bytes > _CACHED_BYTES and len(self._cache) > 1):
                _, (_, evicted) = self._cache.popitem(last=False)
                self._cached_bytes -= evicted


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
