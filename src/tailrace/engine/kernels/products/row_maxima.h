/* Row maxima: the greatest logits of each 16, recorded while the product that computes the logits has them in a
 * register. Then choosing a token doesn't need to read the whole row of logits, which is a megabyte at a vocabulary of
 * 262k.
 *
 * Lane r % 16 of vector r / 256 is the maximum of 16 logits r. The passes over logits use that layout
 * (engine/sampling/logits_ops). */
#pragma once
#include "loading/ggml_api.h"

enum {
    MAXIMA_ROWS = 256,
    MAXIMA_LANES = 16
}; /* rows of the output matrix (logits) for each vector; lanes of a vector */

_Static_assert(sizeof "result_output" <= GGML_MAX_NAME, "upstream's name of the logits");

/* Whether this product computes logits: upstream gives it that name. */
INLINE bool is_logits(const struct ggml_tensor *result) {
    return !memcmp(result->name, "result_output", sizeof "result_output");
}

/* Allocate the maxima of `n_tokens` times `n_rows` logits, if that can be done. One thread does it before a barrier. */
void begin_row_maxima(int64_t n_tokens, int64_t n_rows);
/* Whether they have been allocated. */
bool has_row_maxima(int64_t n_tokens, int64_t n_rows);
/* The vectors of one token. */
float *row_maxima_of(int64_t token);
/* What is recorded doesn't belong to the last logits any more, or one of these is NaN. */
void forget_row_maxima(void);

/* Record 16 logits, from `row` on, of each token. One thread computes all of 256 rows. */
INLINE void record_row_maxima(const float *logits, int64_t stride, int64_t n_tokens, int64_t row) {
    for (int64_t j = 0; j < n_tokens; j++) {
        float *maxima = row_maxima_of(j) + row / MAXIMA_ROWS * MAXIMA_LANES;
        for (int lane = 0; lane < MAXIMA_LANES; lane += VF_LANES) {
            const vf x = vf_loadu(logits + j * stride + lane);
            if (vm_any(vf_is_nan(x))) forget_row_maxima();
            vf_storeu(maxima + lane, row % MAXIMA_ROWS ? vf_max(x, vf_loadu(maxima + lane)) : x);
        }
    }
}
