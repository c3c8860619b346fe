"""Constraints on the byte vocabulary: the texts that each kind of grammar allows, forces and refuses."""

from __future__ import annotations

import json

import pytest
from llguidance import LLTokenizer

from tailrace.chat.lark_builder import LarkBuilder
from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.generation_params import Grammar, GrammarKind

BACKEND = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return make_tokenizer(BACKEND.vocabulary, [END], BACKEND.tokenize_fragment)


def constraint(tokenizer: LLTokenizer, grammar: Grammar, *, jump_forward: bool = True) -> Constraint:
    matcher = compile_grammar(tokenizer, translate(grammar))
    return Constraint(matcher, len(BACKEND.vocabulary), jump_forward=jump_forward)


def allowed(constraint: Constraint) -> set[int]:
    mask = constraint.mask()
    assert mask is not None, "the grammar leaves nothing free"
    return {token for token in range(len(BACKEND.vocabulary)) if mask[token // 32] >> (token % 32) & 1}


def says(constraint: Constraint, text: str) -> bool:
    """Whether the reply may be ``text`` and end there; each byte is chosen."""
    for token in text.encode():
        if constraint.finished or token not in allowed(constraint):
            return False
        constraint.accept(token)
    return constraint.finished or END in allowed(constraint)


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        ("json_schema", json.dumps(PERSON), '{"name": "Ann", "age": 3}', '{"age": 3, "name": "Ann"}'),
        ("json_schema", '{"type": "object"}', '{"a": [1, null]}', "[1]"),
        ("json_schema", '{"enum": ["é", 1]}', '"é"', "2"),
        ("regex", r"[a-c]+\d{2}", "abc12", "abc1"),
        ("regex", "^/x/$", "/x/", "x"),
        ("choice", '["yes", "no", "a \\"b\\" 😀"]', 'a "b" 😀', "maybe"),
        ("lark", 'start: "a" b\nb: /[0-9]+/', "a12", "b1"),
        ("gbnf", 'root ::= "a" b\nb ::= [0-9]+\n', "a12", "b1"),
    ],
)
def test_each_kind_allows_its_texts_alone(
    tokenizer: LLTokenizer, kind: GrammarKind, text: str, good: str, bad: str
) -> None:
    grammar = Grammar(kind=kind, text=text)
    assert says(constraint(tokenizer, grammar, jump_forward=False), good)
    assert not says(constraint(tokenizer, grammar, jump_forward=False), bad)


def test_a_thought_may_come_before_the_grammar_but_not_instead_of_it(tokenizer: LLTokenizer) -> None:
    lark = LarkBuilder({})
    frame = lark.text(start=f"{lark.until('</think>')} WS @body", WS=r"/[ \n]*/")
    grammar = Grammar(kind="choice", text='["yes", "no"]', wrapper=frame)
    assert says(constraint(tokenizer, grammar, jump_forward=False), "so <or> so\n</think>\n\nyes")
    assert not says(constraint(tokenizer, grammar, jump_forward=False), "yes")
    assert not says(constraint(tokenizer, grammar, jump_forward=False), "</think>perhaps")


def test_tokens_without_alternative_are_forced(tokenizer: LLTokenizer) -> None:
    reply = constraint(tokenizer, Grammar(kind="json_schema", text=json.dumps(PERSON)))
    forced = reply.accept(ord("{"))
    assert bytes(forced) == b'"name": "'
    assert reply.accept(ord("A")) == []
    assert bytes(reply.accept(ord('"'))) == b', "age": '
    assert reply.accepts(list(b"17}")) == 3
    assert reply.accepts(list(b"1x}")) == 1
    assert reply.accept(ord("1")) == []
    assert not reply.finished
    assert reply.accept(ord("}")) == []
    assert reply.finished


def test_a_grammar_that_ends_with_forced_text_is_finished_with_it(tokenizer: LLTokenizer) -> None:
    reply = constraint(tokenizer, Grammar(kind="choice", text='["yes please", "no thanks"]'))
    assert bytes(reply.accept(ord("n"))) == b"o thanks"
    assert reply.finished


def test_tokens_come_one_by_one_where_nothing_may_be_forced(tokenizer: LLTokenizer) -> None:
    reply = constraint(tokenizer, Grammar(kind="choice", text='["yes", "no"]'), jump_forward=False)
    assert allowed(reply) == {ord("y"), ord("n")}
    assert reply.accept(ord("y")) == []
    assert allowed(reply) == {ord("e")}


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"type": "nothing"}', "nothing"),
        ("json_schema", '{"oneOf": [{"type": "string"}, {"maxLength": 3}]}', "oneOf"),
        ("json_schema", '{"minimum": 5, "maximum": 3, "type": "integer"}', "minimum (5)"),
        ("json_schema", '{"$ref": "http://example.com/a"}', "http://example.com/a"),
        ("json_schema", "{", "not JSON"),
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)", "look-around"),
        ("lark", "start: other", "other"),
        ("gbnf", 'other ::= "a"', "root"),
        ("gbnf", 'root ::= "a', "end of input"),
    ],
)
def test_an_impossible_grammar_is_refused_with_its_reason(
    tokenizer: LLTokenizer, kind: GrammarKind, text: str, words: str
) -> None:
    with pytest.raises(GrammarError) as error:
        constraint(tokenizer, Grammar(kind=kind, text=text, strict=True))
    assert words in str(error.value)
    assert len(str(error.value)) < 500


def test_a_long_forced_text_is_followed_in_parts(tokenizer: LLTokenizer) -> None:
    text = "é" * 7000
    held = constraint(tokenizer, Grammar(kind="lark", text=f'start: "b" "{text}" "c"'))
    said = b"b" + bytes(held.accept(ord("b")))
    assert 2000 < len(said) < 2 * 7000
    while not held.finished:
        (token, *others) = sorted(allowed(held))
        assert not others
        said += bytes((token, *held.accept(token)))
    assert said.decode() == f"b{text}c"
