"""Families of models: each is known by its template, and its replies are understood wherever tokens end."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from families import FUNCTIONS, SAMPLES, Sample
from parsed_replies import Call, joined, offered, parse, split_anywhere
from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import FAMILIES, family_of
from tailrace.chat.families.base import Family
from tailrace.chat.reply_grammar import GrammarContext, format_or_calls, required_calls
from tailrace.chat.reply_parts import ReasoningPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.template import ChatTemplate
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.generation_params import Grammar
from tailrace.prompt_text import PromptText

by_family = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.family)


def template(sample: Sample) -> ChatTemplate:
    return ChatTemplate(sample.template, bos_token="", eos_token="")


def family_of_sample(sample: Sample) -> Family:
    return family_of(template(sample))


@by_family
def test_a_family_is_known_by_its_template(sample: Sample) -> None:
    assert family_of_sample(sample).name == sample.family


def test_there_is_a_sample_of_each_family() -> None:
    assert {sample.family for sample in SAMPLES} == {family.name for family in FAMILIES}


@by_family
def test_replies_are_parsed_wherever_they_are_split(sample: Sample) -> None:
    for reply, expected in sample.replies:
        for parts in split_anywhere(family_of_sample(sample), reply, functions=FUNCTIONS):
            assert parts == expected


@by_family
def test_without_tools_there_are_no_calls(sample: Sample) -> None:
    for reply, _ in sample.replies:
        whole = joined(parse(family_of_sample(sample), [reply]))
        assert not any(isinstance(part, Call) for part in whole)
        assert all(parts == whole for parts in split_anywhere(family_of_sample(sample), reply))


@by_family
@given(st.data())
def test_any_mixture_of_markup_is_the_same_in_any_pieces(sample: Sample, data: st.DataObject) -> None:
    """Replies cut up and put together anew: broken markup, and every token's end anywhere."""
    family = family_of_sample(sample)
    markers = sorted(family.markup(offered(FUNCTIONS)).markers)
    texts = [reply for reply, _ in sample.replies]
    part = st.one_of(
        st.sampled_from([*markers, "weather", "{", "}", '"city"', ": ", "\n", '"京', "é"]),
        st.sampled_from(texts).flatmap(
            lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
                lambda ends: text[min(ends) : max(ends)]
            )
        ),
    )
    reply = "".join(data.draw(st.lists(part, max_size=6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=8)))
    pieces = [reply[start:end] for start, end in pairwise([0, *cuts, len(reply)])]
    whole = joined(parse(family, [reply], functions=FUNCTIONS))
    assert joined(parse(family, pieces, functions=FUNCTIONS)) == whole
    assert joined(parse(family, list(reply), functions=FUNCTIONS)) == whole
    for call in (part for part in whole if isinstance(part, Call) and part.whole):
        assert isinstance(json.loads(call.arguments), dict)


@by_family
@given(st.data())
def test_from_tokens_to_parts(sample: Sample, data: st.DataObject) -> None:
    """Tokens that end within characters, and markers that are control tokens: nothing is lost, doubled or replaced."""
    family = family_of_sample(sample)
    functions = offered(FUNCTIONS)
    markers = sorted(family.markup(functions).markers)
    pieces = [bytes([value]) for value in range(256)]
    controls = {256 + number: marker for number, marker in enumerate(markers)}
    vocabulary = PieceTable([*pieces, *(b"" for _ in markers)]).with_visible(controls)
    reply, expected = data.draw(st.sampled_from(sample.replies))
    tokens: list[int] = []
    rest = reply
    while rest:
        marker = next((token for token, text in controls.items() if rest.startswith(text)), None)
        tokens += list(rest[0].encode()) if marker is None else [marker]
        rest = rest[1 if marker is None else len(controls[marker]) :]
    pipeline = ReplyPipeline(vocabulary, (), family.parser(PromptText(""), functions))
    assert joined([part for token in tokens for part in pipeline.feed(token)] + pipeline.finish()) == expected


# Grammars

CONTROL_BASE = 259


