"""Measures how fast a device computes and how fast it is reached, with graphs of ggml like those of a model.

A table of names would be wrong for the next device, and says nothing of kernels and drivers. Each figure is the lower
quartile of several tries, or near the best one where other programs have disturbed most of them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Sequence

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tailrace.engine.backends.llama.devices import is_cpu
from tailrace.engine.backends.llama.ggml_graph import F32, I32, DeviceBackend, OpGraph
from tailrace.engine.kernels.repacked_weights import RepackedWeights
from tailrace.worker_protocol.device_speed import DeviceSpeed, LinkSpeed, ProductSpeed

#: Formats that a worker measures, which doesn't know the model. Files of other formats count as the slowest of them.
COMMON_FORMATS = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "F16", "BF16", "F32")
#: Columns and rows of a measured matrix. Blocks of each format divide the columns.
_SIDE = 2048
#: Bytes of weights that a product with one token reads, on a CPU and on a GPU: more than their caches have.
_CPU_BYTES, _GPU_BYTES = 48 << 20, 256 << 20
#: Tokens of a product that shows the arithmetic.
_TOKENS = 128
#: Rows of an expert's matrix, the experts that a token uses, and prompt tokens that an expert gets, as in a pass of 512
#: tokens with 8 of 128 experts.
_EXPERT_ROWS, _USED, _EXPERT_TOKENS = 768, 8, 32
#: Seconds and tries of each product, at most, and tries at least.
_PRODUCT_SECONDS, _MAX_TRIES, _MIN_TRIES = 0.03, 20, 2
#: The usual time ÷ the best one, at most, and how much longer is tried where other programs have disturbed most tries.
_USUAL_PART, _PATIENCE = 1.15, 4.0
#: Width of the vectors of a layer's small operations, and the layers of their graph. Their matrices are so small that
#: reading them takes no time.
_WIDTH, _LAYERS = 32, 8
#: Visits of a device that are timed, seconds that they may take, and tensors of each way to see what one takes.
_VISITS, _LINK_SECONDS, _TENSORS = 24, 0.15, 5
#: Seconds between two visits.
_GAP_SECONDS = 0.001
#: Bytes that show the link's bandwidth.
_LINK_BYTES = 1 << 20
#: Bytes in a second of a link that is too fast to be measured so.
_FASTEST_LINK = 1e12


def measure_device(
    device: int, *, threads: int, formats: Iterable[str], experts: Iterable[str] = (), repacks: bool = False
) -> DeviceSpeed:
    """The speed of llama.cpp's ``device`` with weights of ``formats`` (ggml's names), and with routed ``experts`` of
    these formats; under a second for a few.

    ``threads``: of a CPU. ``repacks``: an engine's kernels repack the weights. Unknown formats are left out. Raises
    ModelError where the device can't compute.
    """
    total = _CPU_BYTES if is_cpu(device) else _GPU_BYTES
    known = {kind.name: kind for kind in GGMLQuantizationType if _SIDE % GGML_QUANT_SIZES[kind][0] == 0}
    with DeviceBackend(device, threads=threads) as backend:
        products = {
            name: _product_speed(backend, known[name], total, repacks=repacks) for name in formats if name in known
        }
        routed = {
            name: _expert_speed(backend, known[name], total, repacks=repacks) for name in experts if name in known
        }
        with _Layers(backend, _LAYERS) as layers:
            layers.graph.compute()
            return DeviceSpeed(
                products=products,
                experts=routed,
                layer_seconds=_usual_seconds(layers.graph.compute, backend.cpu_threads) / _LAYERS,
            )


def measure_link(device: int, local: int, *, threads: int) -> LinkSpeed:
    """The way between the CPU ``local`` and ``device``, both llama.cpp's, in about half a second.

    Between two visits the device is idle as long as a CPU's part of a layer takes, and its threads sleep. After a visit
    the CPU computes, with ``threads`` that may sleep, too. Raises ModelError where one of the two can't compute.
    """
    vector = ctypes.create_string_buffer(4 * _WIDTH)
    with (
        DeviceBackend(local, threads=threads) as cpu,
        DeviceBackend(device, threads=threads) as backend,
        _Layers(cpu, 1) as here,
        _Layers(backend, 1) as one,
        _Layers(backend, _LAYERS) as several,
    ):

        def seconds(layers: _Layers, writes: int = 1, reads: int = 1) -> float:
            """Of a visit with so many tensors each way, until the CPU has computed again."""

            def run() -> None:
                for _ in range(writes):
                    layers.graph.write(layers.first, vector, len(vector))
                layers.graph.submit()
                for _ in range(reads):
                    layers.graph.read(layers.last, vector, len(vector))
                here.graph.compute()

            run()
            return _usual(_timed(run, _VISITS, _LINK_SECONDS, gap=_GAP_SECONDS))

        usual = seconds(one)
        layer = max(0.0, seconds(several) - usual) / (_LAYERS - 1)
        computing = _usual(_timed(here.graph.compute, _VISITS, _LINK_SECONDS))
        return LinkSpeed(
            seconds=max(0.0, usual - computing - layer) / 2,
            read_seconds=max(0.0, seconds(one, reads=_TENSORS) - usual) / (_TENSORS - 1),
            write_seconds=max(0.0, seconds(one, writes=_TENSORS) - usual) / (_TENSORS - 1),
            layer_seconds=layer,
            bandwidth=_link_bandwidth(backend),
        )


def _link_bandwidth(backend: DeviceBackend) -> float:
    data = ctypes.create_string_buffer(_LINK_BYTES)
    with OpGraph(backend) as graph:
        tensor = graph.tensor(F32, _LINK_BYTES // 4)
        graph.prepare([graph.sum(tensor, tensor)])

        def both_ways(size: int) -> float:
            def move() -> None:
                graph.write(tensor, data, size)
                graph.read(tensor, data, size)

            return min(_timed(move, _MIN_TRIES + 1, _LINK_SECONDS / 2))

        seconds = both_ways(_LINK_BYTES) - both_ways(4)
    return min(_FASTEST_LINK, 2 * _LINK_BYTES / seconds) if seconds > 0 else _FASTEST_LINK


def _product_speed(backend: DeviceBackend, kind: GGMLQuantizationType, total: int, *, repacks: bool) -> ProductSpeed:
    block, size = map(int, GGML_QUANT_SIZES[kind])
    matrix = _SIDE * _SIDE // block * size
    count = max(1, total // matrix)
    reading = _product_seconds(backend, kind, count, 1, budget=2 * count * matrix if repacks else 0)
    multiplying = _product_seconds(backend, kind, 1, _TOKENS, budget=2 * matrix if repacks else 0)
    return ProductSpeed(bandwidth=count * matrix / reading, arithmetic=_SIDE * _SIDE * _TOKENS / multiplying)


def _product_seconds(
    backend: DeviceBackend, kind: GGMLQuantizationType, matrices: int, tokens: int, *, budget: int
) -> float:
    """Seconds of products of ``tokens`` tokens with each of the matrices. ``budget``: bytes for repacked weights."""
    with OpGraph(backend) as graph:
        activations = graph.tensor(F32, _SIDE, tokens)
        graph.prepare([graph.product(graph.tensor(kind, _SIDE, _SIDE), activations) for _ in range(matrices)])
        return _repacked_seconds(backend, graph, budget)


def _expert_speed(backend: DeviceBackend, kind: GGMLQuantizationType, total: int, *, repacks: bool) -> ProductSpeed:
    block, size = map(int, GGML_QUANT_SIZES[kind])
    matrix = _SIDE * _EXPERT_ROWS // block * size
    groups = max(1, total // (_USED * matrix))
    count = groups * _USED
    # Experts that a token uses lie apart.
    tokens = [[[group + groups * used for used in range(_USED)]] for group in range(groups)]
    reading = _expert_seconds(backend, kind, count, tokens, budget=2 * count * matrix if repacks else 0)
    prompt = [list(range(_USED))] * _EXPERT_TOKENS
    multiplying = _expert_seconds(backend, kind, _USED, [prompt], budget=2 * _USED * matrix if repacks else 0)
    return ProductSpeed(
        bandwidth=count * matrix / reading,
        arithmetic=_SIDE * _EXPERT_ROWS * _USED * _EXPERT_TOKENS / multiplying,
    )


def _expert_seconds(
    backend: DeviceBackend,
    kind: GGMLQuantizationType,
    experts: int,
    products: Sequence[Sequence[Sequence[int]]],
    *,
    budget: int,
) -> float:
    """Seconds of products with some of ``experts`` matrices. ``products``: of each, the matrices by token."""
    with OpGraph(backend) as graph:
        weights = graph.tensor(kind, _SIDE, _EXPERT_ROWS, experts)
        chosen = [(graph.tensor(I32, len(tokens[0]), len(tokens)), tokens) for tokens in products]
        activations = graph.tensor(F32, _SIDE, 1, len(products[0]))
        graph.prepare([graph.expert_product(weights, activations, ids) for ids, _ in chosen])
        for ids, tokens in chosen:
            numbers = [number for token in tokens for number in token]
            graph.write(ids, (ctypes.c_int32 * len(numbers))(*numbers), ctypes.sizeof(ctypes.c_int32) * len(numbers))
        return _repacked_seconds(backend, graph, budget)


def _repacked_seconds(backend: DeviceBackend, graph: OpGraph, budget: int) -> float:
    """Seconds of the graph with its weights repacked within ``budget`` bytes."""
    repacked = RepackedWeights(budget)
    try:
        with repacked.repacking():
            graph.compute()
        return _usual_seconds(graph.compute, backend.cpu_threads)
    finally:
        repacked.free()


class _Layers:
    """A graph of small operations, as many as layers of a dense model have. Use it as a context manager."""

    def __init__(self, backend: DeviceBackend, count: int) -> None:
        self.graph = OpGraph(backend)
        self.first = at = self.graph.tensor(F32, _WIDTH, 1)
        for _ in range(count):
            at = self._block(self._block(self._block(at, 3), 2), 1)
        self.last = at
        self.graph.prepare([at])

    def _block(self, inputs: int, products: int) -> int:
        graph = self.graph
        normed = graph.norm(inputs)
        found = [graph.product(graph.tensor(F32, _WIDTH, _WIDTH), normed) for _ in range(products)]
        total = found[0]
        for each in found[1:]:
            total = graph.sum(total, each)
        return graph.sum(inputs, graph.product(graph.tensor(F32, _WIDTH, _WIDTH), total))

    def __enter__(self) -> _Layers:
        return self

    def __exit__(self, *error: object) -> None:
        self.graph.__exit__(*error)


def _usual_seconds(run: Callable[[], None], cpu_threads: int) -> float:
    return _usual(_timed(run, _MAX_TRIES, _PRODUCT_SECONDS, cpu_threads=cpu_threads))


def _timed(
    run: Callable[[], None], tries: int, seconds: float, *, cpu_threads: int = 0, gap: float = 0.0
) -> list[float]:
    """The time of each try: at most ``tries``, and no further one after ``seconds``. Disturbed ones are repeated.

    ``cpu_threads``: where so many threads of this process compute, time that others have had their cores doesn't count.
    ``gap``: seconds before each try in which this thread is busy. They don't count.
    """
    times: list[float] = []
    while (
        len(times) < _MIN_TRIES
        or (len(times) < tries and sum(times) < seconds)
        or (_is_disturbed(times) and sum(times) < _PATIENCE * seconds)
    ):
        _be_busy(gap)
        begun, used = time.perf_counter(), time.process_time()
        run()
        wall, used = time.perf_counter() - begun, time.process_time() - used
        times.append(min(wall, used / cpu_threads) if cpu_threads else wall)
    return times


def _be_busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _usual(times: list[float]) -> float:
    """The lower quartile: threads that have to wake up are usual, other programs aren't."""
    return min(_quartile(times), _USUAL_PART * min(times))


def _is_disturbed(times: list[float]) -> bool:
    return _quartile(times) > _USUAL_PART * min(times)


def _quartile(times: list[float]) -> float:
    return sorted(times)[len(times) // 4]
