/* Keeps NaN visible in products of weights in file order.
 *
 * Upstream quantises activations before it asks for the product, and makes numbers of NaN. So the activations are
 * checked before, and the product's results of a token with a NaN become NaN. */
#pragma once
#include "loading/ggml_api.h"

/* Note for this thread's next product, `result`, whether the activations hold a NaN. */
void check_for_nan(const struct ggml_tensor *result, const struct ggml_tensor *activations);

/* This thread's next product isn't computed in file order. */
void skip_nan_check(void);

/* Rows `begin` to `end` of the tokens from `first_token` on: NaN where the token's activations hold one. */
void spread_nan(float *out, int64_t out_stride, int64_t first_token, int64_t n_tokens, int64_t begin, int64_t end);
