"""The operations of a mixture of experts that are computed together, against the same computed one by one."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType

from tailrace.engine.kernels.proofs.expert_products import multiply_by_expert
from tailrace.engine.kernels.proofs.graphs import compute_graph
from tailrace.engine.kernels.proofs.random_weights import Bytes, random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    id_tensor,
    set_float_params,
    set_sources,
    tensor_of,
    weight_tensor,
)
from tailrace.engine.native_libs.ggml_layout import GgmlStruct, ggml_constant

_EXPERTS, _USED, _WIDTH, _INNER = 6, 3, 96, 32
_TOKENS = 5
#: Of gpt-oss.
_ALPHA, _LIMIT = 1.702, 1.5
#: Of the largest number.
_TOLERANCE = 1e-5
_FORMAT = GgmlType.Q4_0


class _Form(NamedTuple):
    """A form that llama.cpp's graphs have."""

    halves: bool = False  #: gate and up are halves of one matrix
    biased: bool = False  #: and gated as in gpt-oss


class _Graph:
    """Operations in their order, their inputs, and all arrays kept alive."""

    def __init__(self) -> None:
        self.nodes: list[GgmlStruct] = []
        self.sources: list[tuple[GgmlStruct, ...]] = []

    def add(self, operation: str, result: GgmlStruct, *sources: GgmlStruct) -> GgmlStruct:
        """Add the operation that computes ``result``."""
        result.set("op", ggml_constant(f"GGML_OP_{operation}"))
        set_sources(result, *sources)
        self.nodes.append(result)
        self.sources.append(sources)
        return result


def expert_layer_is_right(library: ctypes.CDLL) -> bool:
    """Whether ``library`` computes each form of a layer as its operations mean."""
    random = np.random.default_rng(23)
    return all(_agrees(library, random, form) for form in (_Form(), _Form(biased=True), _Form(halves=True)))


def _agrees(library: ctypes.CDLL, random: np.random.Generator, form: _Form) -> bool:
    scores = random.standard_normal((_TOKENS, _EXPERTS)).astype(np.float32)
    scores[2, :2] = np.nan  # It comes last.
    scores[3] = 1  # The first of equals comes first.
    keys = np.where(np.isnan(scores), -np.inf, scores)
    ids = np.argsort(-keys, axis=1, kind="stable")[:, :_USED].astype(np.int32)
    inputs = random.standard_normal((_TOKENS, 1, _WIDTH)).astype(np.float32)
    weights = random.uniform(0, 1, (_TOKENS, _USED, 1)).astype(np.float32)
    gate_up = random_weights(_FORMAT, random, 2 * _EXPERTS * _INNER, _WIDTH)
    shape = (_EXPERTS, 2 * _INNER, -1) if form.halves else (2 * _EXPERTS, _INNER, -1)
    gate_up = gate_up.reshape(shape)
    matrices = [gate_up] if form.halves else [gate_up[:_EXPERTS], gate_up[_EXPERTS:]]
    down = random_weights(_FORMAT, random, _EXPERTS * _WIDTH, _INNER).reshape(_EXPERTS, _WIDTH, -1)
    biases = [random.standard_normal((_EXPERTS, _INNER)).astype(np.float32) for _ in matrices]
    gated = np.full((_TOKENS, _USED, _INNER), np.nan, np.float32)
    summed = np.full((_TOKENS, _WIDTH), np.nan, np.float32)
    with repacking(library, 1 << 24):
        with stand_in_pool(library):
            parts = [multiply_by_expert(library, _FORMAT, each, inputs, ids) for each in matrices]
            multiply_by_expert(library, _FORMAT, down, np.zeros((_TOKENS, _USED, _INNER), np.float32), ids)
        _compute(library, form, scores, inputs, weights, matrices, biases, down, gated, summed)
        with stand_in_pool(library):
            outputs = multiply_by_expert(library, _FORMAT, down, gated, ids)
    if form.biased:
        parts = [part + bias[ids] for part, bias in zip(parts, biases, strict=True)]
    gate, up = np.split(parts[0], 2, axis=2) if form.halves else parts
    return _is_close(gated, _gate(gate, up, form)) and _is_close(summed, (outputs.astype(np.float64) * weights).sum(1))


def _gate(gate: Numbers, up: Numbers, form: _Form) -> npt.NDArray[np.float64]:
    x, y = gate.astype(np.float64), up.astype(np.float64)
    if form.biased:
        x, y = np.minimum(x, _LIMIT), np.clip(y, -_LIMIT, _LIMIT) + 1
    gated: npt.NDArray[np.float64] = x / (1 + np.exp(-(_ALPHA if form.biased else 1) * x)) * y
    return gated


def _is_close(found: Numbers, expected: npt.NDArray[np.float64]) -> bool:
    return bool(np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max())


def _compute(
    library: ctypes.CDLL,
    form: _Form,
    scores: Numbers,
    inputs: Numbers,
    weights: Numbers,
    matrices: list[Bytes],
    biases: list[Numbers],
    down: Bytes,
    gated: Numbers,
    summed: Numbers,
) -> None:
    """Compute a layer's graph. ``gated`` and ``summed`` get the results of two of its operations. Results that the
    kernels don't store are NaN, so they can't be what ``gated`` and ``summed`` were made of.
    """
    graph = _Graph()
    order = np.full((_TOKENS, _EXPERTS), -1, np.int32)
    sorting = id_tensor(order)
    sorting.set("op_params", ggml_constant("GGML_SORT_ORDER_DESC"))
    graph.add("ARGSORT", sorting, tensor_of(scores[None, None]))
    chosen = graph.add("VIEW", id_tensor(order[:, :_USED]), sorting)
    current = tensor_of(inputs[None])
    products = []
    unused = [np.full((_TOKENS, _USED, each.shape[1]), np.nan, np.float32) for each in matrices]
    for matrix, bias, numbers in zip(matrices, biases, unused, strict=True):
        product = tensor_of(numbers[None])
        graph.add("MUL_MAT_ID", product, weight_tensor(_FORMAT, matrix), current, chosen)
        if form.biased:
            product = graph.add("ADD_ID", tensor_of(numbers[None]), product, tensor_of(bias[None, None]), chosen)
        products.append(product)
    if form.halves:
        halves = (unused[0][:, :, :_INNER], unused[0][:, :, _INNER:])
        products = [graph.add("VIEW", tensor_of(half[None]), products[0]) for half in halves]
    glu = tensor_of(gated[None])
    set_float_params(glu, 0, 0, _ALPHA, _LIMIT)
    glu.set("op_params", ggml_constant("GGML_GLU_OP_SWIGLU_OAI" if form.biased else "GGML_GLU_OP_SWIGLU"))
    graph.add("GLU", glu, *products)
    outputs = np.full((_TOKENS, _USED, _WIDTH), np.nan, np.float32)
    product = tensor_of(outputs[None])
    graph.add("MUL_MAT_ID", product, weight_tensor(_FORMAT, down), glu, chosen)
    weighted = np.full((_TOKENS, _USED, _WIDTH), np.nan, np.float32)
    times = graph.add("MUL", tensor_of(weighted[None]), product, tensor_of(weights[None]))
    views = [graph.add("VIEW", tensor_of(weighted[None, None, :, used]), times) for used in range(_USED)]
    total = views[0]
    partial = np.full((_TOKENS, _WIDTH), np.nan, np.float32)
    for used in range(1, _USED):
        result = summed if used == _USED - 1 else partial
        total = graph.add("ADD", tensor_of(result[None, None]), total, views[used])
    compute_graph(library, graph.nodes, graph.sources)
