"""All samplers against llama.cpp's, one by one and combined, in any order, with histories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.harness.llama_samplers import LlamaChain
from logits_ops_choice import IMPLEMENTATIONS, use_implementation
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.sampling.candidates import Candidates
from tailrace.engine.sampling.sampler import Sampler
from tailrace.engine.sampling.token_facts import SamplingVocabulary
from tailrace.generation_params import SAMPLER_ORDER, SamplerName, Sampling

LogitsRow = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

_ALL: tuple[SamplerName, ...] = (*SAMPLER_ORDER, "adaptive_p")
#: All samplers off.
_OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
#: llama.cpp computes probabilities in single precision.
_TOLERANCE = 3e-5


@pytest.fixture(params=IMPLEMENTATIONS, scope="module", autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests run with both implementations of ``logits_ops``."""
    with use_implementation(request.param):
        yield


def _tailrace(
    params: Sampling, row: LogitsRow, prompt: list[int], reply: list[int], vocabulary: Any = None
) -> Probabilities:
    sampler = Sampler(params, prompt, vocabulary)
    for token in reply:
        sampler.accept(token)
    before = row.tobytes()
    ids, found = sampler.distribution(row)
    assert row.tobytes() == before, "the row is left as it was"
    probabilities = np.zeros(len(row))
    probabilities[ids] = found
    if sampler.greedy:
        assert sampler.sample(row.copy()) == ids[0]
    return probabilities


def _llama_cpp(
    params: Sampling, row: LogitsRow, prompt: list[int], reply: list[int], vocab: Any = None
) -> Probabilities:
    if params.samplers is None:
        params = msgspec.structs.replace(params, samplers=SAMPLER_ORDER)  # Not the greedy one.
    with LlamaChain(len(row), params, [*prompt, *reply], reply, vocab) as chain:
        return chain.distribution(row)


def _agree(computed: Probabilities, upstream: Probabilities, case: object) -> None:
    """The same candidates with the same probabilities. If a border falls within single precision's rounding, one of
    many candidates may differ.
    """
    assert not np.isnan(upstream).any(), case
    computed, upstream = np.sort(computed)[::-1], np.sort(upstream)[::-1]
    # Below that, llama.cpp's float32 probabilities lose their digits.
    counts = int((computed > 1e-30).sum()), int((upstream > 1e-30).sum())
    if counts[0] == counts[1]:
        assert computed == pytest.approx(upstream, rel=1e-3, abs=_TOLERANCE), case
    else:
        assert abs(counts[0] - counts[1]) <= max(counts) / 300, (counts, case)
        assert np.abs(computed - upstream).sum() < 0.01, (counts, case)


def _row(random: np.random.Generator, size: int, spread: float) -> LogitsRow:
    row: LogitsRow = random.normal(0, spread, size).astype(np.float32)
    row[random.integers(size)] = np.float32(3 * spread)
    return row


