"""Replies that are free but for their calls: random tokens under the constraint, in every family.

Whatever is chosen, every call that the parser finds has an offered name and arguments that fit its schema, and what
stands outside of calls is as it was chosen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest

from families import SAMPLES, Sample
from parsed_replies import Call, joined
from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import family_of
from tailrace.chat.families.base import Family
from tailrace.chat.reply_grammar import GrammarContext, lazy_calls
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.template import ChatTemplate
from tailrace.chat.tools import Function
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.lazy_grammar import LazyConstraint, LazyGrammar
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.prompt_text import PromptText

TOOLS = (
    Function(
        name="weather",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    ),
    Function(
        name="weather_at.sea",
        parameters={
            "properties": {
                "kind": {"enum": ["wind", "waves"]},
                "depth": {"anyOf": [{"type": "number"}, {"type": "null"}], "title": "Depth"},
                "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
            },
            "required": ["kind", "depth"],
            "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "boolean"}}}},
        },
    ),
    Function(name="now"),
)
#: What elements without quotes have to be read back as: strings beside other types, patterns, listed values.
TYPED = (
    Function(
        name="edit",
        parameters={
            "type": "object",
            "properties": {
                "text": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "lines": {"type": ["string", "array"], "items": {"type": "integer"}},
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                "day": {"type": "string", "format": "date"},
            },
            "required": ["text", "code"],
        },
    ),
    Function(
        name="pick",
        parameters={
            "type": "object",
            "properties": {
                "mode": {"$ref": "#/$defs/mode"},
                "level": {"enum": ["low", "high", None]},
                "kind": {"const": "a b"},
                "size": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 6}]},
                "on": {"allOf": [{"type": "boolean"}], "description": "whether"},
                "point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
            },
            "required": ["mode", "kind"],
            "$defs": {"mode": {"type": "string", "enum": ["r", "w"]}},
        },
    ),
    Function(
        name="shape",
        parameters={
            "type": "object",
            "anyOf": [
                {"properties": {"r": {"type": "integer"}}, "required": ["r"]},
                {"properties": {"w": {"type": "integer"}, "h": {"type": "integer"}}, "required": ["w", "h"]},
            ],
        },
    ),
)
SCHEMAS = {function.name: function.as_openai()["function"]["parameters"] for function in (*TOOLS, *TYPED)}
END = 256
FIRST = 260
#: Tokens of several bytes, such as real vocabularies have: they end markers and go on.
_WORDS = rb"""
    >{" >{"name "} ": {"name {" "name ":" "," _call> <tool ]] [{ </ =weather =x> functions. .x weather k> <| |> |>{ `
    ``` ```json [TOOL_CALLS]x
"""
_SPACED = (
    b">\n",
    b">\n\n",
    b"}\n",
    b' "',
    b'": ',
    b'{"name": "',
    b'", "',
    b"}, {",
    b"\n</",
    b"now\n{",
    b'now\n{"',
    b"; {",
)
LONG = (*_WORDS.split(), *_SPACED, b"<think>\n", b"</think>\n\n")
TEXT = b"abc xyz.\n{}[]<>\"'|=:;,/1"


class Setup:
    """A family's markers as control tokens or as text, and its grammar."""

    def __init__(self, sample: Sample, *, control: bool, prompt: str = "", tools: Sequence[Function] = TOOLS) -> None:
        template = ChatTemplate(sample.template, bos_token="", eos_token="")
        self.family: Family = family_of(template)
        self.functions = {function.name: function for function in tools}
        self.markers = sorted(self.family.markup(self.functions).markers)
        pieces = [bytes([value]) for value in range(256)] + [b""] * (FIRST - 256) + sorted(set(LONG))
        controls: dict[str, int] = {}
        if control:
            controls = {marker: len(pieces) + number for number, marker in enumerate(self.markers)}
            pieces += [b""] * len(controls)
        self.controls = controls
        self.pieces = pieces
        self.prompt = prompt
        self.vocabulary = PieceTable(pieces).with_visible({token: marker for marker, token in controls.items()})
        setting = GrammarContext(self.family, sample.template, controls, prompt)
        grammar = lazy_calls(setting, tools, several=True)
        assert grammar.triggers is not None
        tokenizer = make_tokenizer(pieces, [END], None)
        matcher = compile_grammar(tokenizer, translate(grammar))
        self.calls = LazyGrammar(matcher, tokenizer, grammar.triggers, TokenIndex(pieces))

    def encode(self, text: str) -> list[int]:
        """The text's bytes, and its control tokens."""
        tokens: list[int] = []
        while text:
            marker = next((marker for marker in self.controls if text.startswith(marker)), None)
            tokens += list(text[0].encode()) if marker is None else [self.controls[marker]]
            text = text[1 if marker is None else len(marker) :]
        return tokens

    def parse(self, tokens: Sequence[int]) -> list[Any]:
        pipeline = ReplyPipeline(self.vocabulary, (), self.family.parser(PromptText(self.prompt), self.functions))
        return joined([part for token in tokens for part in pipeline.feed(token)] + pipeline.finish())

    def said(self, tokens: Sequence[int]) -> str:
        return b"".join(self.vocabulary.pieces[token] for token in tokens).decode("utf-8", "replace")


def allowed(constraint: LazyConstraint, size: int) -> list[int] | None:
    mask = constraint.mask()
    if mask is None:
        return None
    return list(map(int, np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:size])))


