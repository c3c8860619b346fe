"""Replies whose calls alone are held, in the engine's loop, compiler and intake, on the fake backend."""

from __future__ import annotations

import json
import queue
from typing import Any

import msgspec
import pytest

from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.chat.families import hermes
from tailrace.chat.reply_grammar import GrammarContext, lazy_calls
from tailrace.chat.tools import Function
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_compiler import MAX_GRAMMAR_BYTES, GrammarCompiler
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.lazy_grammar import LazyConstraint, LazyGrammar
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import Step, Submit

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
WEATHER = Function(name="weather", parameters=CITY)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def grammar(*functions: Function, prompt: str = "") -> Grammar:
    return lazy_calls(GrammarContext(hermes.FAMILY, "", {}, prompt), functions or (WEATHER,), several=True)


class Runner:
    """A loop on a backend that says what its prompt scripts, as far as the reply is free to."""

    def __init__(self, *, drafts: bool = False) -> None:
        self.backend = FakeBackend(ctx=2048, parallel=4, kv_tokens=0, batch=64)
        speculator = SimulatedSpeculator(LookupDrafter(), memory_bound) if drafts else None
        self.loop = EngineLoop(self.backend, prefill_chunk=64, step_seconds=1.0, speculator=speculator)
        self.compiler = GrammarCompiler(self.backend)
        self.steps: list[Step] = []

    def compiled(self, asked: Grammar) -> Any:
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.compiler.request(1, "", asked, answers.put)
        return answers.get(timeout=60)

    def reply(self, script: str, asked: Grammar | None = None, **options: Any) -> tuple[str, str]:
        """What is said, and why it ends."""
        asked = asked or grammar()
        identity = len(self.steps) + 1
        submit = Submit(
            id=identity,
            prompt=PromptText(options.pop("prompt", "") + f"<say>{script}</say>"),
            params=GenerationParams(grammar=asked, **{"sampling": Sampling(temperature=0.0), **options}),
        )
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        assert asked.triggers is not None
        sequence.constraint = self.compiler.constraint(
            self.compiled(asked), jump_forward=sequence.logprobs is None, reply_start=asked.triggers.reply_start
        )
        self.sequence = sequence
        self.loop.inbox.put(sequence)
        first = len(self.steps)
        while self.loop.has_work:
            self.loop.take()
            if (step := self.loop.step()) is not None:
                self.steps.append(step)
        steps = self.steps[first:]
        said = bytes(token for step in steps for token in step.tokens if token < 256).decode()
        ends = [finished.reason for step in steps for finished in step.finished]
        return said, ends[0] if ends else "failed"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner()


def test_a_reply_without_a_call_is_unconstrained(runner: Runner) -> None:
    for script in ("It is sunny.", "<tool", "<tool_ca>ll", "a < b <tool_call", "<think>\n<tool_call>{}</think>no"):
        assert runner.reply(script) == (script, "stop")


def test_a_call_fits_its_schema_and_then_the_reply_is_unconstrained(runner: Runner) -> None:
    wrong = '{"name": "wether", "arguments": {"city": "Rom"}}'
    said, end = runner.reply(f"Look: <tool_call>{wrong}</tool_call> and {wrong}")
    before, _, rest = said.partition("<tool_call>")
    call, _, behind = rest.partition("</tool_call>")
    assert before == "Look: "
    made = json.loads(call)
    assert made["name"] == "weather"
    assert made["arguments"]["city"] in ("Rome", "Oslo")
    assert end == "stop"
    assert "</tool_call>" not in behind


def test_several_calls_with_text_between_them(runner: Runner) -> None:
    script = f"First {CALL} then {CALL.replace('Rome', 'Oslo')}{CALL} done."
    assert runner.reply(script) == (script, "stop")


def test_white_space_is_free(runner: Runner) -> None:
    for call in (
        '<tool_call>{"name":"weather","arguments":{"city":"Rome"}}</tool_call>',
        '<tool_call>\n{\n  "name": "weather",\n  "arguments": {\n    "city": "Rome"\n  }\n}\n</tool_call>',
    ):
        assert runner.reply(call) == (call, "stop")


def test_calls_are_constrained_after_a_thought_that_the_prompt_opens(runner: Runner) -> None:
    script = f"hm <tool_call>x</tool_call></think>\n\n{CALL}"
    assert runner.reply(script, grammar(prompt="...<think>\n")) == (script, "stop")


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        ("Let me", f" see. {CALL}"),
        ("<tool_c", CALL[7:]),
        (CALL[:30], CALL[30:]),
        (f"{CALL} and ", f"then {CALL}"),
        ("<think>a <tool_call>", f"x</think>{CALL}"),
    ],
)
def test_a_call_that_the_prompt_has_begun_is_constrained(runner: Runner, begun: str, rest: str) -> None:
    asked = grammar()
    assert asked.triggers is not None
    triggers = msgspec.structs.replace(asked.triggers, reply_start=begun)
    asked = msgspec.structs.replace(asked, triggers=triggers)
    assert runner.reply(rest, asked) == (rest, "stop")
    broken = rest.replace("weather", "wether")
    said, _ = runner.reply(broken, asked)
    assert "wether" not in f"{begun}{said}" or "weather" in begun


