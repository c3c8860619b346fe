"""The intake's thread: what goes wrong in one request doesn't concern the others."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.inbox import Inbox
from tailrace.engine.intake import Intake
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.grammar_compiler import GrammarCompiler
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer import Tokenizer
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.ipc import Channel
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, Cancel, Embed, FromEngine, Refused, Submit, ToEngine


class FaultyBackend(FakeBackend):
    """Has a defect that one text meets."""

    def tokenize_prompt(self, text: TokenizerInput) -> list[int]:
        """See ``Backend``."""
        if "defect" in text.text:
            raise OSError("too many open files")
        return super().tokenize_prompt(text)


class FaultyCompiler(GrammarCompiler):
    """Can't give a reply its grammar."""

    def constraint(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]  # any arguments, no result
        """See ``GrammarCompiler``."""
        raise ValueError("a defect of the compiler")


class Engine:
    """An intake with the HTTP process's end of its socket."""

    def __init__(self) -> None:
        backend = FaultyBackend(ctx=256, parallel=4, kv_tokens=0, batch=64)
        ours, theirs = socket.socketpair()
        self.peer: Channel[FromEngine] = Channel(ours, FromEngine)
        self.inbox: Inbox = queue.SimpleQueue()
        self.channel: Channel[ToEngine] = Channel(theirs, ToEngine)
        self.intake = Intake(self.channel, backend, self.inbox, FaultyCompiler(backend), Tokenizer(backend))
        self.intake.start()
        self._answers: list[FromEngine] = []

    def answer(self) -> FromEngine:
        while not self._answers:
            messages = self.peer.receive()
            assert messages is not None, "the connection has ended"
            self._answers += messages
        return self._answers.pop(0)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.peer.close()
    engine.intake.join(10)
    engine.channel.close()


def _submit(identity: int, text: str, grammar: Grammar | None = None) -> Submit:
    return Submit(id=identity, prompt=PromptText(text), params=GenerationParams(grammar=grammar))


def _assert_goes_on(engine: Engine) -> None:
    engine.peer.send(_submit(9, "<say>yes</say>"))
    answer = engine.answer()
    assert isinstance(answer, Accepted)
    assert answer.id == 9
    item = engine.inbox.get(timeout=10)
    assert isinstance(item, Sequence)
    assert item.id == 9


@pytest.mark.parametrize("request_", [_submit(1, "a defect"), Embed(id=1, inputs=["a defect"])])
def test_a_defect_that_one_request_meets_refuses_it_alone(engine: Engine, request_: ToEngine) -> None:
    engine.peer.send(request_)
    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert (answer.id, answer.code) == (1, "unavailable")
    assert "too many open files" in answer.message
    _assert_goes_on(engine)


def test_a_defect_on_the_compilers_thread_refuses_one_request_and_the_thread_lives(engine: Engine) -> None:
    for identity in (1, 2):
        engine.peer.send(_submit(identity, "<say>yes</say>", Grammar(kind="regex", text="yes")))
        answer = engine.answer()
        assert isinstance(answer, Refused)
        assert (answer.id, answer.code) == (identity, "unavailable")
    _assert_goes_on(engine)


def test_a_cancel_of_a_request_that_was_refused_reaches_the_loop_and_harms_nothing(engine: Engine) -> None:
    engine.peer.send(_submit(1, "a defect"))
    assert isinstance(engine.answer(), Refused)
    engine.peer.send(Cancel(1))
    assert engine.inbox.get(timeout=10) == 1
    _assert_goes_on(engine)


def test_copies_are_accepted_and_run_one_by_one_with_seeds_of_their_own(engine: Engine) -> None:
    params = GenerationParams(sampling=Sampling(seed=7))
    engine.peer.send(Submit(id=3, prompt=PromptText("<say>yes</say>"), params=params, copies=3))
    assert [engine.answer() for _ in range(3)] == [Accepted(identity, 15) for identity in (3, 4, 5)]
    sequences = [engine.inbox.get(timeout=10) for _ in range(3)]
    assert [sequence.id for sequence in sequences if isinstance(sequence, Sequence)] == [3, 4, 5]
    first, second, _ = (sequence.tokens for sequence in sequences if isinstance(sequence, Sequence))
    first.append(1)
    assert second == first[:-1], "each copy has tokens of its own"


@pytest.mark.parametrize("text", ["a defect", "x" * 300])
def test_a_refusal_is_of_all_copies(engine: Engine, text: str) -> None:
    engine.peer.send(Submit(id=3, prompt=PromptText(text), copies=3))
    answers = [engine.answer() for _ in range(3)]
    assert [answer.id for answer in answers if isinstance(answer, Refused)] == [3, 4, 5]
    _assert_goes_on(engine)


def test_a_defect_of_the_compiler_refuses_each_copy(engine: Engine) -> None:
    params = GenerationParams(grammar=Grammar(kind="regex", text="yes"))
    engine.peer.send(Submit(id=3, prompt=PromptText("<say>yes</say>"), params=params, copies=2))
    answers = [engine.answer() for _ in range(2)]
    assert sorted(answer.id for answer in answers if isinstance(answer, Refused)) == [3, 4]
    _assert_goes_on(engine)


def test_seeds_of_copies() -> None:
    submit = Submit(id=3, prompt=[1], params=GenerationParams(sampling=Sampling(seed=2**64 - 1)), copies=2)
    copy = submit.copy_number(1)
    assert (copy.id, copy.copies, copy.params.sampling.seed) == (4, 1, 0)
