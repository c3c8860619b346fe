/* ggml_compute_forward_mul_mat_tiled: upstream offers each matrix product here first. This file decides which kernel
 * computes it.
 *
 * Repacked weights go to prefill_amx.c (many tokens) or repacked.c. For weights in file order the answer is false: then
 * upstream quantises the activations and asks llamafile_sgemm (file_order.c). */
#include "experts/expert_products.h"
#include "loading/repack.h"
#include "products/file_order.h"
#include "products/nan_check.h"
#include "products/prefill_amx.h"
#include "products/product_counts.h"
#include "products/repacked.h"
#include "products/row_maxima.h"

/* Tokens from which upstream's tiles for super-blocks in file order are faster: with layers 2048 wide in Q4_K_M, 16
 * tokens take 32 ms with them and 35 here. */
#define MIN_UPSTREAM_TILED_TOKENS 16

/* Bytes of work memory for a product, dense or by expert, as upstream plans it. */
EXPORT size_t ggml_tiled_wdata_size(int n_threads, struct ggml_tensor *result) {
    const size_t wanted = upstream.ggml_tiled_wdata_size ? upstream.ggml_tiled_wdata_size(n_threads, result) : 0;
    const size_t own = result->op == GGML_OP_MUL_MAT_ID ? expert_work_bytes(n_threads, result)
                                                        : repacked_work_bytes(n_threads, result);
    return own > wanted ? own : wanted;
}

/* View activations of several sequences as one matrix, if they lie one behind the other. Recurrent layers have them with
 * a dimension for sequences. */
static bool view_as_matrix(const struct ggml_tensor *t, struct ggml_tensor *matrix) {
    for (int i = 2; i < 4; i++)
        if (t->ne[i] != 1 && t->nb[i] != t->nb[i - 1] * (size_t)t->ne[i - 1]) return false;
    *matrix = *t;
    matrix->ne[1] = t->ne[1] * t->ne[2] * t->ne[3];
    matrix->ne[2] = matrix->ne[3] = 1;
    return true;
}

/* The product with repacked weights. False: it isn't computed. */
static bool compute_repacked(const struct ggml_compute_params *params, const struct repacked *weights,
                             struct ggml_tensor *result) {
    const struct ggml_tensor *activations = result->src[1];
    if (activations->ne[2] == 1 && activations->ne[3] == 1)
        return prompt_product(params, weights, activations, result) || repacked_product(params, weights, result);
    struct ggml_tensor all_activations, all_results;
    if (!view_as_matrix(activations, &all_activations) || !view_as_matrix(result, &all_results)) return false;
    all_results.src[1] = &all_activations;
    return prompt_product(params, weights, &all_activations, &all_results) ||
           repacked_product(params, weights, &all_results);
}

EXPORT bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    const struct ggml_tensor *weights = result->src[0], *activations = result->src[1];
    if (params->ith == 0 && is_logits(result)) forget_row_maxima();
    if (params->ith == 0) product_counts[DENSE].all++;
    skip_nan_check();
    const bool is_matrix = weights->ne[2] == 1 && weights->ne[3] == 1;
    const struct repacked *repacked = is_matrix ? find_repacked(params, weights) : 0;
    if (repacked && compute_repacked(params, repacked, result)) {
        if (params->ith == 0) product_counts[DENSE].repacked++;
        return true;
    }
    enum format format;
    const bool known = find_format(weights->type, &format);
    const bool few_super = known && is_super_block(format) && activations->ne[1] < MIN_UPSTREAM_TILED_TOKENS;
    if (!few_super && upstream.ggml_compute_forward_mul_mat_tiled &&
        upstream.ggml_compute_forward_mul_mat_tiled(params, result))
        return true;
    if (known && !has_floats(format) && is_f32_matrix(activations)) check_for_nan(result, activations);
    return false;
}
