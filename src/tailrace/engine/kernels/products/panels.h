/* Panels of repacked weights (16 rows) by quantised activations: the functions of each format, in one place for all
 * products of repacked weights. */
#pragma once
#include "loading/repack_layout.h"

/* Of one pass through a panel, as many as the registers have room for. Their activations lie side by side
 * (activations.h). */
#if HAS_AVX512
enum { TILE_TOKENS = 8 };
#else
enum { TILE_TOKENS = 4 };
#endif

/* Where weights come from decides how far ahead they are prefetched, and into which cache: 10 KB into the first-level
 * cache from the last-level cache (2.4 ms a step of one stream; 3.3 without). From memory it is 4 KB into the first-level
 * cache on Intel's CPUs with AVX-512, and 3 KB into the second-level cache elsewhere: 1.06 times the speed of a mixture of
 * experts. AMD's CPUs read memory in order faster where few tokens' products prefetch nothing: a mixture of experts takes
 * 5.8 ms a step, and 6.9 with 3 KB ahead. */
enum weights_from { CACHE, MEMORY, UNPREFETCHED_MEMORY, N_WEIGHTS_FROM };

/* out[j * out_stride + r] of each token j: a panel by all tokens. The panel stays in the first-level cache meanwhile.
 * A token's results don't depend on how many tokens there are. */
typedef void panel_function(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations, int64_t n_tokens,
                            float *out, int64_t out_stride);

struct panel_functions {
    /* Quantise blocks `begin` to `end` of the numbers `x` of one token, which is token j of `n_tokens` side by side.
     * The quantised blocks of these tokens begin at `tile`. */
    void (*quantise)(const float *x, int64_t begin, int64_t end, uint8_t *tile, int n_tokens, int j);
    panel_function *panel[N_WEIGHTS_FROM];
};

/* The functions of a format that is repacked. */
const struct panel_functions *panel_functions_of(enum format format);

/* Bytes of a quantised block of one token. */
int64_t act_block_bytes(enum format format);