CASES: list[dict[str, Any]] = [
    {"typical_p": 0.0},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"typical_p": 0.995},
    {"typical_p": 0.3, "min_keep": 7},
    {"top_n_sigma": 0.5},
    {"top_n_sigma": 1.0},
    {"top_n_sigma": 2.5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"xtc_probability": 1.0, "xtc_threshold": 0.001, "min_keep": 5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.51},
    {"temperature": 1.2, "dynatemp_range": 0.8},
    {"temperature": 0.5, "dynatemp_range": 1.5, "dynatemp_exponent": 2.0},
    {"temperature": 0.0, "dynatemp_range": 1.0, "dynatemp_exponent": 0.3},
    {"temperature": 5.0},
    {"temperature": 100.0},
    {"mirostat": 1, "mirostat_tau": 2.0},
    {"mirostat": 1, "mirostat_tau": 5.0, "temperature": 0.7},
    {"mirostat": 2, "mirostat_tau": 1.0},
    {"mirostat": 2, "mirostat_tau": 5.0, "temperature": 2.0},
    {"top_p": 0.3, "min_keep": 20},
    {"min_p": 0.5, "min_keep": 20},
    {"samplers": ("adaptive_p",), "adaptive_target": 0.4},
    {"samplers": ("min_p", "adaptive_p"), "min_p": 0.02, "adaptive_target": 0.0},
    {"samplers": ()},
    {"samplers": ("temperature", "top_p"), "temperature": 2.0, "top_p": 0.7},
    {"samplers": ("temperature", "typ_p"), "temperature": 1.5, "typical_p": 0.7},
    {"samplers": ("temperature", "xtc"), "temperature": 0.8, "xtc_probability": 1.0, "xtc_threshold": 0.02},
    {"samplers": ("xtc", "xtc", "top_k"), "xtc_probability": 1.0, "xtc_threshold": 0.02, "top_k": 3},
    {"samplers": ("top_k",), "top_k": 5, "temperature": 0.0},
]


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize(("size", "top_k"), [(1, 0), (2, 0), (41, 40), (300, 40), (5000, 0)])
def test_each_sampler_leaves_llama_cpps_candidates(fields: dict[str, Any], size: int, top_k: int) -> None:
    """Over the whole vocabulary, and over a list."""
    params = Sampling(**{**_OFF, "top_k": top_k, **fields})
    random = np.random.default_rng(size)
    for spread in (0.5, 3.0):
        row = _row(random, size, spread)
        _agree(_tailrace(params, row, [], []), _llama_cpp(params, row, [], []), (fields, spread))


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_temperature_0_is_as_in_llama_cpps_chain(fields: dict[str, Any]) -> None:
    """What is left when typical_p and XTC have taken the best token away, the best of that; without a draw
    otherwise.
    """
    params = Sampling(**{**_OFF, **fields, "temperature": 0.0})
    for seed in range(3):
        row = _row(np.random.default_rng(seed), 300, 2.0)
        _agree(_tailrace(params, row, [], []), _llama_cpp(params, row, [], []), fields)


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize("size", [2, 300])
def test_logits_that_are_all_the_same(fields: dict[str, Any], size: int) -> None:
    """The number of candidates must agree; which of them are left isn't defined."""
    params = Sampling(**{**_OFF, **fields})
    row = np.full(size, 1.5, np.float32)
    computed, upstream = _tailrace(params, row, [], []), _llama_cpp(params, row, [], [])
    if params.typical_p < 1.0 or params.top_p < 1.0:  # The border falls between equal ones, and rounding decides.
        assert abs(int((computed > 0).sum()) - int((upstream > 0).sum())) <= 1
    else:
        _agree(computed, upstream, fields)


@pytest.mark.parametrize("fields", [one for one in CASES if "typical_p" not in one], ids=str)
def test_impossible_tokens_stay_impossible(fields: dict[str, Any]) -> None:
    """typical_p isn't among them: with -inf llama.cpp's has NaN for the entropy."""
    params = Sampling(**{**_OFF, **fields})
    row = _row(np.random.default_rng(5), 300, 2.0)
    row[::2] = -np.inf
    computed = _tailrace(params, row, [], [])
    assert not computed[::2].any()
    _agree(computed, _llama_cpp(params, row, [], []), fields)


