/* Products of weights that lie as the file has them. */
#pragma once
#include "formats.h"
#include "loading/ggml_api.h"

/* Whether this tier has tiles for such weights. NEON has none: upstream computes these products. */
#ifdef __aarch64__
#define HAS_FILE_ORDER 0
#else
#define HAS_FILE_ORDER 1
#endif

/* Whether llamafile_sgemm computes products of this format with activations that upstream has quantised to
 * `activations`. */
INLINE bool is_computed_in_file_order(enum format format, enum ggml_type activations) {
    return !has_floats(format) && traits_of(format).activation_type == activations;
}

/* Whether rows of so many blocks can be multiplied in file order. */
bool fits_file_order(enum format format, int64_t n_blocks);

/* out[j * out_stride + r] of rows 0 to `n_rows` and each token: rows are `row_bytes` apart, and tokens' activations,
 * which are quantised as upstream does it, `token_bytes`. One thread computes all. */
void multiply_file_order(enum format format, int64_t n_blocks, const uint8_t *weights, int64_t row_bytes,
                         int64_t n_rows, const uint8_t *activations, int64_t token_bytes, int64_t n_tokens, float *out,
                         int64_t out_stride);
