"""Which submits become a sequence, and why others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.engine.backends.fake import INFILL, FakeBackend
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import Refused, Submit


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)


def _submit(prompt: str | list[int], **params: Any) -> Submit:
    given = PromptText(prompt) if isinstance(prompt, str) else prompt
    return Submit(id=1, prompt=given, params=GenerationParams(**params))


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(backend: FakeBackend) -> None:
    refused = prepare_sequence(backend, _submit("x" * 300))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.prompt_tokens, refused.context) == ("context_length_exceeded", 301, 256)
    assert "256" in refused.message
    assert "301" in refused.message


@pytest.mark.parametrize(
    ("prompt", "params", "field"),
    [
        ([5, 1000], {}, "prompt"),
        ([], {}, "prompt"),
        ("a", {"sampling": Sampling(logit_bias={1000: 1.0})}, "logit_bias"),
        ("a", {"suffix": "y" * 300}, "suffix"),
    ],
)
def test_a_submit_that_can_not_run_names_its_field(
    backend: FakeBackend, prompt: str | list[int], params: dict[str, Any], field: str
) -> None:
    refused = prepare_sequence(backend, _submit(prompt, **params))
    assert isinstance(refused, Refused)
    assert refused.field == field


def test_a_suffix_becomes_an_infill_prompt(backend: FakeBackend) -> None:
    sequence = prepare_sequence(backend, _submit("ab", suffix="c"))
    assert isinstance(sequence, Sequence)
    before, after, middle = INFILL
    assert sequence.tokens == [before, 97, 98, after, 99, middle]


def test_no_token_that_ends_the_reply_may_come_before_min_tokens(backend: FakeBackend) -> None:
    sequence = prepare_sequence(backend, _submit("a", min_tokens=3, stop_tokens=(100,)))
    assert isinstance(sequence, Sequence)
    assert sequence.min_tokens_mask is not None
    allowed = {token for token in range(261) if sequence.min_tokens_mask[token // 32] >> (token % 32) & 1}
    assert set(range(261)) - allowed == {100, *backend.end_tokens}
