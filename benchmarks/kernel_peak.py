"""Products of repacked weights as a share of the peak of their instruction: vpdpbusd with 512 bits, on one thread.

    python -m benchmarks.kernel_peak [--rows 4096] [--columns 4096]

The peak is measured with independent sums in registers. A product of blocks of 32 weights can't reach it: each sum of
eight instructions takes a multiplication by the scales and an addition, which occupy the same units where 512 bits take
both of them (Zen 4). So 0.80 is the limit there, and 0.73 for formats with minima. Time is CPU time, which neighbours
on the machine change little.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as GgmlType

from tailrace.engine.kernels.build import build_kernels
from tailrace.engine.kernels.proofs.random_weights import Bytes, block_bytes, block_weights, random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, repacked_types, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import compute_params, pointer, set_sources, tensor_of, weight_tensor
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS

_TOKENS = (1, 2, 4, 8, 16, 32)
_ROUNDS = 9
#: Pairs of bytes that a call of dot_peak multiplies for each of its iterations.
_PAIRS = 12 * 64
_ITERATIONS = 1_000_000


def main() -> None:
    """Measure, and write a line for each format: the share of the peak by the number of tokens."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_peak", description="Products ÷ peak.")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    options = parser.parse_args()
    tier = TIERS["avx512-vnni"]
    try:
        tier.require()
        peak = ctypes.CDLL(str(ensure_built(Source("dot-peak", Path(__file__).parent / "dot_peak", _no_proof), tier)))
        kernels = ctypes.CDLL(str(build_kernels(tier.name)))
    except NativeUnavailable as error:
        sys.exit(str(error))
    print(f"peak: {_peak(peak) * 1e-9:.0f} billion products a second; tokens: {', '.join(map(str, _TOKENS))}")
    with stand_in_pool(kernels, threads=1):
        for ggml_type in repacked_types(kernels):
            shares = _shares(kernels, peak, ggml_type, options.rows, options.columns)
            print(f"{ggml_type.name:>8}: {'  '.join(f'{share:.2f}' for share in shares)}", flush=True)


def _no_proof(library: ctypes.CDLL) -> list[str]:
    return []


def _shares(kernels: ctypes.CDLL, peak: ctypes.CDLL, ggml_type: GgmlType, rows: int, columns: int) -> list[float]:
    """The median share of the peak for each number of tokens. Each product is paired with a measurement of the peak."""
    random = np.random.default_rng(5)
    columns = columns // block_weights(ggml_type) * block_weights(ggml_type)
    weights = random_weights(ggml_type, random, rows, columns)
    activations = random.standard_normal((max(_TOKENS), columns)).astype(np.float32)
    shares: list[float] = []
    with repacking(kernels, 2 * rows * columns // block_weights(ggml_type) * block_bytes(ggml_type)):
        for tokens in _TOKENS:
            product = _product(kernels, ggml_type, weights, activations[:tokens])
            product()  # It repacks the weights.
            rates = [rows * columns * tokens / _seconds(product) / _peak(peak) for _ in range(_ROUNDS)]
            shares.append(statistics.median(rates))
    return shares


def _product(kernels: ctypes.CDLL, ggml_type: GgmlType, weights: Bytes, activations: Numbers) -> Callable[[], object]:
    """A function that computes the product once."""
    found = np.zeros((len(activations), len(weights)), np.float32)
    inputs, own, result = (
        tensor_of(activations[None, None]),
        weight_tensor(ggml_type, weights),
        tensor_of(found[None, None]),
    )
    set_sources(result, own, inputs)
    work = np.zeros(2 * activations.nbytes, np.uint8)
    params = compute_params(work=work)
    held = (found, inputs, own, work, activations, weights)  # Tensors have addresses of arrays, and keep none alive.

    def compute(_: object = held) -> object:
        return kernels.ggml_compute_forward_mul_mat_tiled(pointer(params), pointer(result))

    return compute


def _peak(library: ctypes.CDLL) -> float:
    """Products of bytes a second."""
    return _PAIRS * _ITERATIONS / _seconds(lambda: library.dot_peak(ctypes.c_int64(_ITERATIONS)))


def _seconds(call: Callable[[], object]) -> float:
    """CPU time of this thread."""
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


if __name__ == "__main__":
    main()
