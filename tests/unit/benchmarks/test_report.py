"""The report: its file of results, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import report, results
from benchmarks.harness.number_format import number
from benchmarks.harness.results import Curve, Plot, Result, figure


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
