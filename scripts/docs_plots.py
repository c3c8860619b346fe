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


PLOTS: dict[str, Callable[[], Chart]] = {
    "llama-server": lambda: _columns("tailrace ÷ llama-server", "Against llama-server", "llama-server"),
    "fast-weights": lambda: _columns(
        "tailrace with --weights fast ÷ llama-server", "Against llama-server", "llama-server", 1
    ),
    "experts": lambda: _columns(
        "Mixtures of experts: speed of a step ÷ llama.cpp's", "Mixtures of experts", "llama.cpp"
    ),
    "api": _api,
    "cache-types": _cache_types,
    "speculation": lambda: _columns("Decode with draft tokens ÷ without", "Speculation", "without"),
    "grammar": lambda: _columns("Decode with a JSON schema ÷ without", "Structured output", "without"),
}


def drawn(chart: Chart, ink: str, line: str) -> str:
    """The chart as an SVG document. ``ink`` is the text's colour, ``line`` the axis'."""
    bars = [bar for _, row in chart.rows for bar in row if bar]
    top = max(max(bar.high or bar.value for bar in bars), 1.0) * 1.05
    left = 20 + _CHARACTER * max(len(label) for label, _ in chart.rows)
    scale = (_WIDTH - left - _RIGHT) / top
    reference = left + scale if chart.reference else 0.0
    parts, y = [], 16.0
    if len(chart.series) > 1:
        place = float(left)
        for number, name in enumerate(chart.series):
            parts.append(f'<rect x="{place:.0f}" y="{y - 11:.0f}" width="12" height="12" fill="{_COLOURS[number]}"/>')
            parts.append(f'<text x="{place + 18:.0f}" y="{y:.0f}">{escape(name)}</text>')
            place += 34 + 7.2 * len(name)
        y += 18
    begin = y
    for label, row in chart.rows:
        shown = [(number, bar) for number, bar in enumerate(row) if bar]
        middle = y + len(shown) * _BAR / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for number, one in shown:
            end = left + one.value * scale
            parts.append(
                f'<rect x="{left}" y="{y + 1:.0f}" width="{one.value * scale:.1f}" height="{_BAR - 3}" rx="2"'
                f' fill="{_COLOURS[number]}"/>'
            )
            if one.low is not None and one.high is not None:
                x1, x2, centre = left + one.low * scale, left + one.high * scale, y + _BAR / 2 - 0.5
                parts.append(
                    f'<path d="M{x1:.1f} {centre}H{x2:.1f}M{x1:.1f} {centre - 4}v8M{x2:.1f} {centre - 4}v8"'
                    f' stroke="{ink}" fill="none"/>'
                )
                end = max(end, x2)
            # A figure doesn't stand on the line of the reference.
            place = reference + 6 if end - 2 <= reference <= end + 45 else end + 8
            parts.append(f'<text x="{place:.1f}" y="{y + _BAR - 5:.0f}">{one.value:g}{chart.unit}</text>')
            y += _BAR
        y += _GAP
    base = y - _GAP / 2
    parts.insert(0, f'<path d="M{left} {begin - 4:.0f}V{base:.0f}" stroke="{line}"/>')
    if chart.reference:
        dashed = f'<path d="M{reference:.1f} {begin - 4:.0f}V{base:.0f}" stroke="{ink}" stroke-dasharray="4 3"/>'
        words = (
            f'<text x="{reference:.1f}" y="{base + 16:.0f}" text-anchor="middle">1 = {escape(chart.reference)}</text>'
        )
        parts += [dashed, words]
        base += 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {base + 6:.0f}" role="img" fill="{ink}"'
        ' font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{escape(chart.title)}</title>{''.join(parts)}</svg>\n"
    )


def plots() -> dict[str, str]:
    """All plots as SVG documents, by file name."""
    charts = {name: chart() for name, chart in PLOTS.items()}
    return {
        f"{name}{suffix}.svg": drawn(chart, *inks) for name, chart in charts.items() for suffix, inks in _INKS.items()
    }
