"""The grammar compiler: grammars are remembered, replies share no state, and no failure ends the compiling thread."""

from __future__ import annotations

import queue
import subprocess
import threading

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.structured import grammar_compiler
from tailrace.engine.structured.grammar_compiler import (
    MAX_GRAMMAR_BYTES,
    CompileOutcome,
    GrammarCompiler,
    ReplyGrammar,
)
from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.structured.grammar_sandbox import GrammarTooCostly, Trial, TrialCancelled
from tailrace.engine.structured.sandbox_messages import TryResult
from tailrace.generation_params import Grammar

BACKEND = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
YES = Grammar(kind="choice", text='["yes"]')
NO = Grammar(kind="choice", text='["no"]')


def compiled(compiler: GrammarCompiler, grammar: Grammar) -> CompileOutcome:
    """What the compiler answers; fails where it doesn't."""
    answers: queue.SimpleQueue[CompileOutcome] = queue.SimpleQueue()
    compiler.request(1, "", grammar, answers.put)
    return answers.get(timeout=20)


def test_grammars_and_refusals_are_remembered() -> None:
    compiler = GrammarCompiler(BACKEND)
    wrong = Grammar(kind="regex", text="(")
    assert compiled(compiler, YES) is compiled(compiler, YES)
    refusal = compiled(compiler, wrong)
    assert isinstance(refusal, GrammarError)
    assert compiled(compiler, wrong) is refusal
    for number in range(40):
        compiled(compiler, Grammar(kind="choice", text=f'["{number}"]'))
    assert compiled(compiler, wrong) is not refusal, "the least recently used are forgotten"


def test_compiled_grammars_are_counted_and_timed() -> None:
    compiler = GrammarCompiler(BACKEND)
    for grammar in (YES, YES, Grammar(kind="regex", text="(")):
        compiled(compiler, grammar)
    assert compiler.counters.grammars_compiled == 2, "one was in the cache"
    assert compiler.counters.grammar_seconds > 0


def test_replies_of_one_grammar_share_no_state() -> None:
    compiler = GrammarCompiler(BACKEND)
    grammar = compiled(compiler, Grammar(kind="regex", text="ab|cd"))
    assert isinstance(grammar, ReplyGrammar)
    first, second = (compiler.constraint(grammar, jump_forward=False) for _ in range(2))
    first.accept(ord("a"))
    assert first.accepts(b"b") == 1
    assert first.accepts(b"a") == 0
    assert second.accepts(b"a") == 1


def test_a_text_that_is_too_long_is_refused_at_once() -> None:
    refusal = compiled(GrammarCompiler(BACKEND), Grammar(kind="regex", text="a" * (MAX_GRAMMAR_BYTES + 1)))
    assert isinstance(refusal, GrammarError)
    assert str(MAX_GRAMMAR_BYTES) in str(refusal)


def test_a_sandbox_that_can_not_be_started_fails_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)

    def no_process(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", no_process)
        failure = compiled(compiler, YES)
    assert isinstance(failure, CompilerUnavailable)
    assert "Resource temporarily unavailable" in str(failure)
    # The failure is not the grammar's: it isn't remembered, and the thread goes on.
    assert isinstance(compiled(compiler, YES), ReplyGrammar)


def test_a_sandbox_that_dies_at_its_start_is_not_blamed_on_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/bin/false")
        failure = compiled(compiler, YES)
    assert isinstance(failure, CompilerUnavailable)
    assert isinstance(compiled(compiler, YES), ReplyGrammar)


@pytest.mark.parametrize("defect", [ValueError("a defect"), MemoryError(), KeyboardInterrupt()], ids=repr)
def test_a_defect_of_the_compiler_fails_that_request_alone(
    monkeypatch: pytest.MonkeyPatch, defect: BaseException
) -> None:
    compiler = GrammarCompiler(BACKEND)

    def fail(*arguments: object) -> None:
        raise defect

    with monkeypatch.context() as patched:
        patched.setattr(grammar_compiler, "compile_grammar", fail)
        assert isinstance(compiled(compiler, YES), CompilerUnavailable)
    assert isinstance(compiled(compiler, YES), ReplyGrammar)


def test_a_callback_that_fails_does_not_end_the_thread() -> None:
    compiler = GrammarCompiler(BACKEND)
    called = threading.Event()

    def fail(outcome: CompileOutcome) -> None:
        called.set()
        raise ValueError("a defect of the caller")

    compiler.request(1, "", YES, fail)
    assert called.wait(20)
    assert isinstance(compiled(compiler, NO), ReplyGrammar)


def test_a_thread_that_can_not_be_started_fails_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)
    before = threading.stack_size()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        failure = compiled(compiler, YES)
    assert isinstance(failure, CompilerUnavailable)
    assert threading.stack_size() == before
    assert isinstance(compiled(compiler, YES), ReplyGrammar)


