"""The sampler: the filters' meaning, against their definitions in a few lines of NumPy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logits_ops_choice import IMPLEMENTATIONS, use_implementation
from tailrace.engine.sampling.penalties import Penalties
from tailrace.engine.sampling.sampler import Sampler, SamplingError, greedy_tokens, logprobs, logprobs_of
from tailrace.generation_params import Sampling

VOCABULARY = 200


@pytest.fixture(params=IMPLEMENTATIONS, scope="module", autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests run with both implementations of ``logits_ops``."""
    with use_implementation(request.param):
        yield


def _row(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


def _distribution(row: npt.NDArray[np.float32], params: Sampling) -> npt.NDArray[np.float64]:
    """The definition: top_k, top_p of the rest, min_p of the rest, temperature; in llama.cpp's order."""
    order = np.argsort(-row.astype(np.float64), kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    values = row[order].astype(np.float64)
    probabilities = np.exp(values - values[0])
    probabilities /= probabilities.sum()
    if params.top_p < 1:
        n_keep = int(np.searchsorted(np.cumsum(probabilities), params.top_p, side="left")) + 1
        order, values, probabilities = order[:n_keep], values[:n_keep], probabilities[:n_keep]
    if params.min_p > 0:
        keep = probabilities >= params.min_p * probabilities[0] * (1 - 1e-12)
        order, values = order[keep], values[keep]
    weights = np.exp((values - values[0]) / params.temperature)
    result = np.zeros(len(row))
    result[order] = weights / weights.sum()
    return result


def _frequencies(row: npt.NDArray[np.float32], params: Sampling, draws: int) -> npt.NDArray[np.float64]:
    sampler = Sampler(params, [])
    counts = Counter(sampler.sample(row.copy()) for _ in range(draws))
    return np.array([counts[token] / draws for token in range(len(row))])


@pytest.mark.parametrize(
    "params",
    [
        Sampling(seed=1),
        Sampling(seed=2, top_k=0, top_p=1.0, min_p=0.0, temperature=1.0),
        Sampling(seed=3, top_k=5, top_p=1.0, min_p=0.0, temperature=2.0),
        Sampling(seed=4, top_k=0, top_p=0.6, min_p=0.0, temperature=1.5),
        Sampling(seed=5, top_k=0, top_p=1.0, min_p=0.2, temperature=0.5),
        Sampling(seed=6, top_k=30, top_p=0.9, min_p=0.1, temperature=1.2),
        Sampling(seed=7, top_k=150, top_p=0.999, min_p=0.0, temperature=1.0),
    ],
)
def test_draws_follow_the_definition(params: Sampling) -> None:
    row = _row()
    draws = 20_000
    expected = _distribution(row, params)
    seen = _frequencies(row, params, draws)
    assert not seen[expected == 0].any(), "a filtered token was drawn"
    # Five standard deviations of a binomial, for each token.
    assert (np.abs(seen - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


def test_greedy_takes_the_best_and_the_seed_decides_the_rest() -> None:
    row = _row()
    assert Sampler(Sampling(temperature=0.0), []).sample(row.copy()) == int(row.argmax())
    runs = [[s.sample(row.copy()) for _ in range(50)] for s in (Sampler(Sampling(seed=n), []) for n in (1, 1, 2))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_top_p_zero_keeps_one_token() -> None:
    row = _row()
    sampler = Sampler(Sampling(top_p=0.0, seed=1), [])
    assert {sampler.sample(row.copy()) for _ in range(50)} == {int(row.argmax())}


def test_logit_bias_bans_and_forces() -> None:
    row = _row()
    best, second = (int(token) for token in np.argsort(-row)[:2])
    assert Sampler(Sampling(temperature=0.0, logit_bias={best: -100.0}), []).sample(row.copy()) == second
    assert Sampler(Sampling(temperature=0.0, logit_bias={17: 100.0}), []).sample(row.copy()) == 17


def test_frequency_and_presence_count_the_reply_alone() -> None:
    row = np.zeros(10, np.float32)
    row[3], row[4] = 2.0, 1.0
    sampler = Sampler(Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.4), [3, 3, 3])
    # 3 falls by 0.9 at its first occurrence and 0.4 at each further one: 2.0, 1.1, 0.7, then 4 (1.0) is ahead.
    assert [sampler.sample(row.copy()) for _ in range(3)] == [3, 3, 4]


def test_repeat_penalty_looks_back_on_the_prompt_within_its_window() -> None:
    row = np.zeros(10, np.float32)
    row[3], row[4], row[5] = 2.0, 1.9, -1.0
    penalised = Sampling(temperature=0.0, repeat_penalty=1.5, repeat_last_n=2)
    assert Sampler(penalised, [3, 8]).sample(row.copy()) == 4
    assert Sampler(penalised, [3, 8, 9]).sample(row.copy()) == 3, "3 has left the window"
    negative = row.copy()
    Penalties(penalised, [5]).apply(negative)
    assert negative[5] == pytest.approx(-1.5), "negative logits are multiplied, as llama.cpp does"


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_logprobs_are_the_softmax_s(seed: int, top: int) -> None:
    row = _row(seed)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    token = seed % VOCABULARY
    result = logprobs(row, token, top)
    assert result.logprob == pytest.approx(exact[token], abs=1e-6)
    assert [i for i, _ in result.top] == list(np.argsort(-exact, kind="stable")[:top])
    assert [value for _, value in result.top] == pytest.approx(sorted(exact, reverse=True)[:top], abs=1e-6)


def _mask(allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    padded = np.zeros(-(-len(allowed) // 32) * 32, bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("size", [1, 31, 200, 40_000])
@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
@pytest.mark.parametrize(
    "params",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, frequency_penalty=1.0, logit_bias={0: 2.0}),
        Sampling(seed=1),
        Sampling(seed=1, top_k=0, top_p=0.9, min_p=0.0),
        Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0, temperature=2.0),
    ],
)
def test_a_masked_token_is_as_if_it_were_not_in_the_vocabulary(size: int, part: float, params: Sampling) -> None:
    random = np.random.default_rng(size)
    masked, unmasked = Sampler(params, []), Sampler(params, [])
    for _ in range(5):
        row = random.normal(0, 3, size).astype(np.float32)
        allowed = random.random(size) < part
        allowed[random.integers(size)] = True
        ids, probabilities = masked.distribution(row, _mask(allowed))
        expected_ids, expected = unmasked.distribution(np.where(allowed, row, np.float32(-np.inf)))
        assert ids[probabilities > 0].tolist() == expected_ids[expected > 0].tolist()
        assert probabilities[probabilities > 0] == pytest.approx(expected[expected > 0], rel=1e-5)
        token = masked.sample(row, _mask(allowed))
        assert allowed[token]
        assert token == unmasked.sample(np.where(allowed, row, np.float32(-np.inf)))


def test_sampling_leaves_the_row_unchanged() -> None:
    row = _row()
    before = row.copy()
    params = Sampling(repeat_penalty=1.7, frequency_penalty=1.0, logit_bias={3: 5.0}, seed=1)
    sampler = Sampler(params, [3, 4, 5])
    for _ in range(20):
        sampler.sample(row, _mask(np.arange(VOCABULARY) % 3 > 0))
    assert (row == before).all()


@pytest.mark.parametrize("params", [Sampling(temperature=0.0), Sampling(), Sampling(top_k=0, top_p=1.0, min_p=0.0)])
def test_a_row_without_a_best_token_is_an_error(params: Sampling) -> None:
    everything = np.ones(VOCABULARY, bool)
    for value in (np.nan, np.inf):
        row = _row()
        row[7] = value
        with pytest.raises(SamplingError, match="not a number"):
            Sampler(params, []).sample(row)
        with pytest.raises(SamplingError, match="not a number"):
            Sampler(params, []).sample(row, _mask(everything))
        with pytest.raises(SamplingError, match="not a number"):
            logprobs(row, 0, 5)
        assert greedy_tokens(np.stack((_row(), row))) is None
    with pytest.raises(SamplingError, match="no allowed token"):
        Sampler(params, []).sample(np.full(VOCABULARY, -np.inf, np.float32))
    with pytest.raises(SamplingError, match="no allowed token"):
        Sampler(params, []).sample(_row(), _mask(~everything))


def test_greedy_rows_are_sampled_in_one_call() -> None:
    logits = np.stack([_row(seed) for seed in range(8)])
    assert greedy_tokens(logits) == [Sampler(Sampling(temperature=0.0), []).sample(row) for row in logits]


@pytest.mark.parametrize("params", [Sampling(seed=1), Sampling(seed=1, top_k=0, top_p=0.5, min_p=0.0)])
@pytest.mark.parametrize("size", [300, 40_000])
def test_huge_logits_overflow_nowhere(params: Sampling, size: int) -> None:
    row = np.random.default_rng(0).uniform(-3e38, 3e38, size).astype(np.float32)
    best = int(row.argmax())
    assert Sampler(params, []).sample(row) == best
    penalised = Sampling(seed=1, repeat_penalty=3.0, frequency_penalty=2.0)
    worst = int(row.argmin())
    assert Sampler(penalised, [worst]).sample(row) == best
    assert logprobs(row, best, 1).top == [(best, 0.0)]


def test_the_lowest_temperature_takes_the_best_token() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    params = Sampling(temperature=5e-324, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    _, probabilities = Sampler(params, []).distribution(logits)
    assert probabilities.tolist() == [0.0, 1.0, 0.0]


def test_log_probabilities_after_sampling_are_those_of_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, top_p=0.9, min_p=0.0, seed=1), [])
    ids, probabilities = sampler.distribution(logits)
    token = sampler.sample(logits)
    found = logprobs_of(ids, probabilities, token, 10)
    assert [one for one, _ in found.top] == [0, 1, 2]
    assert math.exp(found.logprob) == pytest.approx({0: 0.5, 1: 0.3, 2: 0.15}[token] / 0.95)
    assert sum(math.exp(value) for _, value in found.top) == pytest.approx(1.0)