def write(setup: Setup, dice: random.Random, wishes: Sequence[str], most: int = 500) -> list[int]:
    """A reply at random. Outside of calls it is made of text and of ``wishes``, which may be cut anywhere."""
    constraint = setup.calls.constraint(jump_forward=dice.random() < 0.5)
    tokens: list[int] = []
    steady = dice.random() < 0.5  # What is wished for comes whole.
    wanted = setup.encode(dice.choice(wishes)) if dice.random() < 0.7 else []
    while len(tokens) < most:
        held = allowed(constraint, len(setup.pieces))
        if constraint.unconstrained:
            if not wanted and dice.random() < 0.1:
                break
            if not wanted:
                wish = dice.choice([*wishes, *setup.markers]) if dice.random() < 0.4 else chr(dice.choice(TEXT))
                wanted = setup.encode(wish)
                del wanted[dice.randint(1, len(wanted)) if dice.random() < 0.3 and not steady else len(wanted) :]
            token = wanted.pop(0)
            if dice.random() < 0.15 and not steady:
                token = dice.choice([dice.randrange(FIRST, len(setup.pieces)), dice.choice(TEXT)])
            if held is not None and token not in held:
                wanted = []
                continue
        else:
            wanted = []
            assert held, setup.said(tokens)
            assert END not in held
            ends = [
                token for token in held if setup.vocabulary.pieces[token][:1] in (b'"', b"}", b"]", b"<", b"\n", b"`")
            ]
            plain = [token for token in held if 32 <= token < 127 or token >= FIRST]
            token = dice.choice(ends if ends and dice.random() < 0.4 else plain or held)
        tokens.append(token)
        tokens += constraint.accept(token)
    return tokens


by_family = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.family)


@cache
def setup_of(family: str, control: bool, prompt: str = "", tools: tuple[str, ...] = ()) -> Setup:
    sample = next(sample for sample in SAMPLES if sample.family == family)
    chosen = [function for function in (*TOOLS, *TYPED) if function.name in tools] or TOOLS
    return Setup(sample, control=control, prompt=prompt, tools=chosen)


def check(setup: Setup, tokens: Sequence[int]) -> int:
    """How many whole calls there are; each is valid."""
    whole = 0
    for part in setup.parse(tokens):
        if isinstance(part, Call):
            assert part.name in SCHEMAS, setup.said(tokens)
            if part.whole:
                whole += 1
                arguments = json.loads(part.arguments, object_pairs_hook=unique)
                jsonschema.validate(arguments, SCHEMAS[part.name])
                assert set(arguments) <= members(SCHEMAS[part.name]), setup.said(tokens)
    return whole


def members(schema: dict[str, Any]) -> set[str]:
    return {name for part in (schema, *schema.get("anyOf", ())) for name in part.get("properties", ())}


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


@by_family
@pytest.mark.parametrize("control", [True, False], ids=["tokens", "text"])
def test_every_call_of_a_random_reply_is_valid(sample: Sample, control: bool) -> None:
    setup = setup_of(sample.family, control)
    wishes = [reply for reply, _ in sample.replies] + ["<think>", "</think>", '{"name": "weather", ', '{"name": "x"']
    dice = random.Random(sample.family)
    calls = sum(check(setup, write(setup, dice, wishes)) for _ in range(40))
    assert calls >= (2 if sample.family == "glm4" else 8)


@by_family
def test_arguments_are_read_back_as_their_schema_has_them(sample: Sample) -> None:
    setup = setup_of(sample.family, True, "", tuple(function.name for function in TYPED))
    # Each family's call up to the name, which the grammar then chooses.
    wishes = [reply.partition("weather")[0].partition("now")[0] for reply, _ in sample.replies if "weather" in reply]
    wishes = (
        [wish for wish in wishes if wish]
        + [f"{function.name}\n{{" for function in TYPED]
        + [f'{{"name": "{TYPED[0].name}", ']
    )
    dice = random.Random(sample.family)
    calls = sum(check(setup, write(setup, dice, wishes)) for _ in range(40))
    assert calls >= (2 if sample.family == "glm4" else 8)
