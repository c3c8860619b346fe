"""Compares several values of one option of ``tailrace serve``: decode and prefill rates with the same model file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Measurements, Options
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.rates import decode_rates, measure, prefill_rate
from benchmarks.harness.results import Curve, Plot, figure
from tailrace.loadtest.load_profile import LoadProfile


def compare_values(
    options: Options,
    option: str,
    values: Sequence[str],
    usual: str,
    streams: Sequence[int],
    *,
    turns: int,
    title: str,
    bound: float | None = None,
    of: str = "",
) -> Measurements:
    """The rate of every other value ÷ the rate of ``usual``, for each number of streams and for prefill.

    ``bound`` is the lower bound of each figure. Decoding is measured in ``turns`` turns. ``of`` begins the figures'
    labels, where several models are compared.
    """
    with contextlib.ExitStack() as stack:
        clients = {
            value: stack.enter_context(servers.tailrace(options.model, options.threads, option, value))
            for value in values
        }
        tokens = options.tokens(96)
        loads = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        runs = measure({value: client.run for value, client in clients.items()}, loads, turns)
        reads = run_interleaved(
            {value: partial(prefill_rate, client) for value, client in clients.items()}, options.turns
        )
    rates = {f"decoding, {count}": {value: decode_rates(runs[value][count]) for value in values} for count in streams}
    rates["reading a prompt"] = reads
    found = Measurements()
    for what, rate in rates.items():
        for value in values:
            if value != usual:
                said = f"{value} ÷ {usual}, {of}{what}"
                found.figures.append(figure(said, paired_ratios(rate[value], rate[usual]), bound=bound))
    curves = [
        Curve(
            label=value,
            x=list(rates),
            y=[figure(value, rate[value]).median for rate in rates.values()],
            low=[min(rate[value]) for rate in rates.values()],
            high=[max(rate[value]) for rate in rates.values()],
        )
        for value in values
    ]
    plot = Plot(title=title, x="", y="tokens a second", curves=curves, kind="bars", logarithmic=True)
    found.plots.append(plot)
    return found
