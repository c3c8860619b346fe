"""Products by expert: each token by its experts' matrices, against gguf's own dequantisation."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType

from tailrace.engine.kernels.formats import formats_of
from tailrace.engine.kernels.proofs.random_weights import Bytes, block_weights, random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, exact_product, repacked_types, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    WEIGHTS,
    compute,
    id_tensor,
    set_sources,
    tensor_of,
    weight_tensor,
)
from tailrace.engine.kernels.proofs.upstream_quantisation import UpstreamQuantisation
from tailrace.engine.native_libs.ggml_layout import ggml_constant

Ids = npt.NDArray[np.int32]

#: Experts, rows of each, blocks of a row, experts of a token.
_EXPERTS, _ROWS, _BLOCKS, _USED = 7, 48, 2, 3
#: Numbers of tokens: one expert has more than are multiplied at once, others have a few or none.
_TOKENS = (90, 9, 1)
#: The same where more tokens go through tiles (``prompt_products``).
_TOKENS_BESIDE_TILES = (39, 9, 1)
#: Of the largest sum. Both sides use single precision, and add in different orders.
_TOLERANCE = 2e-5


def wrong_expert_products(library: ctypes.CDLL) -> list[str]:
    """``experts`` and the name of each format whose products by expert ``library`` computes wrongly or not at all."""
    random = np.random.default_rng(17)
    quantisation = UpstreamQuantisation()
    in_file_order = {each.ggml_type for each in formats_of(library) if each.in_file_order}
    with stand_in_pool(library, others=quantisation.functions if in_file_order else None):
        return [
            f"experts {ggml_type.name}"
            for ggml_type in repacked_types(library)
            if not all(
                _agrees(library, ggml_type, random, inputs, repacked=repacked)
                for inputs, repacked in ((1, True), (_USED, True), (_USED, False))
                if repacked or ggml_type in in_file_order
            )
        ]


def _agrees(
    library: ctypes.CDLL, ggml_type: GgmlType, random: np.random.Generator, inputs: int, *, repacked: bool
) -> bool:
    """``inputs``: each token has so many rows of activations, one for all of its experts or one for each."""
    library.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    token_counts = _TOKENS_BESIDE_TILES if library.tailrace_kernels_amx_usable() else _TOKENS
    columns = _BLOCKS * block_weights(ggml_type)
    weights = random_weights(ggml_type, random, _EXPERTS * _ROWS, columns).reshape(_EXPERTS, _ROWS, -1)
    activations = random.standard_normal((max(token_counts), inputs, columns)).astype(np.float32)
    ids = _random_ids(random, max(token_counts))
    everything = [exact_product(ggml_type, matrix, activations.reshape(-1, columns)) for matrix in weights]
    by_expert = np.stack(everything).reshape(_EXPERTS, max(token_counts), inputs, _ROWS)
    tokens, used = np.indices(ids.shape)
    expected = by_expert[ids, tokens, used % inputs]
    # Of many tokens, super-blocks in the file's order are left to llama.cpp.
    counts = token_counts if repacked or block_weights(ggml_type) == 32 else token_counts[1:]
    all_tokens: Numbers | None = None
    with repacking(library, 2 * weights.nbytes if repacked else 0):
        for count in counts:
            found = multiply_by_expert(library, ggml_type, weights, activations[:count], ids[:count])
            if not np.abs(found - expected[:count]).max() <= _TOLERANCE * np.abs(expected).max():
                return False
            # To the last bit: a token's numbers are independent of how many others are computed with it.
            all_tokens = found if all_tokens is None else all_tokens
            if not np.array_equal(found, all_tokens[:count]):
                return False
    return True


def _random_ids(random: np.random.Generator, tokens: int) -> Ids:
    """The first expert is every token's, the last one no token's. Rows are a part of longer ones, as in llama.cpp."""
    ids = np.empty((tokens, _EXPERTS), np.int32)
    for row in ids:
        row[0] = 0
        row[1:] = random.permutation(np.arange(1, _EXPERTS))
        row[1:_USED][row[1:_USED] == _EXPERTS - 1] = 1
    return ids[:, :_USED]


def multiply_by_expert(
    library: ctypes.CDLL,
    ggml_type: GgmlType,
    weights: Bytes,
    activations: Numbers,
    ids: Ids,
    *,
    threads: int = 2,
    usage: int = WEIGHTS,
) -> Numbers:
    """The product as llama.cpp asks for it, shape (tokens, experts of a token, rows), by so many threads, which the
    stand-in pool has. ``weights`` has the shape (experts, rows, bytes of a row), ``activations`` (tokens, 1 or experts
    of a token, columns). NaN stays where the library computes nothing. It repacks the weights where it may.
    """
    own, inputs, chosen = weight_tensor(ggml_type, weights, usage), tensor_of(activations[None]), id_tensor(ids)
    found = np.full((*ids.shape, weights.shape[1]), np.nan, np.float32)
    result = tensor_of(found[None])
    result.set("op", ggml_constant("GGML_OP_MUL_MAT_ID"))
    set_sources(result, own, inputs, chosen)
    compute(library.ggml_cpu_extra_compute_forward, result, threads)
    return found
