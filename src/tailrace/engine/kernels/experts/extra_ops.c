/* ggml_cpu_extra_compute_forward: upstream offers each operation of a graph here before it computes it. This file
 * decides which of them the kernels for mixtures of experts compute. */
#include "experts/fuse_graph.h"
#include "loading/repack.h"
#include "products/product_counts.h"

static bool compute_fused(const struct ggml_compute_params *params, const struct fused_op *op) {
    switch (op->kind) {
        case GATED_PRODUCT:
            if (params->ith == 0) product_counts[EXPERTS].all += op->gated_product.n_matrices;
            compute_expert_op(params, &op->gated_product);
            break;
        case WEIGHTED_SUM: compute_weighted_sum(params, &op->weighted_sum); break;
        case TOP_EXPERTS: compute_top_experts(params, &op->top_experts); break;
        case N_FUSED_KINDS: break;
    }
    return true;
}

EXPORT bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *params, struct ggml_tensor *result) {
    const struct fused_op *fused = fused_op_of(params, result);
    if (fused) return compute_fused(params, fused);
    if (params->ith == 0 && result->op == GGML_OP_MUL_MAT_ID) product_counts[EXPERTS].all++;
    /* Upstream computes all operations on weights in its own layouts. */
    if (upstream.ggml_cpu_extra_compute_forward && upstream.ggml_cpu_extra_compute_forward(params, result)) return true;
    return result->op == GGML_OP_MUL_MAT_ID && expert_product(params, result);
}
