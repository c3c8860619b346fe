/* Products by expert (GGML_OP_MUL_MAT_ID): each token is multiplied with the matrices of the experts that it chose. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* Bytes of work memory that the product needs if its weights are repacked; 0 where they can't be. */
size_t expert_work_bytes(int n_threads, const struct ggml_tensor *result);

/* The whole product with repacked weights, called by every thread of the pool; false, with nothing done, where it can't
 * be computed. Results of a pair whose expert doesn't exist are NaN. */
bool expert_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    struct ggml_tensor *result);
