"""Compares the engine's loop with llama.cpp's own benchmark: one stream, decoding."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from benchmarks.harness.side_process import start_side
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import load_stats
from tailrace.settings import Settings

_BOUND = 0.97
_PROMPT = 64


def _measure(options: Options) -> Measurements:
    load = LoadProfile(streams=1, prompt_tokens=_PROMPT, output_tokens=options.tokens(128))
    settings = Settings(threads=options.threads, parallel=1, speculate="off")
    found = Measurements()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(start_side("engine", options.model, settings))
        raw = stack.enter_context(start_side("raw", options.model, settings))
        sides: dict[str, Callable[[int], float]] = {
            "engine": lambda turn: load_stats(engine.run(load, turn)).decode_rate,
            "raw": lambda turn: load_stats(raw.run(load, turn)).decode_rate,
        }
        if shutil.which("llama-bench"):
            sides["llama-bench"] = lambda _: _llama_bench(options, load.output_tokens)
            found.notes.append(f"llama-bench with -p 0 -d {_PROMPT} and its defaults otherwise")
        else:
            found.notes.append("llama-bench isn't on the path; the bare llama_decode loop stands for it.")
        rates = run_interleaved(sides, options.turns)
    against = "llama-bench" if "llama-bench" in rates else "raw"
    for name in rates:
        found.figures.append(figure(f"{name}, decoding", rates[name], unit="tok/s"))
        if name != "engine":
            bound = _BOUND if name == against else None
            found.figures.append(figure(f"engine ÷ {name}", paired_ratios(rates["engine"], rates[name]), bound=bound))
    return found


def _llama_bench(options: Options, tokens: int) -> float:
    """Tokens a second of one llama-bench run that decodes ``tokens`` after a prompt."""
    command = ["llama-bench", "-m", str(options.model), "-t", str(options.threads)]
    command += ["-p", "0", "-n", str(tokens), "-d", str(_PROMPT), "-r", "1", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (run,) = json.loads(done.stdout)
    return float(run["avg_ts"])


BENCHMARK = Benchmark(
    "engine_vs_llama_bench", "Does the engine's loop decode as fast as llama.cpp's own benchmark?", _measure
)

if __name__ == "__main__":
    run_alone(BENCHMARK)
