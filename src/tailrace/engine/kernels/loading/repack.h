/* The repacked weights of each model: which there are, and how they are made. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"
#include "products/panels.h"

/* The repacked form of a product's weights, or 0 where there is none. The matrices of experts lie one after the other.
 *
 * While a model is loaded, weights that are multiplied for the first time are repacked here by all threads of the pool,
 * so all threads have to call it. Until the pool's next barrier a thread may use the address of the result and not its
 * contents. */
const struct repacked *find_repacked(const struct ggml_compute_params *params, const struct ggml_tensor *weights);

/* The same of weights that have been repacked; it repacks none. */
const struct repacked *repacked_of(const struct ggml_tensor *weights);

/* Where all repacked weights come from when they are read again, a step later; a product of a format with so many tokens
 * prefetches its weights accordingly. */
enum weights_from repacked_come_from(enum format format, int64_t n_tokens);

/* Free the repacked weights of a model, and the bytes that they take. */
void tailrace_kernels_free_repacked(int model);
int64_t tailrace_kernels_repacked_bytes(int model);
