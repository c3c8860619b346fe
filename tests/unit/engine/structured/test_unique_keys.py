"""Objects that are open have no key twice, whatever is chosen and wherever tokens end."""

from __future__ import annotations

import json
import queue
import random
from typing import Any

import numpy as np
import pytest

from tailrace.chat.families import hermes
from tailrace.chat.reply_grammar import GrammarContext, lazy_calls
from tailrace.chat.tools import Function
from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_compiler import GrammarCompiler
from tailrace.generation_params import Grammar

INTEGER = {"type": "integer", "minimum": 0, "maximum": 9}
#: Tokens that begin, end or hold a key, as real vocabularies have them.
LONG = (
    b'"a"',
    b'"a":',
    b' "a"',
    b', "a"',
    b', "a": ',
    b'", "',
    b'a"',
    b'b": ',
    b'{"a": ',
    b'": ',
    b"a",
    b"ab",
    b'\\u0061"',
    b"}, ",
)


class Letters(FakeBackend):
    """The fake with these tokens as well, and few letters."""

    def __init__(self) -> None:
        super().__init__(ctx=256, parallel=2, kv_tokens=0, batch=64)
        self.vocabulary = [*self.vocabulary, *LONG]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(Letters())


def constraint(compiler: GrammarCompiler, grammar: Grammar, *, jump_forward: bool) -> Constraint:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    compiler.request(1, "", grammar, answers.put)
    return compiler.constraint(answers.get(timeout=60), jump_forward=jump_forward)


def write(held: Constraint, dice: random.Random, begun: bytes = b"") -> str:
    """Random JSON of few letters, which goes on as long as it may."""
    pieces = Letters().vocabulary
    written = bytearray()
    for token in begun:
        written += bytes([token, *held.accept(token)])
    while not held.finished and not (begun and held.unconstrained):
        mask = held.mask()
        assert mask is not None
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(pieces)]).tolist()
        assert allowed
        wanted = [token for token in allowed if token >= len(pieces) - len(LONG) or token in b'ab0"}],: {']
        ends = [token for token in allowed if token in (*b'}]"', END)]
        choices = ends if ends and len(written) > 300 else wanted or allowed
        token = dice.choice(choices)
        if token == END:
            break
        written += pieces[token]
        for forced in held.accept(token):
            written += pieces[forced]
        if len(written) > 3000:
            break
    return written.decode("utf-8", "replace")


def repeated(text: str) -> list[str]:
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        found.extend(key for key in set(keys) if keys.count(key) > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=look)
    return found


@pytest.mark.parametrize("jump_forward", [True, False])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": INTEGER},
        {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": INTEGER},
        {"type": "object", "patternProperties": {"^[ab]{1,3}$": INTEGER}},
        {"type": "array", "items": {"type": "object", "additionalProperties": INTEGER}, "maxItems": 4},
        {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": INTEGER}},
    ],
    ids=["map", "beside", "patterns", "list", "nested"],
)
def test_no_key_is_repeated(compiler: GrammarCompiler, schema: dict[str, Any], jump_forward: bool) -> None:
    grammar = Grammar(kind="json_schema", text=json.dumps(schema))
    sizes = []
    for seed in range(25):
        text = write(constraint(compiler, grammar, jump_forward=jump_forward), random.Random(seed))
        assert repeated(text) == [], text
        sizes.append(len(json.loads(text)))
    assert max(sizes) > 2


def test_no_argument_of_a_call_is_repeated(compiler: GrammarCompiler) -> None:
    tool = Function(name="f", parameters={"type": "object", "additionalProperties": INTEGER})
    grammar = lazy_calls(GrammarContext(hermes.FAMILY, "", {}, ""), [tool], several=True)
    for seed in range(20):
        held = constraint(compiler, grammar, jump_forward=False)
        text = write(held, random.Random(seed), b'<tool_call>{"name": "f", "arguments": {')
        call = text.removeprefix("<tool_call>").partition("</tool_call>")[0]
        assert repeated(call) == [], call


def test_a_key_without_alternative_may_be_repeated(compiler: GrammarCompiler) -> None:
    """A schema may ask for more members than it has keys for: the reply goes on."""
    schema = {"type": "object", "patternProperties": {"^a$": INTEGER}, "minProperties": 2}
    held = constraint(compiler, Grammar(kind="json_schema", text=json.dumps(schema)), jump_forward=False)
    assert json.loads(write(held, random.Random(1)))["a"] in range(10)
