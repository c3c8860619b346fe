"""The plots of the performance page: bars drawn from the tables of benchmarks/results.md, for light and dark pages.

Owns which tables are drawn, and the drawing. A page has a plot where it says ``<!-- plot: NAME -->``. No figure is
written here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html import escape

from docs_links import ROOT

RESULTS = ROOT / "benchmarks" / "results.md"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RANGE = re.compile(r"\((\d[\d.]*) to (\d[\d.]*)\)")

#: Okabe and Ito's colours, which stay apart for colour-blind eyes on light and on dark ground.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
_INKS = {"": ("#1f2328", "#d0d7de"), "-dark": ("#e6e9ef", "#4a5060")}
_WIDTH, _RIGHT, _BAR, _GAP = 720, 70, 18, 14
#: Width of a character of a label, on average.
_CHARACTER = 7


@dataclasses.dataclass(frozen=True)
class Bar:
    """One figure, with its range where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """Groups of bars: ``rows`` has a label, and a bar or None for each of ``series``."""

    title: str
    series: list[str]
    rows: list[tuple[str, list[Bar | None]]]
    reference: str = ""  #: what 1 is, where bars are ratios
    unit: str = ""


def table(heading: str, number: int = 0) -> tuple[list[str], list[list[str]]]:
    """A table of the results: its head, and its rows. Raises ValueError where there is none."""
    text = RESULTS.read_text(encoding="utf-8")
    section = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##+ |\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?:^\|.*\n)+", section.group(1), re.MULTILINE) if section else []
    if number >= len(found):
        raise ValueError(f"benchmarks/results.md has no table {number + 1} under {heading!r}, which the site draws")
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found[number].splitlines()]
    return lines[0], lines[2:]


def bar(cell: str) -> Bar | None:
    """The figure of a cell such as ``1.75 (1.74 to 1.79)``; None where it has none."""
    number, span = _NUMBER.match(cell), _RANGE.search(cell)
    if number is None:
        return None
    return Bar(float(number.group()), *(float(bound) for bound in span.groups()) if span else ())


def _columns(title: str, heading: str, reference: str, number: int = 0) -> Chart:
    """All columns of a table as series."""
    head, rows = table(heading, number)
    return Chart(title, head[1:], [(row[0], [bar(cell) for cell in row[1:]]) for row in rows], reference)


def _api() -> Chart:
    head, rows = table("The API against the engine")
    column = head.index("API ÷ engine")
    labels, model = [], ""
    for row in rows:
        model = row[0] or model
        streams = "1 stream" if row[1] == "1" else f"{row[1]} streams"
        labels.append((f"{model.rpartition(', ')[2]}, {streams}", [bar(row[column])]))
    return Chart("Decode through the API ÷ the engine alone", ["API ÷ engine"], labels, "the engine alone")


def _cache_types() -> Chart:
    head, rows = table("Types of the KV cache")
    column = next(place for place, name in enumerate(head) if name.startswith("8 replies"))
    drawn = [(row[0].removesuffix(" ÷ F16"), [bar(row[column])]) for row in rows if row[0].endswith("÷ F16")]
    return Chart(
        "CPU time of a step, 8 replies behind 2,000 tokens each ÷ F16", ["CPU time"], drawn, "F16, own kernels"
    )


def _flood() -> Chart:
    head, rows = table("Long prompts beside running replies")
    row = next(row for row in rows if row[0] == "longest gap")
    drawn: list[tuple[str, list[Bar | None]]] = []
    for name, cell in zip(head[1:], row[1:], strict=True):
        gaps = _milliseconds(cell)
        drawn.append((name, [Bar(gaps[0], min(gaps), max(gaps)) if len(gaps) > 1 else Bar(gaps[0])]))
    return Chart(
        "Longest gap of four streams while a prompt of 4,000 tokens is read", ["longest gap"], drawn, unit=" ms"
    )


def _milliseconds(cell: str) -> list[float]:
    """All durations of a cell such as ``44 ms; 251 ms in one turn of five``."""
    return [float(number) * (1000 if unit == "s" else 1) for number, unit in re.findall(r"(\d[\d.]*) (ms|s)\b", cell)]


