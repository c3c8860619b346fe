"""What the matrix kernels of our own give against llama.cpp's, the same file on either side."""

from __future__ import annotations

import contextlib
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.rates import decode, measure, prefill
from benchmarks.harness.results import Curve, Plot, figure
from tailrace.tools.load import Load

_SIDES = ("on", "off")
_STREAMS = (1, 4, 8)


def _measure(options: Options) -> Findings:
    with contextlib.ExitStack() as stack:
        clients = {
            side: stack.enter_context(servers.tailrace(options.model, options.threads, "--kernels", side))
            for side in _SIDES
        }
        tokens = options.tokens(96)
        loads = [Load(streams=count, prompt_tokens=32, output_tokens=tokens) for count in _STREAMS]
        runs = measure({side: client.run for side, client in clients.items()}, loads, options.turns)
        reads = in_turns({side: partial(prefill, client) for side, client in clients.items()}, options.turns)
    rates = {f"decoding, {count}": {side: decode(runs[side][count]) for side in _SIDES} for count in _STREAMS}
    rates["reading a prompt"] = reads
    found = Findings(
        notes=["tailrace serve --kernels on and off; tailrace doctor tells for which formats there are any."]
    )
    for what, values in rates.items():
        found.figures.append(figure(f"on ÷ off, {what}", ratios(values["on"], values["off"])))
    curves = [
        Curve(
            label=f"kernels {side}",
            x=list(rates),
            y=[figure(side, values[side]).median for values in rates.values()],
            low=[min(values[side]) for values in rates.values()],
            high=[max(values[side]) for values in rates.values()],
        )
        for side in _SIDES
    ]
    found.plots.append(Plot(title="Matrix kernels", x="", y="tokens a second", curves=curves, kind="bars"))
    return found


PART = Part("kernels", "What do the matrix kernels of our own give?", _measure)

if __name__ == "__main__":
    standalone(PART)
