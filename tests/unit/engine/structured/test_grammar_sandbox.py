"""The sandbox: grammars that take too much end its process, and later grammars get a new one."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time

import pytest

from servers import wait_for
from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.structured import grammar_sandbox_worker
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_sandbox import GrammarSandbox, Trial, TrialCancelled
from tailrace.engine.structured.matcher import make_tokenizer
from tailrace.generation_params import Grammar

BACKEND = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)


def test_a_grammar_that_takes_too_much_ends_the_sandbox_and_not_the_engine() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    # Deeper than any stack, and larger than any memory.
    chain = "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1}' for i in range(9000)) + '\nr9000: "z"'
    both = "start: A\nA: " + " & ".join(f"/(.*a{i}.{{0,12}}b.*)/" for i in range(50))
    try:
        for text in (chain, both):
            with pytest.raises(GrammarError, match="too complex"):
                sandbox.attempt(Grammar(kind="lark", text=text), Trial())
            assert sandbox.attempt(Grammar(kind="lark", text='start: "a"'), Trial()).document is not None
    finally:
        sandbox.close()


def test_a_grammar_that_cannot_be_followed_is_refused() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    properties = {f"p{number}": {"type": "string"} for number in range(1000)}
    try:
        with pytest.raises(GrammarError, match=r"\d{4} items"):
            sandbox.attempt(
                Grammar(kind="json_schema", text=json.dumps({"type": "object", "properties": properties})), Trial()
            )
    finally:
        sandbox.close()


def test_an_error_while_the_grammar_is_followed_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = threading.Event()

    def fail(matcher: object, seconds: object) -> None:
        followed.set()
        raise ValueError("a defect")

    monkeypatch.setattr(grammar_sandbox_worker, "_follow", fail)
    tokenizer = make_tokenizer(BACKEND.vocabulary, [END], None)
    with pytest.raises(ValueError, match="a defect"):
        grammar_sandbox_worker.try_grammar(Grammar(kind="choice", text='["yes"]'), tokenizer)
    assert followed.is_set()


#: Takes many seconds to compile.
COSTLY = Grammar(kind="lark", text="start: A\nA: " + " & ".join(f"/(.*a{number}.{{0,12}}b.*)/" for number in range(50)))


def test_a_trial_that_is_cancelled_ends_at_once_beside_another_one() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    trial = Trial()
    raised: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            sandbox.attempt(COSTLY, trial, cpu_seconds=600.0)
        except TrialCancelled as error:
            raised.put(error)

    thread = threading.Thread(target=attempt)
    try:
        # The program ends with the thread that starts it.
        assert sandbox.attempt(Grammar(kind="lark", text='start: "b"'), Trial()).document is not None
        thread.start()
        while trial._socket is None:
            time.sleep(0.001)
        assert sandbox.attempt(Grammar(kind="lark", text='start: "a"'), Trial()).document is not None
        process = sandbox._process
        assert process is not None
        wait_for("the grammar's process", lambda: len(children(process.pid)) == 1)
        trial.cancel()
        assert isinstance(raised.get(timeout=20), TrialCancelled)
        wait_for("the end of the grammar's process", lambda: not children(process.pid))
        assert process.poll() is None
    finally:
        trial.cancel()
        thread.join()
        sandbox.close()


def test_a_grammar_too_ambiguous_to_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_sandbox_worker, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(grammar_sandbox_worker, "BUDGET_SECONDS_PER_TOKEN", 0.0)
    tokenizer = make_tokenizer(BACKEND.vocabulary, [END], None)
    result = grammar_sandbox_worker.try_grammar(Grammar(kind="regex", text="[a-z]{40}"), tokenizer)
    assert result.document is None
    assert "too ambiguous" in (result.error or "")


def test_the_program_is_started_again_after_its_death() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    yes = Grammar(kind="lark", text='start: "a"')
    try:
        sandbox.attempt(yes, Trial())
        assert sandbox._process is not None
        sandbox._process.kill()
        assert sandbox.attempt(yes, Trial()).document is not None
    finally:
        sandbox.close()


def test_a_program_that_dies_is_not_the_grammars_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is missing a moment before its exit status is there."""
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    exchange = sandbox._exchange
    with subprocess.Popen(["sleep", "0.03"]) as dying:
        answers = iter([lambda *_: (None, dying), exchange])
        monkeypatch.setattr(sandbox, "_exchange", lambda order, trial: next(answers)(order, trial))
        try:
            assert sandbox.attempt(Grammar(kind="lark", text='start: "a"'), Trial()).document is not None
        finally:
            sandbox.close()


def children(process: int) -> list[int]:
    """The process's children."""
    shown = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in shown.stdout.split()]
