"""Replies with a schema in the engine's loop on the real model: each is a true greedy decode under its grammar.

Forced tokens are computed several at once, beside neighbours that decode one. So each reply is read back alone
(``support/teacher_forcing.py``): every token that was chosen must be the best that the grammar allows there, up to
the noise that ``test_engine`` has measured for batches of another size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.machine.plan import PoolPlan
from tailrace.models.model_reference import locate_model
from tailrace.prompt_text import PromptText
from tailrace.protocol import Submit
from teacher_forcing import rows

NOISE = 0.6
_PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "kind": {"enum": ["cat", "dog", "barn owl"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
    },
    "required": ["name", "kind", "age"],
    "additionalProperties": False,
}
_SCHEMA = {"type": "array", "items": _PET, "minItems": 3, "maxItems": 3}


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaBackend]:
    options = LlamaOptions(
        decode_pool=PoolPlan(1), prefill_pool=PoolPlan(1), ctx=1024, parallel=8, kv_tokens=0, batch=256, gpu_layers=0
    )
    backend = LlamaBackend(locate_model("smollm2-135m").path, options)
    yield backend
    backend.close()


class Replies:
    """Runs replies, some of them with the schema, on its own loop."""

    def __init__(self, backend: LlamaBackend) -> None:
        self.backend = backend
        self.loop = EngineLoop(backend, prefill_chunk=128, step_seconds=0.05)
        self.sequences: list[Sequence] = []
        self.most_at_once = 0
        tokenizer = make_tokenizer(backend.vocabulary, sorted(backend.end_tokens), backend.tokenize_fragment)
        self._matcher = compile_grammar(tokenizer, translate(Grammar(kind="json_schema", text=json.dumps(_SCHEMA))))

    def constraint(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), len(self.backend.vocabulary))

    def ask(self, text: str, *, schema: bool) -> None:
        prompt = PromptText(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
        submit = Submit(
            id=len(self.sequences),
            prompt=prompt,
            params=GenerationParams(max_tokens=200, sampling=Sampling(temperature=0.0)),
        )
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        if schema:
            sequence.constraint = self.constraint()
        self.sequences.append(sequence)
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        self.loop.take()
        step = self.loop.step()
        for identity in step.ids if step is not None else ():
            assert step is not None
            self.most_at_once = max(self.most_at_once, step.ids.count(identity))

    def shortfall(self, sequence: Sequence) -> float:
        """How far the worst chosen token is from the best that was allowed; forced ones must be what is forced."""
        prompt, reply = sequence.tokens[: sequence.prompt_length], sequence.tokens[sequence.prompt_length :]
        constraint = self.constraint() if sequence.constraint is not None else None
        worst = 0.0
        forced: list[int] = []
        for row, token in zip(rows(self.backend, prompt, reply), reply, strict=True):
            if forced:
                assert token == forced.pop(0)
                continue
            if constraint is not None:
                mask = constraint.mask()
                assert mask is not None, "the grammar leaves nothing free"
                bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(row)]
                row = np.where(bits, row, -np.inf)
                forced = constraint.accept(token)
            worst = max(worst, float(row.max() - row[token]))
        return worst


def test_jump_forward_in_a_batch_leaves_every_reply_greedy(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    for number, pet in enumerate(("a lazy cat", "a loud dog", "an old owl", "a young cat")):
        replies.ask(f"List {pet} and two other pets as JSON.", schema=True)
        replies.step()
        replies.ask(f"Tell me about {pet} number {number}.", schema=False)
        replies.step()
    while replies.loop.has_work:
        replies.step()
    assert replies.most_at_once > 3
    backend.reset()
    for sequence in replies.sequences:
        assert replies.shortfall(sequence) < NOISE
        if sequence.constraint is not None:
            text = b"".join(backend.vocabulary[token] for token in sequence.tokens[sequence.prompt_length :])
            assert len(json.loads(text)) == 3


def test_a_grammar_may_require_a_control_token(backend: LlamaBackend) -> None:
    """Each control token is a different token: no other one may replace it."""
    start = next(token for token, text in backend.info.special_tokens.items() if text == "<|im_start|>")
    assert backend.vocabulary[start] == b""
    tokenizer = make_tokenizer(backend.vocabulary, sorted(backend.end_tokens), backend.tokenize_fragment)
    grammar = Grammar(kind="lark", text=f'start: "a" <[{start}]> "b"')
    constraint = Constraint(compile_grammar(tokenizer, translate(grammar)), len(backend.vocabulary), jump_forward=False)
    (letter,) = backend.tokenize_fragment("a")
    constraint.accept(letter)
    mask = constraint.mask()
    assert mask is not None, "the grammar leaves nothing free"
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    assert allowed.tolist() == [start]
