"""The load policy in simulated servers: bounded waits, bounded memory, few swaps, and the rules one by one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from fewest_loads import Wanted, fewest_loads
from simulated_models import Ask, Outcome, SimulatedModel, Simulation, longest_wait
from tailrace.serving.load_policy import MAX_LOADS, Decision, decide
from tailrace.serving.model_load import MAX_ANTICIPATION, MAX_TURN, MIN_TURN, TURN_SWAPS, ModelLoad

#: Loads are at most this many times those of a schedule that knows the future.
MAX_RATIO = 1.5


def keeps_the_rules(models: Sequence[ModelLoad], decision: Decision) -> None:
    """No decision ends a model that has running requests or is pinned, or loads one twice."""
    by_name = {model.name: model for model in models}
    for name in decision.unload:
        assert by_name[name].is_idle
        assert not by_name[name].pinned
    assert not any(by_name[name].is_present for name in decision.load)
    assert len({*decision.load, *decision.unload, *decision.begin}) == len(
        [*decision.load, *decision.unload, *decision.begin]
    )
    for name in decision.begin.keys() & decision.wanted:
        model = by_name[name]
        assert not model.places or model.running + decision.begin[name] <= model.places
    assert sum(model.phase == "starting" for model in models) + len(decision.load) <= MAX_LOADS
    present = [model for model in models if model.is_present or model.name in decision.load]
    claimed = [worker for model in present for worker in model.workers]
    assert len(set(claimed)) == len(claimed)


def mixed(seed: int, *, models: int = 6, clients: int = 8, requests: int = 500, pause: float = 0.5) -> list[list[Ask]]:
    """Clients that ask for models at random."""
    numbers = random.Random(seed)
    return [
        [
            Ask(
                f"m{numbers.randrange(models)}",
                numbers.uniform(0.2, 2.0),
                numbers.expovariate(1 / pause) if pause else 0.0,
            )
            for _ in range(client, requests, clients)
        ]
        for client in range(clients)
    ]


def some(count: int, **fields: float) -> list[SimulatedModel]:
    return [SimulatedModel(f"m{number}", **fields) for number in range(count)]  # type: ignore[arg-type]


def check_waits(outcome: Outcome, simulation: Simulation, models: Sequence[SimulatedModel], longest: float) -> None:
    loads = list(simulation.models.values())
    for request in outcome.requests:
        assert request.began is not None, request.refusal
        assert request.wait <= longest_wait(models, loads, longest, request.ahead)


def fewest(outcome: Outcome, capacity: int, step: float) -> int:
    """The fewest loads that begin no request later than it was begun."""
    wanted = [Wanted(request.arrival, request.began or 0.0, request.model) for request in outcome.requests]
    return fewest_loads(wanted, capacity, step)


@pytest.mark.parametrize("pause", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_six_models_in_the_memory_of_two(seed: int, pause: float) -> None:
    models = some(6)
    simulation = Simulation(models, 200, mixed(seed, pause=pause), check=keeps_the_rules)
    outcome = simulation.run()
    assert len(outcome.waits()) == 500
    check_waits(outcome, simulation, models, 2.0)
    assert outcome.max_memory <= 200


@pytest.mark.parametrize("pause", [0.0, 2.0])
def test_loads_are_near_the_fewest_that_serve_as_soon(pause: float) -> None:
    outcome = Simulation(some(6), 200, mixed(7, pause=pause)).run()
    assert len(outcome.loads) <= MAX_RATIO * fewest(outcome, 2, 1.2 + 0.2)


@pytest.mark.parametrize("seed", range(12))
def test_random_servers_keep_their_bounds(seed: int) -> None:
    """Sizes, times, pinned models, bursts and long replies at random."""
    numbers = random.Random(seed)
    models = [
        SimulatedModel(
            f"m{number}",
            size=numbers.choice([30, 60, 100]),
            load=numbers.uniform(0.2, 8.0),
            unload=numbers.uniform(0.0, 1.0),
            pinned=number == 0 and numbers.random() < 0.5,
            idle_seconds=numbers.choice([math.inf, 3.0]),
            places=numbers.choice([0, 1, 4]),
        )
        for number in range(5)
    ]
    clients = [
        [
            Ask(f"m{numbers.randrange(5)}", numbers.choice([0.1, 1.0, 10.0]), numbers.choice([0.0, 0.1, 5.0]))
            for _ in range(30)
        ]
        for _ in range(5)
    ]
    simulation = Simulation(models, 200, clients, check=keeps_the_rules)
    outcome = simulation.run()
    check_waits(outcome, simulation, models, 10.0)
    again = Simulation(models, 200, clients).run()
    assert again.loads == outcome.loads, "the same events give the same decisions"
    assert [request.began for request in again.requests] == [request.began for request in outcome.requests]


@pytest.mark.parametrize("pause", [0.05, 0.5, 1.0])
def test_two_agents_on_two_models_that_do_not_fit_together_have_turns(pause: float) -> None:
    """Each sends its next request soon after a reply: most requests find their model loaded."""
    models = [SimulatedModel("agent"), SimulatedModel("sub-agent")]
    simulation = Simulation(models, 100, [[Ask(model.name, 1.0, pause)] * 40 for model in models])
    outcome = simulation.run()
    assert len(outcome.loads) <= 80 * 0.4
    assert len(outcome.loads) <= MAX_RATIO * fewest(outcome, 1, 1.2 + 1.0)
    check_waits(outcome, simulation, models, 1.0)


def test_an_agent_that_waits_for_its_sub_agent_is_not_waited_for() -> None:
    """One client alternates: a model's next request comes long after, so keeping it gains nothing."""
    models = [SimulatedModel("agent", load=4.0), SimulatedModel("sub-agent", load=4.0)]
    outcome = Simulation(models, 100, [[Ask(name, 1.0) for _ in range(10) for name in ("agent", "sub-agent")]]).run()
    assert max(outcome.waits()[4:]) <= 4.2 + 1e-6


