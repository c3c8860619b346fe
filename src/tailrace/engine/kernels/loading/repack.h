/* The repacked weights of each model: which there are, and how they are made. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* The repacked form of a product's weights, or 0 where there is none. The matrices of experts lie one after the other.
 *
 * While a model is loaded, weights that are multiplied for the first time are repacked here by all threads of the pool,
 * so all threads have to call it. Until the pool's next barrier a thread may use the address of the result and not its
 * contents. */
const struct repacked *find_repacked(const struct ggml_compute_params *params, const struct ggml_tensor *weights);

/* The same of weights that have been repacked; it repacks none. */
const struct repacked *repacked_of(const struct ggml_tensor *weights);

/* Whether weights of this format are to be prefetched as from the last-level cache: all repacked weights may still be
 * there when they are read again, a step later. Blocks of 32 are prefetched so up to a larger size. From memory, Q5_K
 * takes 1.2 times as long that way, and the starter model 0.93. */
bool repacked_is_cached(enum format format);