def _draw(random: np.random.Generator) -> Sampling:
    """Random samplers in a random order. typical_p isn't behind top_n_sigma: in llama.cpp it then has NaN for the
    entropy; nor behind a low temperature, which lets it have a probability of 0.
    """

    def sometimes(value: float, off: float) -> float:
        return value if random.random() < 0.5 else off

    order: tuple[SamplerName, ...] | None = None
    if random.random() < 0.7:
        names = [_ALL[place] for place in random.permutation(len(_ALL))[: random.integers(0, len(_ALL) + 1)]]
        order = tuple(names)
    drawn = Sampling(
        seed=1,
        samplers=order,
        temperature=float(random.choice([0.7, 1.0, 2.0, 5.0])),
        top_k=int(sometimes(float(random.choice([1, 3, 40, 2000])), 0)),
        top_p=sometimes(float(random.choice([0.0, 0.3, 0.9, 0.99])), 1.0),
        min_p=sometimes(float(random.choice([0.01, 0.1, 0.5, 1.0])), 0.0),
        typical_p=sometimes(float(random.choice([0.2, 0.7, 0.95])), 1.0),
        top_n_sigma=sometimes(float(random.choice([0.5, 1.0, 2.0])), -1.0),
        xtc_probability=sometimes(1.0, 0.0),
        xtc_threshold=float(random.choice([0.01, 0.1, 0.3, 0.6])),
        dynatemp_range=sometimes(0.3, 0.0),
        dynatemp_exponent=float(random.choice([1.0, 0.5, 2.0])),
        dry_multiplier=sometimes(0.8, 0.0),
        dry_base=float(random.choice([1.0, 1.05])),
        dry_allowed_length=int(random.choice([0, 1, 2, 5])),
        dry_penalty_last_n=int(random.choice([-1, 3, 20, 64])),
        repeat_penalty=sometimes(1.2, 1.0),
        repeat_last_n=int(random.choice([-1, 5, 64])),
        frequency_penalty=sometimes(0.3, 0.0),
        presence_penalty=sometimes(0.2, 0.0),
        adaptive_target=float(random.choice([-1.0, 0.0, 0.3, 0.8])),
        logit_bias={0: 3.0, 1: -2.0} if random.random() < 0.3 else {},
        min_keep=int(random.choice([0, 0, 1, 3, 50])),
    )
    behind = list(SAMPLER_ORDER if order is None else order)
    if drawn.typical_p < 1.0 and "typ_p" in behind and "top_n_sigma" in behind[: behind.index("typ_p")]:
        return msgspec.structs.replace(drawn, top_n_sigma=-1.0)
    return drawn


@pytest.mark.parametrize("seed", range(80))
def test_any_samplers_in_any_order_give_llama_cpps_distribution(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.choice([2, 3, 40, 300, 5000, 16_401]))
    row = _row(random, size, float(random.choice([0.5, 2.0, 3.0])))
    params = _draw(random)
    tokens = random.integers(0, min(size, 7), 60).tolist()
    prompt, reply = tokens[:30], tokens[30:]
    _agree(_tailrace(params, row, prompt, reply), _llama_cpp(params, row, prompt, reply), (seed, size, params))


@pytest.mark.parametrize("fields", [{"mirostat": 1}, {"mirostat": 2}, {"samplers": ("min_p", "adaptive_p")}], ids=str)
def test_sampler_state_follows_the_chosen_tokens_as_llama_cpps(fields: dict[str, Any]) -> None:
    """llama.cpp chooses the tokens. Our sampler gets random numbers with which it draws the same tokens."""
    params = Sampling(
        **{**_OFF, "mirostat_tau": 3.0, "mirostat_eta": 0.3, "min_p": 0.01, "adaptive_target": 0.3, **fields}
    )
    random = np.random.default_rng(8)
    sampler = Sampler(params, [])

    class Placed:
        """The next number of a generator."""

        def __init__(self, number: float) -> None:
            self.random = lambda: number

    generator = sampler._random
    with LlamaChain(3000, params) as chain:
        for step in range(25):
            row = _row(random, 3000, 3.0)
            ids, found = sampler.distribution(row)
            computed = np.zeros(len(row))
            computed[ids] = found
            upstream, token = chain.step(row)
            _agree(computed, upstream, (fields, step))
            place = int(np.flatnonzero(ids == token)[0])
            sampler._random = Placed(float(found[:place].sum() + found[place] / 2))  # type: ignore[assignment]  # has the one method that is called
            assert sampler.sample(row) == token
            sampler._random = generator
            chain.accept(token)