def test_a_long_reply_ends_before_its_model_goes() -> None:
    models = some(2)
    outcome = Simulation(models, 100, [[Ask("m0", 60.0)], [Ask("m1", 1.0, 2.0)]], check=keeps_the_rules).run()
    first, second = outcome.requests
    assert first.ended == 61.0
    assert second.began is not None
    assert second.began == pytest.approx(61.0 + 0.2 + 1.0)


def test_a_turn_ends_though_new_requests_come_without_a_pause() -> None:
    """Two clients whose replies overlap never leave the model idle; the third waits for a turn, and no longer."""
    models = some(2)
    busy = [[Ask("m0", 1.0)] * 60, [Ask("m0", 1.5), *[Ask("m0", 1.0)] * 60]]
    simulation = Simulation(models, 100, [*busy, [Ask("m1", 1.0, 10.0)]])
    outcome = simulation.run()
    (waiter,) = [request for request in outcome.requests if request.model == "m1"]
    turn = TURN_SWAPS * 1.0  # Its load was measured, and its unload not yet.
    assert turn <= waiter.wait <= turn + 1.0 + 1.2


def test_a_full_queue_of_one_model_does_not_make_the_other_wait_for_all_of_it() -> None:
    """Sixty clients of a model that runs two requests at a time; another model's request comes in the middle."""
    models = [SimulatedModel("m0", places=2), SimulatedModel("m1")]
    clients = [[Ask("m0", 1.0, 5.0 + number / 100)] for number in range(60)]
    asks = [[Ask("m0", 10.0)], [Ask("m1", 1.0, 4.0)], *clients]
    outcome = Simulation(models, 100, asks, check=keeps_the_rules).run()
    (waiter,) = [request for request in outcome.requests if request.model == "m1"]
    assert waiter.wait <= 10.0 + TURN_SWAPS * 1.0 + 1.0 + 1.2


def test_a_burst_for_one_model_is_served_by_one_load() -> None:
    outcome = Simulation(some(3), 100, [[Ask("m0", 0.5, 0.1)] for _ in range(50)] + [[Ask("m1")], [Ask("m2")]]).run()
    assert len(outcome.loads) == 3


def test_what_fits_is_loaded_at_once_and_ends_nothing() -> None:
    outcome = Simulation(some(2), 200, [[Ask("m0", 5.0)], [Ask("m1", 5.0)]]).run()
    assert [time for time, _ in outcome.loads] == [0.0, 0.0]
    assert outcome.unloads == []


