"""DRY's sequence breakers and the infill sampler against llama.cpp's own, over a real vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.harness.llama_samplers import LlamaChain
from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions
from tailrace.engine.sampling.sampler import Sampler
from tailrace.engine.sampling.token_facts import SamplingVocabulary
from tailrace.generation_params import SamplerName, Sampling
from tailrace.machine.plan import PoolPlan
from tailrace.models.model_reference import locate_model

LogitsRow = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

#: All samplers off.
_OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
#: llama.cpp computes probabilities in single precision.
_TOLERANCE = 3e-5


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaBackend]:
    options = LlamaOptions(
        decode_pool=PoolPlan(1), prefill_pool=PoolPlan(1), ctx=64, parallel=1, kv_tokens=64, batch=64, gpu_layers=0
    )
    loaded = LlamaBackend(locate_model("smollm2-135m").path, options)
    yield loaded
    loaded.close()


def _tailrace(
    params: Sampling, row: LogitsRow, prompt: list[int], reply: list[int], vocabulary: SamplingVocabulary
) -> Probabilities:
    sampler = Sampler(params, prompt, vocabulary)
    for token in reply:
        sampler.accept(token)
    ids, found = sampler.distribution(row)
    probabilities = np.zeros(len(row))
    probabilities[ids] = found
    return probabilities


def _llama_cpp(
    params: Sampling, row: LogitsRow, prompt: list[int], reply: list[int], backend: LlamaBackend
) -> Probabilities:
    with LlamaChain(len(row), params, [*prompt, *reply], reply, backend._vocab.pointer) as chain:
        return chain.distribution(row)


def _row(random: np.random.Generator, size: int) -> LogitsRow:
    row: LogitsRow = random.normal(0, 1.0, size).astype(np.float32)
    return row


BREAKERS = [
    ("\n", ":", '"', "*"),
    ("the end", "e"),
    ("\n\n", " and then "),
    ("<|im_start|>assistant\n", "<|im_end|>"),
    ("", "über", "日本語", "🎉"),
    ("x" * 39 + "é", "y" * 100),
]


@pytest.mark.parametrize("texts", BREAKERS, ids=lambda texts: repr(texts)[:20])
def test_dry_with_breakers_equals_llama_cpps(backend: LlamaBackend, texts: tuple[str, ...]) -> None:
    random = np.random.default_rng(3)
    vocabulary = SamplingVocabulary(backend)
    words = [*texts, "the", " end", "\n", "ab", " and", " then", "e ", "x" * 20, "<|im_end|>", " über", "日本", "語"]
    pool = sorted({token for word in words if word for token in backend.tokenize(word, add_special=False)})
    size = len(backend.vocabulary)
    for _ in range(8):
        tokens = random.choice(pool, 120).tolist()
        # Parts of the history are repeated, so that there is something to penalise.
        tokens = [*tokens[:60], *tokens[20:50], *tokens[60:], *tokens[35:50]]
        params = Sampling(
            **_OFF,
            dry_multiplier=0.3,
            dry_base=1.1,
            dry_allowed_length=int(random.choice([0, 1, 2, 4])),
            dry_penalty_last_n=int(random.choice([-1, 10, 64, 150])),
            dry_sequence_breakers=texts,
        )
        row = _row(random, size)
        row[pool] += 8.0
        cut = int(random.integers(1, len(tokens)))
        computed = _tailrace(params, row, tokens[:cut], tokens[cut:], vocabulary)
        upstream = _llama_cpp(params, row, tokens[:cut], tokens[cut:], backend)
        np.testing.assert_allclose(computed, upstream, rtol=1e-3, atol=_TOLERANCE, err_msg=str(params))


@pytest.mark.parametrize("order", [("top_k", "top_p", "infill"), ("top_k", "infill", "temperature")], ids=str)
def test_infill_equals_llama_cpps(backend: LlamaBackend, order: tuple[SamplerName, ...]) -> None:
    """Editors send top_k, top_p and infill. Each of its branches is taken: ends, prefixes, and nothing that is
    likely.
    """
    random = np.random.default_rng(4)
    size = len(backend.vocabulary)
    params = Sampling(**{**_OFF, "top_k": 40, "top_p": 0.95, "samplers": order})
    vocabulary = SamplingVocabulary(backend)
    prefixes = [
        backend.tokenize_fragment(word)[0] for word in ("re", "return", "r", "ret", " re", " return", "x", "xs")
    ]
    ends = sorted(backend.end_tokens)
    outcomes = set()
    for _ in range(25):
        row = _row(random, size)
        row[prefixes] += random.uniform(4, 12, len(prefixes)).astype(np.float32)
        row[ends] = random.choice([-30.0, -5.0, 0.0, 5.0, 9.0]) + random.normal(0, 1, len(ends))
        computed = _tailrace(params, row, [], [], vocabulary)
        np.testing.assert_allclose(computed, _llama_cpp(params, row, [], [], backend), rtol=1e-3, atol=_TOLERANCE)
        outcomes.add(int((computed > 0).sum()))
    assert len(outcomes) > 1
