"""Constrained replies in the engine's loop, and their grammars in its intake, on the fake backend."""

from __future__ import annotations

import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.inbox import Inbox
from tailrace.engine.intake import Intake
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_compiler import GrammarCompiler, OnCompiled
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.submission import prepare_sequence
from tailrace.engine.tokenising.tokenizer import Tokenizer
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.ipc import Channel
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, Cancel, FromEngine, Refused, Step, Submit, ToEngine

GREEDY = Sampling(temperature=0.0)


class Runner:
    """A loop on a backend that says what its prompt scripts, as far as the grammar allows."""

    def __init__(self) -> None:
        self.backend = FakeBackend(ctx=256, parallel=4, kv_tokens=0, batch=64)
        self.loop = EngineLoop(self.backend, prefill_chunk=64, step_seconds=1.0)
        self.steps: list[Step] = []
        self._tokenizer = make_tokenizer(self.backend.vocabulary, [END], self.backend.tokenize_fragment)

    def ask(
        self,
        identity: int,
        script: str,
        grammar: Grammar | None,
        constraint: type[Constraint] = Constraint,
        **options: Any,
    ) -> Sequence:
        submit = Submit(
            id=identity,
            prompt=PromptText(f"<say>{script}</say>"),
            params=GenerationParams(sampling=GREEDY, grammar=grammar, **options),
        )
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        if grammar is not None:
            matcher = compile_grammar(self._tokenizer, translate(grammar))
            sequence.constraint = constraint(
                matcher, len(self.backend.vocabulary), jump_forward=sequence.logprobs is None
            )
        self.loop.inbox.put(sequence)
        return sequence

    def finish(self) -> None:
        while self.loop.has_work:
            self.loop.take()
            if (step := self.loop.step()) is not None:
                self.steps.append(step)

    def said(self, identity: int) -> str:
        return bytes(
            token for step in self.steps for i, token in zip(step.ids, step.tokens, strict=True) if i == identity
        ).decode()

    def end(self, identity: int) -> tuple[str, int]:
        (finished,) = [finished for step in self.steps for finished in step.finished if finished.id == identity]
        return finished.reason, finished.completion_tokens


def choice(*texts: str) -> Grammar:
    return Grammar(kind="choice", text="[" + ", ".join(f'"{text}"' for text in texts) + "]")


def test_the_grammar_overrides_the_model() -> None:
    runner = Runner()
    runner.ask(1, "no, never", choice("no", "yes"))
    runner.ask(2, "anything", None)
    runner.finish()
    assert (runner.said(1), runner.end(1)) == ("no", ("stop", 2))
    assert runner.said(2) == "anything"


def test_jump_forward_tokens_come_in_one_step_and_are_computed_before_the_next_choice() -> None:
    runner = Runner()
    grammar = Grammar(kind="regex", text="[ab] then [cd]")
    runner.ask(1, "b then d", grammar)
    runner.finish()
    # The script goes on at the right place only if all forced tokens are in the cache.
    assert (runner.said(1), runner.end(1)) == ("b then d", ("stop", 8))
    assert [len(step.ids) for step in runner.steps if step.ids] == [7, 1]


def test_max_tokens_cuts_within_jump_forward_tokens() -> None:
    runner = Runner()
    runner.ask(1, "b", Grammar(kind="regex", text="[ab] then [cd]"), max_tokens=4)
    runner.finish()
    assert (runner.said(1), runner.end(1)) == ("b th", ("length", 4))


def test_a_stop_token_within_jump_forward_tokens_ends_the_reply() -> None:
    runner = Runner()
    runner.ask(1, "b", Grammar(kind="regex", text="[ab] then [cd]"), stop_tokens=(ord("e"),))
    runner.finish()
    assert (runner.said(1), runner.end(1)[0]) == ("b th", "stop")


def test_with_logprobs_each_token_is_chosen_and_has_its_own() -> None:
    runner = Runner()
    runner.ask(1, "yes", choice("yes", "no"), logprobs=1)
    runner.finish()
    assert runner.said(1) == "yes"
    assert all(len(step.ids) <= 1 for step in runner.steps)
    assert sum(len(step.logprobs) for step in runner.steps) == 3


