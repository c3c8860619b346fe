"""Draws a ``Plot`` as SVG, in colours that stay apart for colour-blind eyes and on light and dark paper."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogFormatter

from benchmarks.harness.results import Curve, Plot

#: Okabe and Ito's palette, without its yellow, which white paper swallows.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_GREY = "#808080"
_SIZE = (7.2, 3.6)

matplotlib.rcParams.update(
    {
        # Text stays text: it can be searched and takes the page's font.
        "svg.fonttype": "none",
        # The same results make the same file.
        "svg.hashsalt": "benchmarks",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#80808040",
        "text.color": _GREY,
        "axes.labelcolor": _GREY,
        "axes.edgecolor": _GREY,
        "xtick.color": _GREY,
        "ytick.color": _GREY,
    }
)


def draw(plot: Plot) -> str:
    """The plot as an ``<svg>`` element with a transparent ground."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    {"lines": _lines, "bars": _bars, "dots": _dots}[plot.kind](axes, plot.curves)
    if plot.bound is not None:
        axes.axhline(plot.bound, color=_GREY, linestyle="--", linewidth=1, label=f"bound {plot.bound:g}")
    if plot.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        # Labels between the powers of ten where there are few of those.
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    elif plot.kind != "lines" or plot.bound is None:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, markerscale=3 if plot.kind == "dots" else 1)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _lines(axes: Axes, curves: list[Curve]) -> None:
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(curve.x, curve.y, marker="o", markersize=4, color=colour, label=curve.label)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    values = sorted({x for curve in curves for x in curve.x if not isinstance(x, str)})
    if values and all(value >= 1 for value in values):
        # Streams double.
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()


def _bars(axes: Axes, curves: list[Curve]) -> None:
    width = 0.8 / len(curves)
    for number, curve in enumerate(curves):
        places = [index + width * (number - (len(curves) - 1) / 2) for index in range(len(curve.x))]
        axes.bar(places, curve.y, width, color=_COLOURS[number % len(_COLOURS)], label=curve.label)
        if curve.low is not None and curve.high is not None:
            below = [y - low for y, low in zip(curve.y, curve.low, strict=True)]
            above = [high - y for y, high in zip(curve.y, curve.high, strict=True)]
            axes.errorbar(places, curve.y, [below, above], fmt="none", ecolor=_GREY, elinewidth=1, capsize=2)
    axes.set_xticks(range(len(curves[0].x)), [str(x) for x in curves[0].x])


def _dots(axes: Axes, curves: list[Curve]) -> None:
    for number, curve in enumerate(curves):
        axes.scatter(curve.x, curve.y, s=5, color=_COLOURS[number % len(_COLOURS)], label=curve.label, linewidths=0)
