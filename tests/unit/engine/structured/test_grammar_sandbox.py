"""The sandbox: grammars that take too much end its process, and later grammars get a new one."""

from __future__ import annotations

import json
import threading

import pytest

from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.structured import grammar_sandbox_worker
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_sandbox import GrammarSandbox
from tailrace.engine.structured.matcher import make_tokenizer
from tailrace.protocol import Grammar

BACKEND = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)


def test_a_grammar_that_takes_too_much_ends_the_sandbox_and_not_the_engine() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    # Deeper than any stack, and larger than any memory.
    chain = "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1}' for i in range(9000)) + '\nr9000: "z"'
    both = "start: A\nA: " + " & ".join(f"/(.*a{i}.{{0,12}}b.*)/" for i in range(50))
    try:
        for text in (chain, both):
            with pytest.raises(GrammarError, match="too complex"):
                sandbox.document(Grammar(kind="lark", text=text))
            assert "lark_grammar" in sandbox.document(Grammar(kind="lark", text='start: "a"'))
    finally:
        sandbox.close()


def test_a_grammar_that_cannot_be_followed_is_refused() -> None:
    sandbox = GrammarSandbox(BACKEND.vocabulary, [END])
    properties = {f"p{number}": {"type": "string"} for number in range(1000)}
    try:
        with pytest.raises(GrammarError, match=r"\d{4} items"):
            sandbox.document(Grammar(kind="json_schema", text=json.dumps({"type": "object", "properties": properties})))
    finally:
        sandbox.close()


def test_an_error_while_the_grammar_is_followed_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = threading.Event()

    def fail(matcher: object) -> None:
        followed.set()
        raise ValueError("a defect")

    monkeypatch.setattr(grammar_sandbox_worker, "_follow", fail)
    tokenizer = make_tokenizer(BACKEND.vocabulary, [END], None)
    with pytest.raises(ValueError, match="a defect"):
        grammar_sandbox_worker.try_grammar(Grammar(kind="choice", text='["yes"]'), tokenizer)
    assert followed.is_set()