@pytest.mark.parametrize("top_k", [0, 40])
def test_xtc_acts_as_often_as_it_should_and_by_the_seed(top_k: int) -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    fields = {**_OFF, "top_k": top_k, "xtc_probability": 0.3, "xtc_threshold": 0.15}
    params = Sampling(**fields)
    sampler = Sampler(params, [])
    drawn = [sampler.sample(row) for _ in range(6000)]
    seen = np.bincount(drawn, minlength=4) / len(drawn)
    # Where it acts, the third is the least likely of those from the threshold on: 2 to 1 with the fourth.
    expected = 0.7 * np.array([0.4, 0.3, 0.2, 0.1]) + 0.3 * np.array([0, 0, 2 / 3, 1 / 3])
    assert seen == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(len(drawn)))
    again = Sampler(params, [])
    assert [again.sample(row) for _ in range(50)] == drawn[:50]
    other = Sampler(Sampling(**{**fields, "seed": 2}), [])
    assert [other.sample(row) for _ in range(50)] != drawn[:50]


@pytest.mark.parametrize("seed", range(15))
def test_a_long_list_becomes_exclusions_from_the_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting 262k candidates would take tens of milliseconds, so the other tokens are excluded from the row."""
    random = np.random.default_rng(1000 + seed)
    row = _row(random, 3000, 2.0)
    params = _draw(random)
    tokens = random.integers(0, 7, 60).tolist()
    expected = _tailrace(params, row, tokens[:30], tokens[30:])
    monkeypatch.setattr(Candidates, "MAX_LIST", 20)
    assert _tailrace(params, row, tokens[:30], tokens[30:]) == pytest.approx(expected, rel=1e-4, abs=1e-6), params


@pytest.mark.parametrize("seed", range(25))
def test_a_masked_token_is_no_candidate(seed: int) -> None:
    """Compared with the same samplers over a vocabulary of the allowed tokens."""
    random = np.random.default_rng(seed)
    size = int(random.choice([40, 5000, 16_401]))
    row = _row(random, size, 2.0)
    allowed = random.random(size) < random.choice([0.01, 0.5])
    allowed[:7] = True
    padded = np.zeros(-(-size // 32) * 32, bool)
    padded[:size] = allowed
    mask = np.packbits(padded, bitorder="little").view(np.uint32)
    params = msgspec.structs.replace(_draw(random), logit_bias={})
    tokens = random.integers(0, 7, 40).tolist()
    masked, restricted = (Sampler(params, tokens) for _ in range(2))
    ids, found = masked.distribution(row, mask)
    places, expected = restricted.distribution(row[allowed])
    computed, in_vocabulary = np.zeros(size), np.zeros(size)
    computed[ids] = found
    in_vocabulary[np.flatnonzero(allowed)[places]] = expected
    assert not computed[~allowed].any()
    assert computed == pytest.approx(in_vocabulary, rel=1e-4, abs=1e-6), params


def test_penalize_nl_leaves_line_breaks_alone() -> None:
    vocabulary = SamplingVocabulary(FakeBackend(ctx=64, parallel=1, kv_tokens=0, batch=64))
    row = np.full(261, -9.0, np.float32)
    row[[10, 97]] = 2.0, 1.9
    penalties: dict[str, Any] = {"repeat_penalty": 2.0, "frequency_penalty": 1.0, "repeat_last_n": 3}
    for penalised, expected in ((True, [97, 10, 10]), (False, [10, 10, 10])):
        sampler = Sampler(Sampling(temperature=0.0, **penalties, penalize_nl=penalised), [10, 10, 98], vocabulary)
        assert [sampler.sample(row) for _ in range(3)] == expected, penalised


def test_samplers_that_are_off_need_no_chain() -> None:
    """A request with the usual filters alone takes the fast path."""
    for params in (
        Sampling(),
        Sampling(samplers=SAMPLER_ORDER),
        Sampling(dry_multiplier=0.8),
        Sampling(top_n_sigma=0.0, typical_p=1.0, xtc_probability=0.0, min_keep=1, adaptive_target=0.5),
        Sampling(samplers=("min_p", "temperature")),
    ):
        assert Sampler(params, [])._chain is None, params
    assert Sampler(Sampling(temperature=0.0, mirostat=2, top_n_sigma=1.0), []).greedy
    assert Sampler(Sampling(temperature=0.0, top_n_sigma=1.0), []).greedy
    assert not Sampler(Sampling(temperature=0.0, typical_p=0.9), []).greedy