def test_a_call_that_breaks_the_grammar_in_the_prompt_is_unconstrained(runner: Runner) -> None:
    asked = grammar()
    assert asked.triggers is not None
    triggers = msgspec.structs.replace(asked.triggers, reply_start='<tool_call>{"name": "other", "arg')
    rest = 'uments": {}}</tool_call>'
    assert runner.reply(rest, msgspec.structs.replace(asked, triggers=triggers)) == (rest, "stop")


def test_max_tokens_and_stop_tokens_cut_within_a_call(runner: Runner) -> None:
    assert runner.reply(CALL, max_tokens=30) == (CALL[:30], "length")
    assert runner.reply(CALL, stop_tokens=(ord(":"),)) == (CALL[: CALL.index(":")], "stop")


def test_ignore_eos_is_honoured_outside_of_calls(runner: Runner) -> None:
    assert runner.reply("Hi", ignore_eos=True, max_tokens=12)[1] == "length"


def test_with_logprobs_each_token_of_a_call_has_its_own(runner: Runner) -> None:
    first = len(runner.steps)
    assert runner.reply(CALL, logprobs=1) == (CALL, "stop")
    assert sum(len(step.logprobs) for step in runner.steps[first:]) == len(CALL)


def test_jump_forward_tokens_of_a_call_come_together() -> None:
    runner = Runner()
    assert runner.reply(f"x{CALL}y")[0] == f"x{CALL}y"
    assert max(len(step.ids) for step in runner.steps) > 5


def test_free_text_is_drafted_and_a_call_is_not_harmed_by_drafts() -> None:
    story = "The lighthouse keeper wrote a letter to the harbour master each morning. "
    script = f"{story}{story}{CALL}{story}"
    runner = Runner(drafts=True)
    assert runner.reply(script, prompt=story) == (script, "stop")
    counters = runner.loop.heartbeat().counters
    assert counters.accepted_tokens > 50


class Broken(Constraint):
    """A call's grammar that has become too complex."""

    __slots__ = ()

    def mask(self) -> Any:
        raise GrammarError("too many items")


@pytest.mark.parametrize(("strict", "end"), [(False, "stop"), (True, "failed")])
def test_a_grammar_that_gives_up_within_a_call_fails_strict_replies_alone(
    monkeypatch: pytest.MonkeyPatch, strict: bool, end: str
) -> None:
    runner = Runner()
    begun = LazyGrammar.begin_call

    def breaks(self: LazyGrammar, *arguments: Any, **more: Any) -> Any:
        call, forced = begun(self, *arguments, **more)
        call.__class__ = Broken
        return call, forced

    monkeypatch.setattr(LazyGrammar, "begin_call", breaks)
    asked = grammar(msgspec.structs.replace(WEATHER, strict=strict))
    said, ended = runner.reply(f"x{CALL}", asked)
    assert ended == end
    assert said.startswith("x<tool_call>")


# Compiling


def many(count: int, **more: Any) -> list[Function]:
    """Functions whose schemas together are more than is compiled."""
    text = {"type": "string", "description": "d" * (MAX_GRAMMAR_BYTES // count)}
    return [
        Function(name=f"f{number}", parameters={"type": "object", "properties": {"a": text}, "required": ["a"]}, **more)
        for number in range(count)
    ]


def test_names_are_constrained_where_schemas_are_too_many(runner: Runner) -> None:
    asked = grammar(*many(20))
    assert isinstance(runner.compiled(asked), LazyGrammar)
    anything = '<tool_call>{"name": "f7", "arguments": {"b": [1]}}</tool_call>'
    assert runner.reply(anything, asked) == (anything, "stop")
    assert '"f1' in runner.reply(anything.replace("f7", "f1x"), asked)[0]


def test_an_invalid_schema_leaves_its_functions_arguments_free(runner: Runner) -> None:
    odd = Function(name="odd", parameters={"type": "object", "properties": []})
    said = '<tool_call>{"name": "odd", "arguments": {"b": [1]}}</tool_call>'
    assert runner.reply(said, grammar(odd, WEATHER)) == (said, "stop")
    assert runner.reply(CALL, grammar(odd, WEATHER)) == (CALL, "stop")


def test_a_strict_schema_that_no_grammar_can_express_is_refused(runner: Runner) -> None:
    unique = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    refused = runner.compiled(grammar(Function(name="odd", parameters=unique, strict=True)))
    assert isinstance(refused, GrammarError)
    assert "'odd'" in str(refused)
    assert "'uniqueItems'" in str(refused)
    assert isinstance(runner.compiled(grammar(Function(name="odd", parameters=unique))), LazyGrammar)


def test_the_same_tools_are_compiled_once(runner: Runner) -> None:
    assert runner.compiled(grammar()) is runner.compiled(grammar())
    constraints = [runner.compiler.constraint(runner.compiled(grammar()), jump_forward=True) for _ in range(2)]
    assert all(isinstance(constraint, LazyConstraint) for constraint in constraints)
    for token in b"<tool_call>":
        constraints[0].accept(token)
    assert (constraints[0].unconstrained, constraints[1].unconstrained) == (False, True)
