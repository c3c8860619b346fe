/* Products with repacked weights, from single-precision activations to the result. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* Bytes of work memory that a product needs if its weights are repacked; 0 where they can't be. */
size_t repacked_work_bytes(int n_threads, const struct ggml_tensor *result);

/* The whole product, called by every thread of the pool; false, with nothing done, where it can't be computed. */
bool repacked_product(const struct ggml_compute_params *params, const struct repacked *weights,
                      struct ggml_tensor *result);
