"""Writes results as one self-contained HTML file: no script, no external address, inline plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.harness import plots
from benchmarks.harness.number_format import number, span
from benchmarks.harness.results import Figure, Result

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #009e73; --bad: #d55e00; --dim: #808080; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
.undecided { font-style: italic; } .dim { color: var(--dim); }
figure { margin: 1.5rem 0; overflow-x: auto; } figcaption { font-weight: 600; } svg { max-width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
code { font-size: .9em; }
"""


def write(results: Sequence[Result], path: Path) -> None:
    """Write the report. Raises ValueError without results."""
    if not results:
        raise ValueError("there are no results to report")
    body = [_opening(results), _summary(results), *(_section(result) for result in results)]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>tailrace benchmarks</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body)
    )
    path.write_text(page + "\n</body>\n</html>\n", encoding="utf-8")


def _opening(results: Sequence[Result]) -> str:
    """The introduction, and what all results have in common of the machine."""
    machine = _common_machine(results)
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in machine.items())
    return (
        "<h1>tailrace benchmarks</h1>\n<p>Every ratio is of sides that took turns within one run, with the same model, "
        "the same threads and the same prompts; medians, between which values the median of many more turns would lie "
        "in 95 of 100 measurements, and the range. A bound between those values is undecided. Absolute figures are "
        f"this machine's.</p>\n<table>{rows}</table>"
    )


def _common_machine(results: Sequence[Result]) -> dict[str, str]:
    first = results[0].machine
    return {key: value for key, value in first.items() if all(result.machine.get(key) == value for result in results)}


def _summary(results: Sequence[Result]) -> str:
    rows = [
        f'<tr><td><a href="#{result.benchmark}">{result.benchmark}</a></td>{_cells(one)}</tr>'
        for result in results
        for one in result.figures
        if one.bound is not None
    ]
    if not rows:
        return ""
    return f"<h2>Figures with a bound</h2>\n<table>{_head('part')}{''.join(rows)}</table>"


def _section(result: Result) -> str:
    blocks = [
        f'<h2 id="{result.benchmark}">{escape(result.question)}</h2>',
        f"<p><code>{escape(result.command)}</code></p>",
        f"<table>{_head()}{''.join(f'<tr>{_cells(one)}</tr>' for one in result.figures)}</table>",
    ]
    blocks += [
        f"<figure><figcaption>{escape(plot.title)}</figcaption>{plots.draw(plot)}</figure>" for plot in result.plots
    ]
    blocks += [f'<p class="dim">{escape(note)}</p>' for note in result.notes]
    took = f"{result.machine.get('date', '')}, {result.seconds:.0f} s, {result.machine.get('tailrace', '')}"
    blocks.append(f'<p class="dim">{escape(took)}</p>')
    return "\n".join(blocks)


def _head(first: str | None = None) -> str:
    part = f"<th>{first}</th>" if first else ""
    names = "".join(f'<th class="n">{name}</th>' for name in ("median", "95 %", "range", "bound"))
    return f"<tr>{part}<th></th>{names}<th></th></tr>"


def _cells(one: Figure) -> str:
    bound = "" if one.bound is None else f"{'≤' if one.is_upper_bound else '≥'} {one.bound:g}"
    word = one.verdict
    interval = span(one.interval)
    limits = span((one.low, one.high)) if one.turns > 1 else ""
    return (
        f'<td>{escape(one.label)}</td><td class="n">{number(one.median)} {escape(one.unit)}</td>'
        f'<td class="n">{interval}</td><td class="n">{limits}</td><td class="n">{bound}</td>'
        f'<td class="{word}">{word}</td>'
    )
