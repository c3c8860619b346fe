"""Checks that every call under ``tool_choice`` auto is valid in each family's format, and the cost for free text.

The starter model samples at temperature 1.5 after examples in a family's format. The family's parser reads its replies:
each call needs an offered name, and arguments that fit the schema by another validator. Some replies are generated one
at a time, with and without the grammar and with the same seed: they must be equal up to the first call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jsonschema

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import FAMILIES
from tailrace.chat.families.base import Family
from tailrace.chat.reply_grammar import GrammarContext, lazy_calls
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReplyPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.tools import Function
from tailrace.engine.load import load_llama, make_loop
from tailrace.engine.sequence import Sequence as Reply
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.lazy_grammar import LazyGrammar
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.engine.submission import prepare_sequence
from tailrace.errors import TailraceError
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.observe import logs
from tailrace.prompt_text import PromptText
from tailrace.protocol import Refused, Submit
from tailrace.settings import Settings

_STREAMS = 8
_REPLIES = 300
#: Replies of a family that are compared with free ones.
_COMPARED = 10
_TOKENS = 96
_BOUND = 0.9
_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city"],
}
_ALARM = {
    "type": "object",
    "properties": {"time": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"}, "loud": {"type": "boolean"}},
    "required": ["time", "loud"],
}
_TOOLS = (Function(name="weather", parameters=_WEATHER), Function(name="set_alarm", parameters=_ALARM))
_SCHEMAS = {function.name: function.parameters for function in _TOOLS}
_JSON = '{"name": "weather", "arguments": {"city": "CITY"}}'
#: A call as each family's models write it.
_FORMS = {
    "hermes": f"<tool_call>\n{_JSON}\n</tool_call>",
    "gemma": f"<tool_call>\n{_JSON}\n</tool_call>",
    "generic": f"<tool_call>\n{_JSON}\n</tool_call>",
    "qwen_coder": "<tool_call>\n<function=weather>\n<parameter=city>\nCITY\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>CITY</arg_value>\n</tool_call>",
    "glm4": 'weather\n{"city": "CITY"}',
    "llama": '{"name": "weather", "parameters": {"city": "CITY"}}',
    "mistral": f"[TOOL_CALLS][{_JSON}]",
    "mistral_args": '[TOOL_CALLS]weather[ARGS]{"city": "CITY"}',
    "phi": f"<|tool_call|>[{_JSON}]<|/tool_call|>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    '{"city": "CITY"}<|tool_call_end|><|tool_calls_section_end|>',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "CITY"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek_v3.1": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "CITY"}'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "harmony": '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "CITY"}',
}
_CITIES = ("Oslo", "Lima", "Kyoto", "Quito", "Accra", "Turin", "Perth", "Dakar")


class Tally(NamedTuple):
    """Counts over replies: calls, invalid calls, and calls that the end of the reply cut."""

    replies: int = 0
    calls: int = 0
    invalid: int = 0
    cut: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum."""
        return Tally(*(own + added for own, added in zip(self, other, strict=True)))


class EngineUnderTest:
    """One loaded model and loop."""

    def __init__(self, options: Options) -> None:
        settings = Settings(threads=options.threads, parallel=_STREAMS, ctx=2048)
        self._backend = load_llama(options.model, settings)
        self._loop = make_loop(self._backend, settings)
        ends = sorted(self._backend.end_tokens)
        self._tokenizer = make_tokenizer(self._backend.vocabulary, ends, self._backend.tokenize_fragment)
        self._tokens = TokenIndex(self._backend.vocabulary)
        self._vocabulary = PieceTable(self._backend.vocabulary)
        self._next = 0

    def calls(self, family: Family) -> LazyGrammar:
        """The compiled grammar of the family's calls. The model's vocabulary has none of its markers as tokens."""
        grammar = lazy_calls(GrammarContext(family, "", {}, ""), _TOOLS, several=True)
        assert grammar.triggers is not None
        return LazyGrammar(
            compile_grammar(self._tokenizer, translate(grammar)), self._tokenizer, grammar.triggers, self._tokens
        )

    def replies(
        self, calls: LazyGrammar | None, prompts: Sequence[str], *, tokens: int, together: int
    ) -> list[list[int]]:
        """Tokens of a reply to each prompt, ``together`` at a time; the seed is the prompt's number."""
        made: list[Reply] = []
        for number, prompt in enumerate(prompts):
            self._next += 1
            submit = Submit(
                id=self._next,
                prompt=PromptText(prompt),
                params=GenerationParams(max_tokens=tokens, sampling=Sampling(temperature=1.5, seed=number)),
            )
            reply = prepare_sequence(self._backend, submit)
            if isinstance(reply, Refused):
                raise TailraceError(reply.message)
            if calls is not None:
                reply.constraint = calls.constraint(jump_forward=True)
            made.append(reply)
            self._loop.inbox.put(reply)
            if len(made) % together == 0 or number == len(prompts) - 1:
                self._run()
        return [reply.tokens[reply.prompt_length :] for reply in made]

    def rate(self, calls: LazyGrammar | None, tokens: int, streams: int) -> Callable[[int], float]:
        """One turn: tokens a second of free greedy text."""

        def turn(number: int) -> float:
            for stream in range(streams):
                self._next += 1
                text = (
                    f"<|im_start|>user\nTell a story of village {number}-{stream}.<|im_end|>\n<|im_start|>assistant\n"
                )
                sampling = Sampling(temperature=0.0)
                submit = Submit(
                    id=self._next,
                    prompt=PromptText(text),
                    params=GenerationParams(max_tokens=tokens, sampling=sampling, ignore_eos=True),
                )
                reply = prepare_sequence(self._backend, submit)
                assert isinstance(reply, Reply)
                if calls is not None:
                    reply.constraint = calls.constraint(jump_forward=True)
                self._loop.inbox.put(reply)
            started_at = time.perf_counter()
            self._run()
            return streams * tokens / (time.perf_counter() - started_at)

        return turn

    def parse(self, family: Family, tokens: Sequence[int]) -> tuple[Tally, list[ReplyPart]]:
        """The tally and the parts of one reply, by the family's parser."""
        pipeline = ReplyPipeline(
            self._vocabulary, (), family.parser(PromptText(""), {function.name: function for function in _TOOLS})
        )
        text = [token for token in tokens if token not in self._backend.end_tokens]
        parts = [part for token in text for part in pipeline.feed(token)]
        parts += pipeline.finish(cut=len(text) == len(tokens))
        return _tally(parts), parts

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def _run(self) -> None:
        while self._loop.has_work:
            self._loop.take()
            self._loop.step()