class Gate:
    """A sandbox whose trials wait until the gate is opened; those in ``costly`` take too much in the quick lane."""

    def __init__(self, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch, costly: str = "") -> None:
        self.order: list[str] = []
        self.begun: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        self.opened = threading.Event()
        self._sandbox = compiler._quick.sandbox
        self._attempt = compiler._quick.sandbox.attempt
        self._costly = costly
        for lane in (compiler._quick, compiler._patient):
            monkeypatch.setattr(lane.sandbox, "attempt", self)

    def __call__(self, grammar: Grammar, trial: Trial, *, cpu_seconds: float, nice: int) -> TryResult:
        self.begun.put(trial)
        if not nice and self._costly and self._costly in grammar.text:
            raise GrammarTooCostly("it takes too long")
        while not self.opened.wait(0.01) and not trial.cancelled:
            pass
        if trial.cancelled:
            raise TrialCancelled
        self.order.append(grammar.text[2:4])
        return self._attempt(grammar, trial, cpu_seconds=cpu_seconds, nice=nice)


def choice(name: str, characters: int = 1) -> Grammar:
    return Grammar(kind="choice", text=f'["{name}", "{"x" * characters}"]')


def test_callers_take_turns_and_cancelled_grammars_leave_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)
    gate = Gate(compiler, monkeypatch)
    answers: queue.SimpleQueue[CompileOutcome] = queue.SimpleQueue()
    for number in range(6):
        compiler.request(number, "greedy", choice(f"g{number}"), answers.put)
    first = gate.begun.get(timeout=20)
    compiler.request(10, "other", choice("o1"), answers.put)
    compiler.cancel(0)
    compiler.cancel(2)
    assert first.cancelled
    gate.opened.set()
    for _ in range(5):
        assert isinstance(answers.get(timeout=20), ReplyGrammar)
    assert gate.order.index("o1") <= 1
    assert sorted(gate.order) == ["g1", "g3", "g4", "g5", "o1"]
    assert answers.empty()


def test_a_small_grammar_passes_large_ones_and_one_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)
    gate = Gate(compiler, monkeypatch, costly="bomb")
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    compiler.request(1, "a", choice("large", 200_000), lambda _: answers.put("large"))
    gate.begun.get(timeout=20)  # It has begun, and waits.
    compiler.request(2, "a", choice("bomb"), lambda _: answers.put("bomb"))
    gate.begun.get(timeout=20)
    quick = threading.Event()
    for lane in (compiler._quick, compiler._patient):
        monkeypatch.setattr(lane.sandbox, "attempt", gate._attempt)
    compiler.request(3, "a", choice("small"), lambda _: quick.set())
    assert quick.wait(20)
    assert answers.empty()
    gate.opened.set()
    assert [answers.get(timeout=20) for _ in range(2)] == ["large", "bomb"]


def test_requests_with_the_same_grammar_share_its_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BACKEND)
    gate = Gate(compiler, monkeypatch)
    answers: queue.SimpleQueue[CompileOutcome] = queue.SimpleQueue()
    for number in range(3):
        compiler.request(number, "", YES, answers.put)
    compiler.cancel(1)
    gate.opened.set()
    first, second = answers.get(timeout=20), answers.get(timeout=20)
    assert first is second
    assert answers.empty()
    assert len(gate.order) == 1
    assert not compiler._jobs
    assert not compiler._job_of


def test_the_cache_is_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_compiler, "_CACHED_BYTES", 100)
    compiler = GrammarCompiler(BACKEND)
    compiler._store(YES, GrammarError(""), 80)
    compiler._store(NO, GrammarError(""), 80)
    assert list(compiler._cache) == [NO]
    assert compiler._cached_bytes == 80