def test_no_more_is_unloaded_than_needed_the_least_recently_used_first() -> None:
    models = [SimulatedModel("old", 50), SimulatedModel("new", 50), SimulatedModel("large", 100)]
    asks = [Ask("old"), Ask("new"), Ask("large")]
    assert [name for _, name in Simulation(models, 150, [asks]).run().unloads] == ["old"]
    asks = [Ask("large"), Ask("old"), Ask("new")]
    assert [name for _, name in Simulation(models, 150, [asks]).run().unloads] == ["large"]
    # The least recently used one is too small, and the next one alone is enough.
    models[:2] = [SimulatedModel("old", 20), SimulatedModel("new", 60)]
    asks = [Ask("old"), Ask("new"), Ask("large")]
    assert [name for _, name in Simulation(models, 150, [asks]).run().unloads] == ["new"]


def test_a_model_takes_its_worker_from_the_one_that_has_it_and_leaves_others_alone() -> None:
    one, two = frozenset({"w1"}), frozenset({"w2"})
    models = [
        SimulatedModel("a", workers=one),
        SimulatedModel("b", workers=one),
        SimulatedModel("c", workers=two),
        SimulatedModel("d"),
    ]
    clients = [[Ask("d"), Ask("a"), Ask("c"), Ask("b"), Ask("a", 1.0, 20.0)]]
    outcome = Simulation(models, 10_000, clients, check=keeps_the_rules).run()
    assert all(request.began is not None for request in outcome.requests)
    assert [name for _, name in outcome.unloads] == ["a", "b"]
    both = [SimulatedModel("a", workers=one), SimulatedModel("b", workers=two), SimulatedModel("ab", workers=one | two)]
    outcome = Simulation(both, 10_000, [[Ask("a"), Ask("b"), Ask("ab")]], check=keeps_the_rules).run()
    assert {name for _, name in outcome.unloads} == {"a", "b"}
    assert outcome.requests[2].began is not None


@pytest.mark.parametrize("seed", range(5))
def test_waits_for_a_worker_are_bounded(seed: int) -> None:
    models = [SimulatedModel(f"m{number}", workers=frozenset({f"w{number % 2}"})) for number in range(6)]
    simulation = Simulation(models, 10_000, mixed(seed), check=keeps_the_rules)
    check_waits(simulation.run(), simulation, models, longest=2.0)


def test_a_worker_of_a_pinned_model_is_refused_at_once() -> None:
    worker = frozenset({"10.0.0.2:50052"})
    models = [SimulatedModel("kept", pinned=True, workers=worker), SimulatedModel("other", workers=worker)]
    outcome = Simulation(models, 1000, [[Ask("kept"), Ask("other")]], check=keeps_the_rules).run()
    refused = outcome.requests[1]
    assert refused.began is None
    assert "'other' needs the worker 10.0.0.2:50052, which the pinned model 'kept' has" in refused.refusal


def test_pinned_models_stay() -> None:
    models = [SimulatedModel("pinned", pinned=True, idle_seconds=1.0), *some(2)]
    asks = [Ask("pinned", keep_alive=0.0), *(Ask(f"m{number % 2}", pause=2.0) for number in range(10))]
    outcome = Simulation(models, 200, [asks], check=keeps_the_rules).run()
    assert "pinned" not in {name for _, name in outcome.unloads}
    assert len(outcome.loads) == 11


def test_what_can_never_fit_is_refused_at_once_with_numbers() -> None:
    models = [
        SimulatedModel("small", 10**9),
        SimulatedModel("huge", 3 * 10**9),
        SimulatedModel("pinned", 10**9, pinned=True),
    ]
    outcome = Simulation(models, 3 * 10**9, [[Ask("pinned"), Ask("huge"), Ask("small")]]).run()
    refused = outcome.requests[1]
    assert refused.began is None
    assert "'huge' takes 3.0 GB" in refused.refusal
    assert "may take 3.0 GB, of which pinned models take 1.0 GB" in refused.refusal
    assert outcome.requests[2].began is not None
    assert "huge" not in {name for _, name in outcome.loads}