def test_ignore_eos_does_not_undo_a_grammar_s_end() -> None:
    runner = Runner()
    runner.ask(1, "ab", Grammar(kind="regex", text="[a-z]+"), ignore_eos=True)
    runner.finish()
    assert (runner.said(1), runner.end(1)) == ("ab", ("stop", 3))


def test_jump_forward_tokens_count_for_penalties() -> None:
    runner = Runner()
    sequence = runner.ask(1, "b", Grammar(kind="regex", text="[ab]aaa[ab]"))
    sequence.sampler = type(sequence.sampler)(Sampling(temperature=0.0, frequency_penalty=2.0), sequence.tokens)
    runner.finish()
    # Behind its script's end the fake model is indifferent, and b, said once, is penalised less than a, forced thrice.
    assert runner.said(1) == "baaab"


class Broken(Constraint):
    """A grammar that has become too complex."""

    __slots__ = ()

    def mask(self) -> object:  # type: ignore[override]  # never returns
        raise GrammarError("too many items")


def test_a_reply_whose_grammar_gives_up_fails_alone() -> None:
    runner = Runner()
    sequence = runner.ask(1, "aa", choice("aa", "bb"))
    assert sequence.constraint is not None
    sequence.constraint.__class__ = Broken
    runner.ask(2, "bb", choice("aa", "bb"))
    runner.finish()
    assert [failed.id for step in runner.steps for failed in step.failed] == [1]
    assert runner.said(2) == "bb"


class Gated(Constraint):
    """A grammar whose masks are computed only while a gate is open."""

    gate: threading.Event

    def compute_or_fail(self) -> None:
        assert self.gate.wait(20)
        super().compute_or_fail()


class AlwaysSlow(Constraint):
    """A grammar that counts as slow."""

    @property
    def slow(self) -> bool:
        return True


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The gate of all ``Gated`` constraints."""
    gate = threading.Event()
    monkeypatch.setattr(Gated, "gate", gate, raising=False)
    yield gate
    gate.set()


def test_a_reply_sits_out_while_its_mask_is_late(gate: threading.Event) -> None:
    runner = Runner()
    gated = runner.ask(1, "b then d", Grammar(kind="regex", text="[ab] then [cd]"), Gated)
    runner.ask(2, "others go on meanwhile", None)
    runner.ask(3, "bb", choice("aa", "bb"))
    while runner.loop._sequences.keys() != {1}:
        runner.loop.take()
        if (step := runner.loop.step()) is not None:
            runner.steps.append(step)
    assert (runner.said(2), runner.said(3)) == ("others go on meanwhile", "bb")
    assert (gated.generated, gated.awaits_mask) == (0, True)
    assert runner.loop.heartbeat().counters.late_masks >= 1
    assert runner.loop.step() is None, "nothing can be computed"
    gate.set()
    runner.finish()
    assert (runner.said(1), runner.end(1)) == ("b then d", ("stop", 8))


def test_a_slow_grammar_is_followed_beside_the_loop() -> None:
    runner = Runner()
    runner.ask(1, "b then d", Grammar(kind="regex", text="[ab] then [cd]"), AlwaysSlow)
    runner.ask(2, "another one", None)
    runner.finish()
    # Nothing is forced, and the end is found after the last token.
    assert (runner.said(1), runner.end(1)) == ("b then d", ("stop", 8))
    assert all(step.ids.count(1) <= 1 for step in runner.steps)
    assert runner.said(2) == "another one"


def test_a_reply_that_sits_out_can_be_cancelled(gate: threading.Event) -> None:
    runner = Runner()
    gated = runner.ask(1, "b then d", Grammar(kind="regex", text="[ab] then [cd]"), Gated)
    while not gated.awaits_mask:
        runner.loop.take()
        runner.loop.step()
    runner.loop.inbox.put(1)
    runner.loop.take()
    assert not runner.loop.has_work
    gate.set()
    runner.ask(2, "bb", choice("aa", "bb"))
    runner.finish()
    assert runner.said(2) == "bb"


def test_a_reply_fails_whose_masks_take_more_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.engine.structured.constraint.BUDGET_SECONDS", 0.0)
    monkeypatch.setattr("tailrace.engine.structured.constraint.BUDGET_SECONDS_PER_TOKEN", 0.0)
    runner = Runner()
    runner.ask(1, "aa", choice("aa", "bb"))
    runner.ask(2, "anything", None)
    runner.finish()
    (failed,) = [failed for step in runner.steps for failed in step.failed]
    assert (failed.id, failed.by_grammar) == (1, True)
    assert "takes too long" in failed.message
    assert runner.said(2) == "anything"


class Slow(GrammarCompiler):
    """A compiler that answers when the test says so."""

    def __init__(self, backend: FakeBackend) -> None:
        super().__init__(backend)
        self.asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def request(self, identity: int, caller: str, grammar: Grammar, done: OnCompiled) -> None:
        self.asked.put(lambda: GrammarCompiler.request(self, identity, caller, grammar, done))


class Engine:
    """An intake with the HTTP process's end of its socket."""

    def __init__(self) -> None:
        backend = FakeBackend(ctx=256, parallel=4, kv_tokens=0, batch=64)
        ours, theirs = socket.socketpair()
        self.peer: Channel[FromEngine] = Channel(ours, FromEngine)
        self.inbox: Inbox = queue.SimpleQueue()
        self.compiler = Slow(backend)
        self.channel: Channel[ToEngine] = Channel(theirs, ToEngine)
        self.intake = Intake(self.channel, backend, self.inbox, self.compiler, Tokenizer(backend))
        self.intake.start()

    def answer(self) -> FromEngine:
        messages = self.peer.receive()
        assert messages is not None
        (message,) = messages
        return message

    def close(self) -> None:
        self.peer.close()
        self.intake.join(10)
        self.channel.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def _submit(identity: int, grammar: Grammar | None) -> Submit:
    return Submit(id=identity, prompt=PromptText("<say>yes</say>"), params=GenerationParams(grammar=grammar))