PLOTS: dict[str, Callable[[], Chart]] = {
    "llama-server": lambda: _columns("tailrace ÷ llama-server", "Against llama-server", "llama-server"),
    "fast-weights": lambda: _columns(
        "tailrace with --weights fast ÷ llama-server", "Against llama-server", "llama-server", 1
    ),
    "experts": lambda: _columns(
        "Mixtures of experts: speed of a step ÷ llama.cpp's", "Mixtures of experts", "llama.cpp"
    ),
    "api": _api,
    "flood": _flood,
    "cache-types": _cache_types,
    "speculation": lambda: _columns("Decode with draft tokens ÷ without", "Speculation", "without"),
    "grammar": lambda: _columns("Decode with a JSON schema ÷ without", "Structured output", "without"),
}


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Where values are on the paper, and what 1 is."""

    left: float
    scale: float
    reference: float | None
    ink: str

    def at(self, value: float) -> float:
        return self.left + value * self.scale


def drawn(chart: Chart, ink: str, line: str) -> str:
    """The chart as an SVG document. ``ink`` is the text's colour, ``line`` the axis'."""
    top = max(1.0, *(bar.high or bar.value for _, row in chart.rows for bar in row if bar)) * 1.05
    left = 20 + _CHARACTER * max(len(label) for label, _ in chart.rows)
    scale = (_WIDTH - left - _RIGHT) / top
    axis = _Axis(left, scale, left + scale if chart.reference else None, ink)
    begin = y = 16.0 if len(chart.series) == 1 else 34.0
    parts = _legend(chart.series, left)
    for label, row in chart.rows:
        shown = [(bar, colour) for bar, colour in zip(row, _COLOURS, strict=False) if bar]
        middle = y + len(shown) * _BAR / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for bar, colour in shown:
            parts += _bar(bar, colour, y, axis, chart.unit)
            y += _BAR
        y += _GAP
    base = y - _GAP / 2
    parts.insert(0, f'<path d="M{left} {begin - 4:.0f}V{base:.0f}" stroke="{line}"/>')
    if axis.reference is not None:
        x = f"{axis.reference:.1f}"
        parts.append(f'<path d="M{x} {begin - 4:.0f}V{base:.0f}" stroke="{ink}" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x}" y="{base + 16:.0f}" text-anchor="middle">1 = {escape(chart.reference)}</text>')
        base += 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {base + 6:.0f}" role="img" fill="{ink}"'
        ' font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{escape(chart.title)}</title>{''.join(parts)}</svg>\n"
    )


def _legend(series: list[str], left: float) -> list[str]:
    """The names of the series with their colours, where there are several."""
    if len(series) == 1:
        return []
    parts, x = [], left
    for name, colour in zip(series, _COLOURS, strict=False):
        parts.append(f'<rect x="{x:.0f}" y="5" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="16">{escape(name)}</text>')
        x += 34 + _CHARACTER * len(name)
    return parts


def _bar(bar: Bar, colour: str, y: float, axis: _Axis, unit: str) -> list[str]:
    """One bar with its range and its figure. ``y`` is its upper edge."""
    width, end = bar.value * axis.scale, axis.at(bar.value)
    height = _BAR - 3
    parts = [f'<rect x="{axis.left}" y="{y + 1:.0f}" width="{width:.1f}" height="{height}" rx="2" fill="{colour}"/>']
    if bar.low is not None and bar.high is not None:
        low, high, middle = axis.at(bar.low), axis.at(bar.high), y + _BAR / 2 - 0.5
        ends = f"M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}{ends}" stroke="{axis.ink}" fill="none"/>')
        end = max(end, high)
    place = end + 8
    if axis.reference is not None and end - 2 <= axis.reference <= end + 45:
        place = axis.reference + 6  # not on the line of the reference
    return [*parts, f'<text x="{place:.1f}" y="{y + _BAR - 5:.0f}">{bar.value:g}{unit}</text>']


def plots() -> dict[str, str]:
    """All plots as SVG documents, by file name."""
    charts = {name: chart() for name, chart in PLOTS.items()}
    return {
        f"{name}{suffix}.svg": drawn(chart, *inks) for name, chart in charts.items() for suffix, inks in _INKS.items()
    }
