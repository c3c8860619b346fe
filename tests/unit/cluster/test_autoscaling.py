"""The number of replicas: it follows the work with a delay, goes to zero and comes back, and keeps its bounds."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster.autoscaling import FILLED, PREFILL_SECONDS, Demand, Scaler, work
from tailrace.cluster.config import Replicas
from tailrace.cluster_protocol.state import ModelLoad

_IDLE = Demand(loads=(ModelLoad(name="m", slots=8),))


def _busy(running: int = 0, waiting: int = 0, tokens: int = 0, speed: float = 0.0, replicas: int = 1) -> Demand:
    first = ModelLoad(
        name="m", slots=8, running=running, waiting=waiting, waiting_prompt_tokens=tokens, prefill_speed=speed
    )
    return Demand(loads=(first, *(ModelLoad(name="m", slots=8) for _ in range(replicas - 1))))


def _run(scaler: Scaler, target: int, demand: Demand, start: float, seconds: float) -> list[int]:
    """The targets of looks every half second."""
    targets = []
    for step in range(int(seconds * 2) + 1):
        target = scaler.decide(target, demand, start + step / 2)
        targets.append(target)
    return targets


def test_work_is_sequences_against_slots() -> None:
    assert work(_busy(running=8, waiting=4)) == 1.5
    assert work(_IDLE) == 0


def test_work_is_prompt_tokens_against_measured_speed() -> None:
    assert work(_busy(tokens=4000, speed=500)) == 4000 / (500 * PREFILL_SECONDS)
    assert work(_busy(tokens=4000)) == 0, "a speed that isn't measured says nothing"


def test_more_work_brings_replicas_after_the_delay() -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=3, scale_up_seconds=2))

    targets = _run(scaler, 1, _busy(running=8, waiting=16), 0, 3)

    assert targets == [1, 1, 1, 1, 3, 3, 3]


def test_short_burst_brings_no_replica() -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=3, scale_up_seconds=2))
    _run(scaler, 1, _busy(running=8, waiting=16), 0, 1.5)

    assert _run(scaler, 1, _busy(running=4), 2, 3)[-1] == 1


def test_less_work_removes_replicas_after_the_delay() -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=3, scale_down_seconds=5))

    targets = _run(scaler, 3, _busy(running=4, replicas=3), 0, 6)

    assert set(targets[:10]) == {3}
    assert targets[10] == 1


def test_replicas_stay_while_the_others_would_be_full() -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=3, scale_down_seconds=1))
    filled = math.floor(8 * FILLED) + 1  # of one replica's slots

    assert _run(scaler, 2, _busy(running=filled, replicas=2), 0, 10)[-1] == 2


def test_idle_model_goes_to_zero_and_a_request_wakes_it_at_once() -> None:
    scaler = Scaler(Replicas(min_replicas=0, max_replicas=2, idle_seconds=30, scale_down_seconds=1))

    targets = _run(scaler, 1, _IDLE, 0, 31)
    assert targets[59] == 1
    assert targets[60] == 0
    assert scaler.decide(0, Demand(), 40) == 0
    assert scaler.decide(0, Demand(wanted=1), 40.1) == 1


def test_model_that_just_woke_has_its_idle_time_again() -> None:
    scaler = Scaler(Replicas(min_replicas=0, max_replicas=1, idle_seconds=30))
    scaler.decide(0, Demand(), 0)
    scaler.decide(0, Demand(wanted=1), 100)

    assert scaler.decide(1, Demand(), 129) == 1
    assert scaler.decide(1, Demand(), 130) == 0


def test_model_with_a_minimum_never_goes_to_zero() -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=2, idle_seconds=0, scale_down_seconds=0))

    assert _run(scaler, 2, _IDLE, 0, 10)[-1] == 1


_DEMANDS = st.builds(
    Demand,
    loads=st.lists(
        st.builds(
            ModelLoad,
            name=st.just("m"),
            running=st.integers(0, 300),
            waiting=st.integers(0, 300),
            waiting_prompt_tokens=st.integers(0, 10**7),
            slots=st.integers(0, 64),
            prefill_speed=st.floats(0, 1e5),
        ),
        max_size=5,
    ).map(tuple),
    wanted=st.integers(0, 100),
)


@given(
    bounds=st.tuples(st.integers(0, 6), st.integers(1, 6)).map(lambda pair: (min(pair), max(pair))),
    delays=st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0, 20)),
    looks=st.lists(st.tuples(st.floats(0.01, 3), _DEMANDS), min_size=1, max_size=40),
)
def test_number_stays_within_its_bounds(
    bounds: tuple[int, int], delays: tuple[float, float, float], looks: list[tuple[float, Demand]]
) -> None:
    up, down, idle = delays
    scaler = Scaler(
        Replicas(
            min_replicas=bounds[0],
            max_replicas=bounds[1],
            scale_up_seconds=up,
            scale_down_seconds=down,
            idle_seconds=idle,
        )
    )
    target, now = bounds[0], 0.0
    for seconds, demand in looks:
        now += seconds
        target = scaler.decide(target, demand, now)
        assert bounds[0] <= target <= bounds[1]
        if not demand.is_idle:
            assert target >= 1, "a model with a request has a replica"


@given(demand=_DEMANDS, target=st.integers(1, 5))
def test_steady_work_leads_to_one_number_and_stays_there(demand: Demand, target: int) -> None:
    scaler = Scaler(Replicas(min_replicas=1, max_replicas=5, scale_up_seconds=1, scale_down_seconds=2))
    settled = _run(scaler, target, demand, 0, 5)[-1]

    assert set(_run(scaler, settled, demand, 6, 10)) == {settled}