def test_others_are_accepted_while_a_grammar_is_compiled(engine: Engine) -> None:
    engine.peer.send(_submit(1, choice("yes")))
    compile_it = engine.compiler.asked.get(timeout=10)
    engine.peer.send(_submit(2, None))
    answer = engine.answer()
    assert isinstance(answer, Accepted)
    assert answer.id == 2
    compile_it()
    answer = engine.answer()
    assert isinstance(answer, Accepted)
    assert answer.id == 1
    sequences = [engine.inbox.get(timeout=10) for _ in range(2)]
    assert [isinstance(item, Sequence) and item.constraint is not None for item in sequences] == [False, True]


def test_a_wrong_grammar_is_refused_with_its_reason(engine: Engine) -> None:
    engine.peer.send(_submit(1, Grammar(kind="regex", text="(")))
    engine.compiler.asked.get(timeout=10)()
    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "invalid_grammar"
    assert "unclosed group" in answer.message


def test_a_request_is_unavailable_where_its_grammar_can_not_be_compiled_now(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    engine.peer.send(_submit(1, choice("yes")))
    compile_it = engine.compiler.asked.get(timeout=10)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", no_process)
        compile_it()
        answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "unavailable"
    assert "Resource temporarily unavailable" in answer.message
    engine.peer.send(_submit(2, choice("yes")))
    engine.compiler.asked.get(timeout=10)()
    assert isinstance(engine.answer(), Accepted)


def test_a_request_that_is_cancelled_while_its_grammar_is_compiled_never_runs(engine: Engine) -> None:
    engine.peer.send(_submit(1, choice("yes")))
    compile_it = engine.compiler.asked.get(timeout=10)
    engine.peer.send(Cancel(1))
    engine.peer.send(_submit(2, None))
    assert isinstance(engine.answer(), Accepted)  # The cancel was read before this.
    compile_it()
    engine.peer.send(_submit(3, choice("yes")))
    engine.compiler.asked.get(timeout=10)()
    answer = engine.answer()
    assert isinstance(answer, Accepted)
    assert answer.id == 3
    items = [engine.inbox.get(timeout=10) for _ in range(2)]
    assert [item.id for item in items if isinstance(item, Sequence)] == [2, 3]
