"""The choice of a measured value, the records of tuning, and their precedence among settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.machine.topology import Core, Node, Topology
from tailrace.machine.tuning_record import (
    TuningRecord,
    TuningRow,
    TuningStore,
    choose_value,
    thread_counts,
    usable_cpus,
)
from tailrace.settings import resolve


def machine(*, cores: int = 4, model: str = "A CPU", bound: frozenset[int] | None = None) -> Topology:
    return Topology(
        cores=tuple(Core(package=0, node=0, cpus=(number,)) for number in range(cores)),
        nodes=(Node(number=0, memory=1, available=1),),
        affinity=bound,
        model=model,
    )


TUNED = TuningRecord(
    model="m.gguf",
    machine="A CPU",
    usable="0-3",
    settings={"threads": 3, "poll": 50},
    weights={"fast": "Q4_0-KV8", "near-lossless": "as-is"},
    rows=(
        TuningRow(setting="threads", value="3", figures=(1.0, 2.0, 3.0), ratio=1.2, usual=False, chosen=True, why="w"),
    ),
)


def test_the_fastest_wins_by_the_median_of_the_rounds() -> None:
    rounds = [{"2": 100.0, "4": 130.0}, {"2": 100.0, "4": 120.0}, {"2": 100.0, "4": 10.0}]
    value, ratios, why = choose_value("threads", "2", rounds)
    assert (value, ratios["4"], why) == ("4", 1.2, "1.20 × 2")


def test_rounds_are_compared_within_themselves() -> None:
    # The machine was three times as fast in the first round; 4 is ahead by a tenth in every one.
    rounds = [{"2": 300.0, "4": 330.0}, {"2": 100.0, "4": 110.0}, {"2": 100.0, "4": 110.0}]
    value, ratios, _ = choose_value("threads", "2", rounds)
    assert value == "4"
    assert ratios["4"] == pytest.approx(1.1)


def test_a_difference_within_the_noise_changes_nothing() -> None:
    value, _, why = choose_value("poll", "1", [{"0": 90.0, "1": 100.0, "50": 102.0}])
    assert (value, why) == ("1", "50 is at most 3 % faster")


def test_the_default_value_may_be_the_fastest() -> None:
    assert choose_value("poll", "1", [{"1": 100.0, "50": 99.0}])[::2] == ("1", "the fastest")


@pytest.mark.parametrize(
    ("cores", "cpus", "counts"),
    [
        (1, 1, [1]),
        (2, 2, [1, 2]),
        (4, 8, [1, 2, 3, 4, 8]),
        (64, 128, [1, 16, 32, 48, 63, 64, 128]),
    ],
)
def test_thread_counts_are_few_and_reach_from_one_to_all(cores: int, cpus: int, counts: list[int]) -> None:
    assert thread_counts(cores, cpus, quick=False) == counts
    assert set(thread_counts(cores, cpus, quick=True)) <= {*counts, cores // 2}


def test_a_record_is_found_again(tmp_path: Path) -> None:
    store = TuningStore(tmp_path / "tuned")
    assert store.find("model", machine(), "1.0") is None
    store.save(TUNED, "model", machine(), "1.0")
    assert store.find("model", machine(), "1.0") == TUNED
    assert [path.suffix for path in (tmp_path / "tuned").iterdir()] == [".json"]


def test_another_model_machine_or_library_is_another_record(tmp_path: Path) -> None:
    store = TuningStore(tmp_path)
    store.save(TUNED, "model", machine(), "1.0")
    assert store.find("other", machine(), "1.0") is None
    assert store.find("model", machine(model="Another CPU"), "1.0") is None
    assert store.find("model", machine(), "1.1") is None


def test_fewer_cpus_are_the_same_record_with_other_usable_ones(tmp_path: Path) -> None:
    # Formats depend on the kind of CPU, thread counts on the usable CPUs: readers of a record compare these.
    store = TuningStore(tmp_path)
    store.save(TUNED, "model", machine(), "1.0")
    bound = machine(bound=frozenset({0, 1}))
    assert usable_cpus(bound) == "0-1"
    found = store.find("model", bound, "1.0")
    assert found is not None
    assert found.usable == "0-3"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = TuningStore(tmp_path)
    store.save(TUNED, "model", machine(), "1.0").write_text("{")
    with pytest.raises(ConfigurationError, match=r"can't be read: .* Remove it, or run tailrace tune again"):
        store.find("model", machine(), "1.0")


def test_the_state_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert TuningStore().folder == tmp_path / "tailrace" / "tuned"


def test_tuned_beats_default_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("poll = 10\n")
    resolved = resolve({"prefill_chunk": 64}, {"TAILRACE_THREADS": "2"}, file)
    after = resolved.tuned({"threads": 3, "threads_prefill": 4, "poll": 50, "prefill_chunk": 256})
    settings, origins = after.settings, after.origins
    assert (settings.threads, origins["threads"]) == (2, "environment")
    assert (settings.poll, origins["poll"]) == (10, "file")
    assert (settings.prefill_chunk, origins["prefill_chunk"]) == (64, "flag")
    assert (settings.threads_prefill, origins["threads_prefill"]) == (4, "tuned")
    assert origins["ctx"] == "default"
    assert resolved.origins["threads_prefill"] == "default"


def test_settings_of_a_later_version_are_ignored() -> None:
    assert resolve({}, {}).tuned({"warp": 9}).origins == resolve({}, {}).origins


def test_an_invalid_tuned_value_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"threads \(tuned\) can't be -1"):
        resolve({}, {}).tuned({"threads": -1})
