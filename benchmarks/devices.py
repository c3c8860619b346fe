"""A model on several devices: is its speed as predicted, and how does it compare with llama-server's?

    python -m benchmarks.devices [--only experts-small,gemma3-small] [--part predictions,waits,peer]

Predictions: workers on loopback are the devices, with each placement that matters. Each process has its own cores, as
far as there are enough, so the devices don't slow each other down. An error of 1 is an exact prediction.

Waits: how long a short request waits that comes while a worker reads a long prompt.

Peer: with a GPU, llama-server with all layers on it, and with the best number of layers whose experts are on the CPU.
Without one, llama-server has one worker and tailrace another one, with the same placement; nothing is said of a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.benchmark import (
    Benchmark,
    Measurements,
    Options,
    Unavailable,
    add_options,
    read_options,
    run_and_save,
)
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.rates import decode_rates, measure, prefill_rate
from benchmarks.harness.results import Figure, figure
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.cli.stats_client import StatsClient
from tailrace.errors import TailraceError
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.topology import read_topology
from tailrace.models.model_header import read_header
from tailrace.protocol import SpeedComparison

_PARTS = ("predictions", "waits", "peer")
#: Shapes with experts, and dense ones.
_MIXTURES = ("experts-small", "experts-128-small", "deepseek2-small", "gpt-oss-small")
_DENSE = ("gemma3-small",)
#: A prediction may be wrong by so much: the larger of predicted ÷ measured and its inverse.
_MAX_ERROR = 1.2
#: Tokens of the prompt and of the reply.
_PROMPT, _REPLY = 128, 96
#: Tokens of the long prompt, and seconds of it after which the short one comes.
_LONG_PROMPT, _HEAD_START = 4000, 0.3
#: Seconds in which an engine's speed has to be in its statistics.
_PATIENCE = 10.0
#: Bounds against llama-server on a GPU: with all layers there, and with experts on the CPU.
_GPU_BOUNDS = {"all layers": 1.0, "experts on the CPU": 1.2}
#: llama-server's layers whose experts are on the CPU, as parts of all layers: the best one counts.
_EXPERT_PARTS = (1.0, 0.75, 0.5, 0.25)
_STREAMS = (1, 8)

#: Rules of a placement, from the workers' addresses and the model's number of layers.
Rules = Callable[[Sequence[str], int], str]


def _experts_here(workers: Sequence[str], layers: int) -> str:
    return _everything_there(workers, layers) + '[tensors]\n"_exps" = "local"\n'


def _feeds_here(workers: Sequence[str], layers: int) -> str:
    return _everything_there(workers, layers) + '[tensors]\n"ffn_(up|gate|down)\\\\." = "local"\n'


def _everything_there(workers: Sequence[str], layers: int) -> str:
    return f'output = "{workers[0]}"\n[layers]\n"0-{layers - 1}" = "{workers[0]}"\n'


def _half_there(workers: Sequence[str], layers: int) -> str:
    return f'[layers]\n"0-{layers // 2 - 1}" = "local"\n"{layers // 2}-{layers - 1}" = "{workers[0]}"\n'


def _half_each(workers: Sequence[str], layers: int) -> str:
    first, second = workers
    return f'[layers]\n"0-{layers // 2 - 1}" = "{first}"\n"{layers // 2}-{layers - 1}" = "{second}"\n'


def _output_here(workers: Sequence[str], layers: int) -> str:
    return f'output = "local"\n[layers]\n"0-{layers - 1}" = "{workers[0]}"\n'


#: Placements: the number of workers, and rules.
_PLACEMENTS: dict[str, tuple[int, Rules]] = {
    "experts here, everything else on a worker": (1, _experts_here),
    "feed-forward here, everything else on a worker": (1, _feeds_here),
    "everything on a worker": (1, _everything_there),
    "half of the layers here and half on a worker": (1, _half_there),
    "half of the layers on each of two workers": (2, _half_each),
    "output here, layers on a worker": (1, _output_here),
}
#: Those of models with experts, and of dense ones.
_OF_MIXTURES = ("experts here, everything else on a worker",)
_OF_DENSE = ("feed-forward here, everything else on a worker",)


def _measure(
    options: Options, names: Sequence[str] = (*_MIXTURES, *_DENSE), parts: Sequence[str] = _PARTS
) -> Measurements:
    found = Measurements()
    for name in names:
        model = synthetic("tiny-experts" if options.quick else name, options.model)
        chosen = replace(options, model=model)
        if "predictions" in parts:
            found.figures += _predictions(chosen, name)
    if "waits" in parts:
        found.figures += _waits(options)
    if "peer" in parts:
        has_gpu = offloads(read_gpus(), build_backends())
        more = _on_gpu(options) if has_gpu else _on_workers(options)
        found.figures += more.figures
        found.notes += more.notes
        if not has_gpu:
            found.notes.append("Not run: tailrace ÷ llama-server on a GPU. This machine, or this build, has none.")
    return found


def _predictions(options: Options, name: str) -> list[Figure]:
    figures = []
    for placement, (count, rules) in _PLACEMENTS.items():
        if placement in (_OF_DENSE if _has_experts(options.model) else _OF_MIXTURES):
            continue
        speeds = _speeds(options, count, rules)
        errors = [max(one.predicted_decode / one.decode, one.decode / one.predicted_decode) for one in speeds]
        label = f"{name}, {placement}"
        figures += [
            figure(f"{label}: error of the prediction", errors, bound=_MAX_ERROR, is_upper_bound=True),
            figure(f"{label}: predicted", [one.predicted_decode for one in speeds], unit="tok/s"),
            figure(f"{label}: measured", [one.decode for one in speeds], unit="tok/s"),
        ]
    return figures


def _speeds(options: Options, count: int, rules: Rules) -> list[SpeedComparison]:
    """The speed of one reply after the other, beside the predicted one."""
    threads = max(1, len(read_topology().usable_cores) // (count + 1))
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(servers.worker(threads)) for _ in range(count)]
        text = rules(workers, _layers(options.model))
        client = stack.enter_context(_placed(options, threads, workers, rules=text))
        stats = StatsClient(f"http://127.0.0.1:{client.port}")
        load = LoadProfile(streams=1, prompt_tokens=_PROMPT, output_tokens=options.tokens(_REPLY))
        found = []
        for turn in range(options.turns):
            client.run(load, turn)
            found.append(_speed_of(stats))
        return found


def _waits(options: Options) -> list[Figure]:
    """A short prompt's time to its first token, beside that of a long one which came before."""
    threads = max(1, len(read_topology().usable_cores) // 2)
    long = LoadProfile(streams=1, prompt_tokens=400 if options.quick else _LONG_PROMPT, output_tokens=2)
    short = LoadProfile(streams=1, prompt_tokens=16, output_tokens=2)
    own, others = [], []
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(servers.worker(threads))
        rules = _everything_there([worker], _layers(options.model))
        client = stack.enter_context(_placed(options, threads, [worker], rules=rules, context=2 * _LONG_PROMPT))
        pool = stack.enter_context(ThreadPoolExecutor())
        # In the first turn the engine learns how fast the worker reads.
        for turn in range(options.turns + 1):
            other = pool.submit(client.run, long, turn)
            time.sleep(_HEAD_START)
            own.append(client.run(short, turn)[0].first_token_seconds)
            others.append(other.result()[0].first_token_seconds)
    return [
        figure("a short request beside a worker's long prompt: first token", own[1:], unit="s"),
        figure("the long prompt: first token", others[1:], unit="s"),
    ]


def _has_experts(model: Path) -> bool:
    return any("_exps" in tensor.name for tensor in read_header(model).tensors)


def _layers(model: Path) -> int:
    header = read_header(model)
    count = header.values[f"{header.facts.architecture}.block_count"]
    assert isinstance(count, int)
    return count


def _speed_of(stats: StatsClient) -> SpeedComparison:
    """What the engine says of its speed, as soon as it does. Raises ServerError."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        speeds = [engine.speed for engine in stats.read().engines if engine.speed is not None and engine.speed.decode]
        if speeds:
            return speeds[0]
        time.sleep(0.2)
    raise servers.ServerError("the engine tells no speed of its placement")


@contextlib.contextmanager
def _placed(
    options: Options, threads: int, workers: Sequence[str], *, rules: str | None, context: int = 2048
) -> Iterator[BenchClient]:
    """tailrace with the model on this machine and ``workers``, as the ``rules`` say; None: as planned."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        flags = ["--devices", ",".join(["local", *workers])]
        if rules is not None:
            path = Path(folder) / "placement.toml"
            path.write_text(rules)
            flags += ["--placement", str(path)]
        with servers.tailrace(options.model, threads, "--parallel", "8", "--ctx", str(context), *flags) as client:
            yield client


def _on_workers(options: Options) -> Measurements:
    """All layers on a worker, for each side one."""
    _require_llama_server()
    threads = max(1, len(read_topology().usable_cores) // 2)
    with contextlib.ExitStack() as stack:
        own, other = (stack.enter_context(servers.worker(threads)) for _ in range(2))
        rules = _everything_there([own], _layers(options.model))
        tailrace = stack.enter_context(_placed(options, threads, [own], rules=rules))
        try:
            peer = stack.enter_context(
                servers.llama_server(options.model, threads, *_PEER_FLAGS, "--rpc", other, "-ngl", "99")
            )
        except servers.ServerError as error:
            raise Unavailable(f"this llama-server can't use a worker (compile it with GGML_RPC): {error}") from error
        return _compare(options, {"tailrace": tailrace}, peer, "all layers on a worker", bound=None)


#: As many slots as tailrace has, each with a context for the longest prompt.
_PEER_FLAGS = ("-np", "8", "-c", "16384")


def _on_gpu(options: Options) -> Measurements:
    """llama-server with all layers on the GPU, and a mixture with the best number of layers' experts on the CPU."""
    _require_llama_server()
    found = Measurements()
    for label, flags in (("all layers", ("-ngl", "99")), ("experts on the CPU", None)):
        best = flags or _best_expert_flags(options)
        with contextlib.ExitStack() as stack:
            # As planned: with its memory the planner has what llama-server's flags say by hand.
            tailrace = stack.enter_context(_placed(options, options.threads, [], rules=None))
            peer = stack.enter_context(servers.llama_server(options.model, options.threads, *_PEER_FLAGS, *best))
            more = _compare(options, {"tailrace": tailrace}, peer, label, bound=_GPU_BOUNDS[label])
        found.figures += more.figures
        found.notes.append(f"{label}: llama-server {' '.join(best)}")
    return found


def _best_expert_flags(options: Options) -> tuple[str, ...]:
    """llama-server's fastest number of layers with experts on the CPU, at one stream."""
    load = LoadProfile(streams=1, prompt_tokens=32, output_tokens=options.tokens(64))
    rates: dict[tuple[str, ...], float] = {}
    for part in _EXPERT_PARTS:
        flags = ("-ngl", "99", "--n-cpu-moe", str(round(_MAX_LAYERS * part)))
        with servers.llama_server(options.model, options.threads, *_PEER_FLAGS, *flags) as peer:
            runs = measure({"llama-server": peer.run}, [load], 2)
        rates[flags] = max(decode_rates(runs["llama-server"][1]))
    return max(rates, key=lambda flags: rates[flags])


#: Layers of which a part has its experts on the CPU; a model with fewer has all of them there.
_MAX_LAYERS = 96


def _require_llama_server() -> None:
    if not servers.has_llama_server():
        raise Unavailable("there is no llama-server on the path")


def _compare(
    options: Options, sides: Mapping[str, BenchClient], peer: BenchClient, label: str, *, bound: float | None
) -> Measurements:
    clients = {**sides, "llama-server": peer}
    tokens = options.tokens(128)
    loads = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in options.streams(_STREAMS)]
    runs = measure({name: client.run for name, client in clients.items()}, loads, options.turns)
    found = Measurements()
    for count, entries in runs["tailrace"].items():
        ratios = paired_ratios(decode_rates(entries), decode_rates(runs["llama-server"][count]))
        plural = "s" if count > 1 else ""
        found.figures.append(figure(f"{label}, tailrace ÷ llama-server, {count} stream{plural}", ratios, bound=bound))
    reads = run_interleaved({name: partial(prefill_rate, client) for name, client in clients.items()}, options.turns)
    ratios = paired_ratios(reads["tailrace"], reads["llama-server"])
    found.figures.append(figure(f"{label}, tailrace ÷ llama-server, a prompt", ratios, bound=bound))
    return found


BENCHMARK = Benchmark("devices", "Is a model on several devices as fast as predicted, and as llama-server?", _measure)


def main() -> int:
    """The command; ``--only`` selects shapes, ``--part`` what is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=BENCHMARK.question)
    add_options(parser)
    parser.add_argument(
        "--only", metavar="NAME,...", default=",".join((*_MIXTURES, *_DENSE)), help="these shapes [all]"
    )
    parser.add_argument("--part", metavar="NAME,...", default=",".join(_PARTS), help="these parts [all]")
    parsed = parser.parse_args()
    names, parts = tuple(parsed.only.split(",")), tuple(parsed.part.split(","))
    if unknown := [name for name in names if name not in SHAPES]:
        parser.error(f"there is no shape {', '.join(unknown)}")
    if set(parts) - set(_PARTS):
        parser.error(f"--part can have {', '.join(_PARTS)}")
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    chosen = Benchmark(BENCHMARK.name, BENCHMARK.question, lambda options: _measure(options, names, parts))
    return 1 if run_and_save([chosen], options, parsed.report) else 0


if __name__ == "__main__":
    sys.exit(main())