def _tally(parts: Sequence[ReplyPart]) -> Tally:
    calls = invalid = 0
    name, arguments, open_calls = "", "", 0
    for part in parts:
        if isinstance(part, CallStart):
            calls, name, arguments, open_calls = calls + 1, part.name, "", open_calls + 1
            invalid += name not in _SCHEMAS
        elif isinstance(part, CallArguments):
            arguments += part.text
        elif isinstance(part, CallEnd):
            open_calls -= 1
            invalid += name in _SCHEMAS and not _fits(arguments, name)
    return Tally(1, calls, invalid, open_calls)


def _fits(arguments: str, name: str) -> bool:
    try:
        jsonschema.validate(json.loads(arguments), _SCHEMAS[name])
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def _prompt(family: str, number: int) -> str:
    """A conversation in which the assistant calls as the family does, and a last question."""
    turns = [
        f"<|im_start|>user\nWeather in {city}?<|im_end|>\n<|im_start|>assistant\n"
        f"{_FORMS[family].replace('CITY', city)}<|im_end|>\n"
        for city in (_CITIES[(number + step) % len(_CITIES)] for step in range(3))
    ]
    last = f"<|im_start|>user\nWeather in {_CITIES[(number + 3) % len(_CITIES)]}, and wake me?<|im_end|>\n"
    return "".join(turns) + last + "<|im_start|>assistant\n"


def _measure(options: Options) -> Measurements:
    logs.configure("engine", level="warning", form="console")
    bench = EngineUnderTest(options)
    figures, notes = [], []
    replies, tokens = (2 if options.quick else _REPLIES), 24 if options.quick else _TOKENS
    try:
        for family in FAMILIES:
            calls = bench.calls(family)
            prompts = [_prompt(family.name, number) for number in range(replies)]
            counted = {True: Tally(), False: Tally()}
            for constrained in (True, False):
                for reply in bench.replies(calls if constrained else None, prompts, tokens=tokens, together=_STREAMS):
                    counted[constrained] = counted[constrained].plus(bench.parse(family, reply)[0])
            few = prompts[: min(replies // 2, _COMPARED)]
            pairs = list(
                zip(
                    bench.replies(calls, few, tokens=tokens, together=1),
                    bench.replies(None, few, tokens=tokens, together=1),
                    strict=True,
                )
            )
            differing = sum(not _agrees(calls, constrained, free) for constrained, free in pairs)
            found, without = counted[True], counted[False]
            figures += [
                figure(
                    f"{family.name}: invalid calls of {found.calls}",
                    [found.invalid],
                    unit="",
                    bound=0,
                    is_upper_bound=True,
                ),
                figure(
                    f"{family.name}: of {len(pairs)} replies, those that differ before a call",
                    [differing],
                    unit="",
                    bound=0,
                    is_upper_bound=True,
                ),
            ]
            notes.append(
                f"{family.name}: {found.calls} calls in {found.replies} replies, {found.invalid} invalid; "
                f"without the grammar {without.calls} calls, {without.invalid} invalid."
            )
        watched = bench.calls(FAMILIES[-1])
        for streams in options.streams((1, _STREAMS)):
            rates = run_interleaved(
                {
                    "without": bench.rate(None, options.tokens(128), streams),
                    "with": bench.rate(watched, options.tokens(128), streams),
                },
                options.turns,
            )
            many = f"{streams} stream{'s' if streams > 1 else ''}"
            figures.append(
                figure(
                    f"{many}: free text with tools ÷ without",
                    paired_ratios(rates["with"], rates["without"]),
                    bound=_BOUND,
                )
            )
    finally:
        bench.close()
    return Measurements(figures=figures, notes=notes)


def _agrees(calls: LazyGrammar, constrained: list[int], free: list[int]) -> bool:
    """Whether the reply with the grammar is the free one up to where a call begins."""
    constraint = calls.constraint(jump_forward=False)
    for mine, others in zip(constrained, free, strict=False):
        if mine != others:
            return constraint.mask() is not None
        if not constraint.unconstrained:
            return True
        constraint.accept(mine)
    return len(constrained) == len(free) or not constraint.unconstrained


BENCHMARK = Benchmark("calls", "Is every call that a model writes valid, and what does that cost?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
