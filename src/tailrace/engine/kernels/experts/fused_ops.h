/* Operations of a mixture of experts that are computed together, as one operation of the graph.
 *
 * A layer has some thirty small operations beside its products, and all threads wait for each other after each. Three
 * groups are computed as one, at the place of the first:
 *
 *   gated product   products with the gate and the up matrices, biases, and the gate: the results stay in a register
 *   weighted sum    the experts' outputs times their weights, and the sum of a token's experts
 *   top experts     sorting all experts' scores, of which only the first are used */
#pragma once
#include "experts/expert_products.h"

struct weighted_sum {
    const struct ggml_tensor *outputs, *weights; /* [rows, experts of a token, tokens]; [1, experts, tokens] */
    struct ggml_tensor *result;                  /* [rows, tokens] */
};

struct top_experts {
    struct ggml_tensor *order; /* of upstream's sorting; only the first `count` numbers of a row are written */
    int64_t count;
};

enum fused_kind { GATED_PRODUCT, WEIGHTED_SUM, TOP_EXPERTS, N_FUSED_KINDS };

struct fused_op {
    const struct ggml_tensor *first; /* the operation in whose place all are computed */
    enum fused_kind kind;
    union {
        struct expert_op gated_product;
        struct weighted_sum weighted_sum;
        struct top_experts top_experts;
    };
};

/* The operations that begin with node `index` of a graph and can be computed together, and in `last` the index of the
 * last one. False where there are none. `n_threads` and `work_bytes` are what the graph is computed with. */
bool find_fused_op(const struct ggml_cgraph *graph, int index, int n_threads, size_t work_bytes, struct fused_op *found,
                   int *last);

void compute_weighted_sum(const struct ggml_compute_params *params, const struct weighted_sum *sum);
void compute_top_experts(const struct ggml_compute_params *params, const struct top_experts *top);