class Bytes:
    """A tokenizer of bytes, and of the family's markers: as control tokens, or as text."""

    def __init__(self, family: Family, *, control: bool) -> None:
        markers = sorted(family.markup(offered(FUNCTIONS)).markers)
        self.controls = {marker: CONTROL_BASE + number for number, marker in enumerate(markers)}
        self.end = 256
        vocabulary = [bytes([value]) for value in range(256)] + [b""] * (CONTROL_BASE - 256)
        vocabulary += [b"" if control else marker.encode() for marker in markers]
        self.tokenizer: LLTokenizer = make_tokenizer(vocabulary, [self.end], None)

    def text(self, tokens: list[int]) -> str:
        names = {token: text.encode() for text, token in self.controls.items()}
        return b"".join(names.get(token, bytes([token % 256])) for token in tokens).decode("utf-8", "replace")

    def write(self, grammar: Grammar, dice: random.Random) -> str:
        """A reply that the grammar allows, otherwise at random; the end and ASCII are preferred, so that it ends."""
        matcher: LLMatcher = compile_grammar(self.tokenizer, translate(grammar))
        tokens: list[int] = []
        while not matcher.is_stopped():
            assert not matcher.is_error(), matcher.get_error()
            mask = matcher.compute_bitmask()
            allowed = [token for token in range(self.tokenizer.vocab_size) if mask[token // 8] >> token % 8 & 1]
            if self.end in allowed and (len(tokens) > 400 or dice.random() < 0.5):
                break
            ends = [token for token in allowed if token in (*b'"}]<\n', *self.controls.values())]
            plain = [token for token in allowed if 32 <= token < 127 or token >= CONTROL_BASE]
            token = dice.choice(ends if ends and dice.random() < 0.3 else plain or allowed)
            if token == self.end:
                break
            matcher.consume_token(token)
            tokens.append(token)
            if len(tokens) > 2000:
                raise AssertionError(self.text(tokens))
        return self.text(tokens)


#: Families whose markers can be text, too. The others' always are tokens, which text can't contain.
IN_TEXT = ("hermes", "qwen_coder", "glm", "glm4", "llama", "gemma", "generic")


@pytest.mark.parametrize(
    ("sample", "with_controls"),
    [(sample, True) for sample in SAMPLES] + [(sample, False) for sample in SAMPLES if sample.family in IN_TEXT],
    ids=lambda value: getattr(value, "family", value),
)
def test_replies_under_a_grammar_are_parsed_as_valid_calls(sample: Sample, with_controls: bool) -> None:
    family, known = family_of_sample(sample), template(sample)
    tokens = Bytes(family, control=with_controls)
    setting = GrammarContext(family, known.source, tokens.controls if with_controls else {}, "")
    dice = random.Random(1)
    for several in (False, True):
        grammar = required_calls(setting, list(offered(FUNCTIONS).values()), several=several)
        for _ in range(6):
            reply = tokens.write(grammar, dice)
            calls = [part for part in joined(parse(family, [reply], functions=FUNCTIONS)) if isinstance(part, Call)]
            others = [
                part for part in joined(parse(family, [reply], functions=FUNCTIONS)) if not isinstance(part, Call)
            ]
            assert len(calls) == 1 or (several and len(calls) > 1), reply
            assert all(isinstance(part, ReasoningPart) for part in others), reply
            for call in calls:
                assert call.whole, reply
                jsonschema.validate(json.loads(call.arguments), FUNCTIONS[call.name])


@by_family
def test_a_format_or_calls(sample: Sample) -> None:
    family, known = family_of_sample(sample), template(sample)
    tokens = Bytes(family, control=True)
    form = Grammar(kind="choice", text='["yes", "no"]')
    grammar = format_or_calls(
        GrammarContext(family, known.source, tokens.controls, ""),
        form,
        list(offered(FUNCTIONS).values()),
        several=False,
    )
    dice = random.Random(2)
    kinds = set()
    for _ in range(12):
        reply = tokens.write(grammar, dice)
        *_, last = joined(parse(family, [reply], functions=FUNCTIONS))
        kinds.add(type(last).__name__)
        assert isinstance(last, Call) or last.text in ("yes", "no"), reply
    assert kinds == {"Call", "TextPart"}


# What a grammar lets a model write is read as what it was meant to be

RICH: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "list": {"type": ["string", "null"]},
        "mode": {"type": "string", "enum": ["replace", "insert"]},
        "kind": {"enum": ["true", "12", None]},
        "short": {"type": "string", "minLength": 1, "maxLength": 5},
        "count": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "null"}]},
        "flag": {"type": "boolean"},
        "where": {"$ref": "#/$defs/place"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["path", "text", "mode"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("name", ["qwen_coder", "glm"])
def test_text_arguments_under_a_grammar_are_parsed_as_valid_values(name: str, control: bool) -> None:
    (sample,) = [sample for sample in SAMPLES if sample.family == name]
    family, known = family_of_sample(sample), template(sample)
    tokens = Bytes(family, control=control)
    functions = {"f": RICH}
    grammar = required_calls(
        GrammarContext(family, known.source, tokens.controls if control else {}, ""),
        list(offered(functions).values()),
        several=False,
    )
    assert '"arguments"' not in grammar.text, "elements, not the JSON that stands in for them"
    dice = random.Random(3)
    for _ in range(12):
        reply = tokens.write(grammar, dice)
        (call,) = [part for part in joined(parse(family, [reply], functions=functions)) if isinstance(part, Call)]
        assert call.whole, reply
        jsonschema.validate(json.loads(call.arguments), RICH)
