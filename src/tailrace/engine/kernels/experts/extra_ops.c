/* ggml_cpu_extra_compute_forward: upstream offers each operation of a graph here before it computes it. This file
 * decides which of them the kernels for mixtures of experts compute. */
#include "experts/expert_products.h"
#include "loading/repack.h"

EXPORT bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *params, struct ggml_tensor *result) {
    /* Upstream computes all operations on weights in its own layouts. */
    if (upstream.ggml_cpu_extra_compute_forward && upstream.ggml_cpu_extra_compute_forward(params, result)) return true;
    if (result->op != GGML_OP_MUL_MAT_ID) return false;
    const struct repacked *repacked = find_repacked(params, result->src[0]);
    return repacked && expert_product(params, repacked, result);
}
