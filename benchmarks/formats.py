"""How fast the model is in each weight format that ``--weights`` knows."""

from __future__ import annotations

import contextlib
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.rates import decode, measure, prefill
from benchmarks.harness.results import Curve, Plot, figure
from tailrace.tools.load import Load

FORMATS = ("as-is", "near-lossless", "fast")
_STREAMS = (1, 8)


def _measure(options: Options) -> Findings:
    with contextlib.ExitStack() as stack:
        clients = {
            form: stack.enter_context(servers.tailrace(options.model, options.threads, "--weights", form))
            for form in FORMATS
        }
        tokens = options.tokens(96)
        loads = [Load(streams=count, prompt_tokens=32, output_tokens=tokens) for count in _STREAMS]
        runs = measure({form: client.run for form, client in clients.items()}, loads, min(options.turns, 5))
        reads = in_turns({form: partial(prefill, client) for form, client in clients.items()}, options.turns)
    rates = {f"decoding, {count}": {form: decode(runs[form][count]) for form in FORMATS} for count in _STREAMS}
    rates["reading a prompt"] = reads
    found = Findings(
        notes=["tailrace serve --weights; a format that isn't faster on this machine is left for the file as it is."]
    )
    for what, values in rates.items():
        for form in FORMATS[1:]:
            found.figures.append(figure(f"{form} ÷ as-is, {what}", ratios(values[form], values["as-is"])))
    curves = [
        Curve(
            label=form,
            x=list(rates),
            y=[figure(form, values[form]).median for values in rates.values()],
            low=[min(values[form]) for values in rates.values()],
            high=[max(values[form]) for values in rates.values()],
        )
        for form in FORMATS
    ]
    found.plots.append(
        Plot(title="Weight formats", x="", y="tokens a second", curves=curves, kind="bars", logarithmic=True)
    )
    return found


PART = Part("formats", "How fast is the model in each weight format?", _measure)

if __name__ == "__main__":
    standalone(PART)