def test_a_failed_load_refuses_what_waits_and_is_tried_again_later() -> None:
    models = [SimulatedModel("bad", bad_loads=1), SimulatedModel("good")]
    clients = [[Ask("bad"), Ask("bad", pause=1.0), Ask("bad", pause=5.0)], [Ask("bad", pause=0.5)], [Ask("good")] * 3]
    outcome = Simulation(models, 200, clients, check=keeps_the_rules).run()
    bad = sorted((request for request in outcome.requests if request.model == "bad"), key=lambda one: one.arrival)
    assert [request.began is None for request in bad] == [True, True, True, False]
    assert all("can't be loaded: the file is broken" in request.refusal for request in bad[:3])
    assert [name for _, name in outcome.loads] == ["bad", "good", "bad"]
    assert all(request.began is not None for request in outcome.requests if request.model == "good")


def test_idle_models_are_unloaded_after_their_time() -> None:
    models = [SimulatedModel("a", idle_seconds=10.0)]
    outcome = Simulation(models, 100, [[Ask("a", 1.0), Ask("a", 1.0, 9.0), Ask("a", 1.0, 20.0)]]).run()
    assert [time for time, _ in outcome.unloads] == pytest.approx([12.0 + 10.0, 34.0 + 10.0])


@pytest.mark.parametrize(
    ("keep_alive", "unloads"),
    [
        ([0.0, None], [2.0, 64.0]),
        ([5.0, None], [7.0, 64.0]),
        ([math.inf, None], []),
        ([math.inf, 0.0], [53.0]),
        ([None, None], [12.0, 64.0]),
    ],
)
def test_the_keep_alive_of_a_request_holds_until_the_next_one_or_the_unload(
    keep_alive: list[float | None], unloads: list[float]
) -> None:
    models = [SimulatedModel("a", idle_seconds=10.0)]
    first, second = keep_alive
    asks = [Ask("a", 1.0, keep_alive=first), Ask("a", 1.0, 50.0, keep_alive=second)]
    outcome = Simulation(models, 100, [asks]).run()
    times = [time for time, _ in outcome.unloads]
    assert times == pytest.approx(unloads)


def test_a_model_that_has_grown_beyond_the_memory_ends_when_it_is_idle() -> None:
    old, new = ModelLoad("old", 100), ModelLoad("new", 100)
    for model in (old, new):
        model.reported("serving", 0.0)
        model.measured(100)
    assert decide([old, new], 200, 1.0).unload == []
    new.arrived(2.0)
    new.began(2.0)
    new.measured(150)
    assert decide([old, new], 200, 4.0).unload == ["old"]
    assert new.need == 100, "its next load begins small again"


def test_an_engine_that_is_started_again_keeps_its_model() -> None:
    model = ModelLoad("a", 100)
    model.reported("serving", 0.0)
    model.reported("starting", 1.0)
    assert model.phase == "serving"


def test_turns_and_anticipation_follow_the_measured_swap() -> None:
    model = ModelLoad("a", 10**9)
    for load, turn in ((0.1, MIN_TURN), (2.0, 8.0), (600.0, MAX_TURN)):
        model.reported("unloaded", 0.0)
        model.load_ordered(0.0)
        model.reported("serving", load)
        assert model.turn_seconds == pytest.approx(turn)
        assert model.kept_until - load <= min(load, MAX_ANTICIPATION)


def test_the_fewest_loads_of_small_servers_are_known() -> None:
    far = 100.0
    assert fewest_loads([Wanted(0, far, "a"), Wanted(1, far, "b"), Wanted(2, far, "a")], 2, 1.0) == 2
    assert fewest_loads([Wanted(0, far, "a"), Wanted(1, far, "b"), Wanted(2, far, "a")], 1, 1.0) == 2
    assert fewest_loads([Wanted(0, 0, "a"), Wanted(1, 1, "b"), Wanted(2, 2, "a")], 1, 1.0) == 3
    three = [Wanted(number, number, "abc"[number % 3]) for number in range(9)]
    assert fewest_loads(three, 2, 1.0) == 2 + 4  # Belady's: every second request of the last seven misses.
    assert fewest_loads([Wanted(number, far, "abc"[number % 3]) for number in range(9)], 2, 1.0) == 3
