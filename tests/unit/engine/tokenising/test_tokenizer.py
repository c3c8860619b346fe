"""The tokenizer's runners: every failure ends its own request, and later texts are tokenised."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from servers import wait_for
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer import TokenizationFailed, TokenizeOutcome, Tokenizer

TEXTS = [[TokenizerInput(f"text {number}")] for number in range(8)]


class Backend(FakeBackend):
    """A backend whose texts all go to the process."""

    model_path = Path("model.gguf")

    def can_tokenize_inline(self, texts: Sequence[TokenizerInput]) -> bool:
        return False


class Process:
    """Stands in for ``TokenizerProcess``: fails as often as it is told to."""

    def __init__(self, failures: list[BaseException]) -> None:
        self._failures = failures

    def run(self, number: int, texts: Sequence[TokenizerInput]) -> list[list[int]]:
        if self._failures:
            raise self._failures.pop()
        return [[1, 2, 3] for _ in texts]

    def kill(self, number: int) -> None:
        return

    def close(self) -> None:
        return


def tokenizer(*failures: BaseException) -> Tokenizer:
    made = Tokenizer(Backend(ctx=64, parallel=1, kv_tokens=0, batch=8))
    made._process = Process(list(failures))  # type: ignore[assignment]  # a stand-in that fails
    return made


def outcome(made: Tokenizer, texts: list[TokenizerInput], identity: int) -> TokenizeOutcome:
    """What becomes of the texts; fails where nothing does."""
    answers: queue.SimpleQueue[TokenizeOutcome] = queue.SimpleQueue()
    made.request(identity, texts, answers.put)
    return answers.get(timeout=20)


@pytest.mark.parametrize("defect", [OSError(24, "Too many open files"), ValueError("a defect")], ids=repr)
def test_a_failure_ends_its_own_request_and_no_runner(defect: Exception) -> None:
    made = tokenizer(*[defect] * 5)
    try:
        for identity in range(5):
            failed = outcome(made, TEXTS[identity], identity)
            assert isinstance(failed, TokenizationFailed)
            assert failed.code == "unavailable"
        assert outcome(made, TEXTS[5], 5) == [[1, 2, 3]]
    finally:
        made.close()


def test_a_callback_that_fails_does_not_end_a_runner() -> None:
    made = tokenizer()
    called = threading.Semaphore(0)

    def fail(result: TokenizeOutcome) -> None:
        called.release()
        raise ValueError("a defect of the caller")

    try:
        for identity in range(5):
            made.request(identity, TEXTS[identity], fail)
            assert called.acquire(timeout=20)
        assert outcome(made, TEXTS[5], 5) == [[1, 2, 3]]
    finally:
        made.close()


def test_a_runner_that_can_not_be_started_fails_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            failed = outcome(made, TEXTS[0], 0)
        assert isinstance(failed, TokenizationFailed)
        assert failed.code == "unavailable"
        assert outcome(made, TEXTS[0], 1) == [[1, 2, 3]]
    finally:
        made.close()


def test_callers_take_turns_and_cancelled_texts_leave_the_queue() -> None:
    made = tokenizer()
    gate, order = threading.Event(), []
    answers: queue.SimpleQueue[TokenizeOutcome] = queue.SimpleQueue()

    def run(number: int, texts: list[TokenizerInput]) -> list[list[int]]:
        order.append(texts[0].text)
        assert gate.wait(20)
        return [[1]]

    assert made._process is not None
    made._process.run = run  # type: ignore[method-assign,assignment]  # waits for the gate
    try:
        greedy = [TokenizerInput(f"greedy {number}") for number in range(10)]
        for identity, text in enumerate(greedy):
            made.request(identity, [text], answers.put, "greedy")
        wait_for("all runners to be busy", lambda: len(order) == 4)
        made.request(20, [TokenizerInput("other")], answers.put, "other")
        made.cancel(7)
        gate.set()
        for _ in range(10):
            answers.get(timeout=20)
        assert "other" in order[4:6]
        assert len(order) == 10
        assert "greedy 7" not in order
    finally:
        gate.set()
        made.close()
