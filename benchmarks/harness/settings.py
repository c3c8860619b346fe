"""``tailrace serve`` with several values of one option, the file the same: how fast it decodes and reads with each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, ratios
from benchmarks.harness.part import Findings, Options
from benchmarks.harness.rates import decode, measure, prefill
from benchmarks.harness.results import Curve, Plot, figure
from tailrace.loadtest.load import Load


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
) -> Findings:
    """A figure for every value but ``usual`` ÷ that, at each number of streams and reading a prompt, each of at least
    ``bound``, and a plot of all values' rates. Decoding is measured in ``turns`` turns. ``of`` is what figures are said
    to be of, where there are several models.
    """
    with contextlib.ExitStack() as stack:
        clients = {
            value: stack.enter_context(servers.tailrace(options.model, options.threads, option, value))
            for value in values
        }
        tokens = options.tokens(96)
        loads = [Load(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        runs = measure({value: client.run for value, client in clients.items()}, loads, turns)
        reads = in_turns({value: partial(prefill, client) for value, client in clients.items()}, options.turns)
    rates = {f"decoding, {count}": {value: decode(runs[value][count]) for value in values} for count in streams}
    rates["reading a prompt"] = reads
    found = Findings()
    for what, rate in rates.items():
        for value in values:
            if value != usual:
                said = f"{value} ÷ {usual}, {of}{what}"
                found.figures.append(figure(said, ratios(rate[value], rate[usual]), bound=bound))
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
