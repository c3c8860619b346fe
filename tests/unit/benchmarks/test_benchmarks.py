"""The benchmarks' own arithmetic, their arguments and their report."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, select_benchmarks
from benchmarks.flood import evaluate
from benchmarks.harness import report, results
from benchmarks.harness.number_format import number
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.rates import decode_rates, measure
from benchmarks.harness.results import Curve, Plot, Result, figure, median_interval
from benchmarks.slots import make_requests, steady_rate
from tailrace.loadtest.bench_client import BenchError
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming, load_stats, percentile

ROOT = Path(__file__).parents[3]


def test_sides_alternate_and_reverse_their_order() -> None:
    calls: list[str] = []

    def side(name: str, turn: int) -> int:
        calls.append(f"{name}{turn}")
        return turn

    found = run_interleaved({"a": lambda turn: side("a", turn), "b": lambda turn: side("b", turn)}, 2)
    assert calls == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert found == {"a": [1, 2], "b": [1, 2]}


def test_a_side_between_two_others_is_next_to_both() -> None:
    calls: list[str] = []
    sides = {name: lambda _, name=name: calls.append(name) for name in "abc"}
    run_interleaved(sides, 2, warm_up=0)
    assert "".join(calls) == "abccba"


def test_prompts_are_others_each_turn_unless_they_are_to_be_the_same() -> None:
    def prompts(*, same: bool) -> list[list[str]]:
        seen: list[list[str]] = []

        def side(load: LoadProfile, turn: int) -> list[StreamTiming]:
            seen.append(load.prompts(turn))
            return [StreamTiming(0.0, [1.0, 2.0])]

        measure({"a": side}, [LoadProfile(streams=1, prompt_tokens=20, output_tokens=2)], 2, same_prompts=same)
        return seen

    first, *others = prompts(same=True)
    assert others == [first, first]
    assert len({str(seen) for seen in prompts(same=False)}) == 3


def test_a_ratio_is_of_turns_of_the_same_number() -> None:
    assert paired_ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="longer"):
        paired_ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("part", "value"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_of_the_nearest_rank(part: float, value: int) -> None:
    assert percentile(list(range(100, -1, -1)), part) == value


def test_a_figure_is_held_against_its_bound_on_the_right_side() -> None:
    least = figure("speed", [0.96, 0.99, 0.98], bound=0.97)
    assert (least.median, least.low, least.high, least.turns, least.met) == (0.98, 0.96, 0.99, 3, True)
    most = figure("wait", [0.2, 0.3], bound=0.1, is_upper_bound=True)
    assert most.met is False
    assert figure("speed", [1.0]).met is None
    with pytest.raises(ValueError, match="nothing was measured"):
        figure("speed", [])


def test_flood_gaps_are_separated_by_the_prompts_time() -> None:
    first = StreamTiming(0.0, [1.0, 1.01, 1.02, 1.12, 1.22, 1.23])
    second = StreamTiming(0.0, [1.005, 1.015, 1.025, 1.125, 1.225, 1.235])
    found = evaluate([first, second, StreamTiming(1.1, [1.222, 1.3])])
    # The first stream's gap before the second one ran counts for neither.
    assert found.gaps_before == pytest.approx([10.0, 10.0, 10.0])
    assert found.gaps_during == pytest.approx([100.0, 100.0, 10.0, 100.0, 100.0])
    assert found.prefill_seconds == pytest.approx(0.122)
    assert found.max_reply_tokens == 5


def test_the_same_requests_stay_in_both_sides_of_a_turn_and_begin_among_others() -> None:
    mixed, alone = make_requests(3, 120)
    assert [ask.messages for ask in mixed[-4:]] == [ask.messages for ask in alone]
    assert all(ask.start_after is None for ask in alone)
    # Whoever waits for somebody waits for one who writes more than that, else it would wait for ever.
    for ask in mixed:
        if ask.start_after is not None:
            other, events = ask.start_after
            assert mixed[other].max_tokens >= events
    assert make_requests(3, 120) == (mixed, alone)


def test_a_steady_rate_counts_from_where_all_have_come_so_far() -> None:
    even = StreamTiming(0.0, [0.1 * index for index in range(107)])
    late = StreamTiming(0.0, [0.05 + 0.1 * index for index in range(107)])
    assert steady_rate([even, late]) == pytest.approx(20.0, rel=0.1)
    with pytest.raises(ValueError, match="don't run together"):
        steady_rate([even, StreamTiming(0.0, [100.0 + index for index in range(107)])])


def test_benchmarks_are_selected_by_name_and_unknown_ones_refused() -> None:
    assert [part.name for part in select_benchmarks("flood, slots")] == ["flood", "slots"]
    assert select_benchmarks(None) == list(BENCHMARKS)
    with pytest.raises(ValueError, match=r"there is no benchmark floods; there are .*flood"):
        select_benchmarks("floods")


def test_every_part_is_a_module_with_a_row_in_the_documentation() -> None:
    rows = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for part in BENCHMARKS:
        assert (ROOT / "benchmarks" / f"{part.name}.py").exists()
        assert f"| `{part.name}`" in rows


@pytest.mark.parametrize(
    ("count", "ends"), [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (12, (3, 10)), (21, (6, 16))]
)
def test_the_median_s_interval_is_the_sign_test_s(count: int, ends: tuple[int, int] | None) -> None:
    # As in any table of the sign test, two-sided, at 5 %.
    assert median_interval([float(value) for value in range(count, 0, -1)]) == ends


def test_a_bound_within_the_interval_is_undecided() -> None:
    ratios = [0.97, 0.98, 0.99, 1.0, 1.01, 1.02]
    assert [figure("a", ratios, bound=bound).verdict for bound in (0.97, 0.98, 1.02, 1.03)] == [
        "met",
        "undecided",
        "undecided",
        "missed",
    ]
    assert [figure("a", ratios, bound=bound, is_upper_bound=True).verdict for bound in (0.96, 0.97, 1.02)] == [
        "missed",
        "undecided",
        "met",
    ]
    # Too few say what their median says.
    assert figure("a", ratios[:3], bound=0.98).verdict == "met"
    assert figure("a", ratios).verdict == ""


@pytest.mark.parametrize(("value", "shown"), [(0.97123, "0.971"), (12.345, "12.3"), (4321.0, "4321")])
def test_numbers_have_the_digits_that_they_deserve(value: float, shown: str) -> None:
    assert number(value) == shown


def _result(part: str) -> Result:
    curve = Curve(label="A & B", x=[1.0, 4.0], y=[10.0, 20.0], low=[9.0, 19.0], high=[11.0, 21.0])
    named = Curve(label="bars", x=["turn 1", "turn 2"], y=[3.0, 4.0], low=[2.0, 3.0], high=[4.0, 5.0])
    return Result(
        benchmark=part,
        question="Is a < b?",
        command=f"python -m benchmarks.{part}",
        figures=[figure("a ÷ b", [0.5, 0.6], bound=0.97), figure("rate", [100.0], unit="tok/s")],
        plots=[
            Plot(title="Lines", x="streams", y="rate", curves=[curve], bound=0.97),
            Plot(title="Bars", x="", y="ms", curves=[named], kind="bars", logarithmic=True),
            Plot(title="Dots", x="s", y="ms", curves=[curve], kind="dots"),
        ],
        notes=["a note"],
        machine={"CPU": f"of {part}", "model": "m"},
    )


def test_results_are_read_back_in_the_report_s_order(tmp_path: Path) -> None:
    for part in ("one", "two", "other"):
        results.save(_result(part), tmp_path)
    assert results.load(tmp_path, ["two", "missing", "one"]) == [_result("two"), _result("one")]


def test_a_report_is_self_contained_and_shows_missed_bounds(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write([_result("one"), _result("two")], path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert "Is a &lt; b?" in page
    assert '<td class="missed">missed</td>' in page
    assert "src=" not in page
    assert "<script" not in page
    # The parts' machines differ in their CPU, so none is everybody's.
    assert "of one" not in page
    with pytest.raises(ValueError, match="no results"):
        report.write([], path)


def test_streams_that_never_ran_together_are_no_rate() -> None:
    apart = load_stats([StreamTiming(0.0, [1.0, 1.1]), StreamTiming(0.0, [2.0, 2.1])])
    together = load_stats([StreamTiming(0.0, [1.0, 1.1]), StreamTiming(0.0, [1.0, 1.1])])
    assert decode_rates([together]) == pytest.approx([20.0])
    with pytest.raises(BenchError, match="2 streams never ran together"):
        decode_rates([together, apart])
