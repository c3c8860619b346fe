"""Samplers over the whole vocabulary: they leave what the same samplers leave of a sorted list."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from logits_ops_choice import IMPLEMENTATIONS, use_implementation
from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.candidates import Candidates
from tailrace.engine.sampling.full_row_samplers import run_step
from tailrace.engine.sampling.logits_ops.sampler_steps import STEP, SamplerKind

#: A step of each kind that drops some of a few hundred candidates, or changes their temperature.
STEPS = {
    SamplerKind.TOP_K: (30, 0.0, 0.0, 0.0),
    SamplerKind.TOP_P: (3, 0.9, 0.0, 0.0),
    SamplerKind.MIN_P: (2, -3.3, 0.0, 0.0),
    SamplerKind.TYPICAL: (2, 0.7, 0.0, 0.0),
    SamplerKind.XTC: (1, 1.0, 0.01, 0.4),
    SamplerKind.TEMPERATURE: (0, 0.6, 1.3, 0.7),
    SamplerKind.TOP_N_SIGMA: (0, 1.3, 0.0, 0.0),
    SamplerKind.MIROSTAT: (400, 5.0, 0.0, 0.0),
    SamplerKind.MIROSTAT_V2: (0, 3.2, 0.0, 0.0),
}


@pytest.fixture(params=IMPLEMENTATIONS, scope="module", autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests run with both implementations of ``logits_ops``."""
    with use_implementation(request.param):
        yield


def _candidates() -> Candidates:
    row = np.random.default_rng(1).normal(0, 2, 400).astype(np.float32)
    return Candidates(row, None, logits_ops.for_row(row).view(row))


@pytest.mark.parametrize("kind", list(SamplerKind))
def test_a_sampler_leaves_the_same_of_the_vocabulary_and_of_a_list(kind: SamplerKind) -> None:
    none = np.zeros(0, STEP)
    whole, listed = _candidates(), _candidates()
    run_step(whole, kind, *STEPS[kind])
    listed.restrict_to(np.arange(400))
    listed.run_list_samplers(np.array([(kind, *STEPS[kind])], STEP))
    assert whole.n_candidates == listed.n_candidates
    (ids, probs), (expected_ids, expected) = whole.finish(none), listed.finish(none)
    ids = np.arange(400) if ids is None else ids
    assert expected_ids is not None
    found = dict(zip(ids.tolist(), (probs / probs.max()).tolist(), strict=True))
    in_list = dict(zip(expected_ids.tolist(), (expected / expected.max()).tolist(), strict=True))
    assert {token: p for token, p in found.items() if p > 0} == pytest.approx(in_list, rel=1e-4)
    assert len(in_list) < 400 or whole.temperature != 1.0, "the step does nothing"
    whole.restore_row()
