/* Quantised activations for products with repacked weights: 8 bits, up to eight tokens side by side. */
#pragma once
#include <math.h>

#include "products/bytes.h"
#include "products/panels.h"

/* Tokens are in groups of TILE_TOKENS, and the last group has the rest. Of each block of 32 numbers there are all
 * tokens' quants, then all their scales, then all their sums. A sum is times the scale (formats with minima) or times
 * the zero point, an integer with which the product's sum begins. So memory is read in order, at offsets that fit into
 * short instructions. */
enum { BLOCK_ACT_BYTES = 32 + 4 + 4 };
INLINE int64_t act_scales_at(int n_tokens) { return 32 * n_tokens; }
INLINE int64_t act_sums_at(int n_tokens) { return 36 * n_tokens; }

/* The greatest magnitude of n numbers; NaN where one is NaN. The maximum of a vector drops NaN, and 8 bits have none, so
 * a block with NaN gets a scale that is NaN. */
INLINE float max_magnitude(const float *x, int n) {
    vf max = vf_zero();
    vm nan = vf_is_nan(max);
    for (int i = 0; i < n; i += VF_LANES) {
        const vf v = vf_loadu(x + i);
        max = vf_max(max, vf_abs(v));
        nan = vm_or(nan, vf_is_nan(v));
    }
    return vm_any(nan) ? NAN : vf_reduce_max(max);
}

/* A block of 32 numbers of token j, quantised as upstream does it for Q8_0 and Q8_1, to the last bit. */
INLINE void quantise_block(enum format format, const float *x, uint8_t *block, int n_tokens, int j) {
    const struct format_traits t = traits_of(format);
    const float max = max_magnitude(x, 32), scale = max / 127, times = max != 0 ? 127 / max : 0;
    const bytes32 quants = round_to_bytes(x, times);
    int32_t sums[2];
    sums_of_bytes(quants, sums);
    store_bytes(block + 32 * j, quants);
    const int32_t sum = sums[0] + sums[1], correction = -t.zero_point * sum;
    /* Upstream stores both in 16 bits. */
    const float stored[2] = {round_to_f16(scale), round_to_f16(scale * (float)sum)};
    memcpy(block + act_scales_at(n_tokens) + 4 * j, stored, 4);
    memcpy(block + act_sums_at(n_tokens) + 4 * j, t.has_min ? (const void *)(stored + 1) : (const void *)&correction,
           4);
}

/* ---- Super-blocks ------------------------------------------------------------------------------------------------ */

/* Of each 32 numbers (a part) there are all tokens' quants and, for formats without minima, each token's sums of the
 * numbers of a scale times the zero point: one of 32 or two of 16. After eight parts come all tokens' scales and then,
 * for formats with minima, each token's 16-bit sums: eight of 32 or sixteen of 16. */
INLINE int64_t part_act_bytes(enum format format, int n_tokens) {
    const struct format_traits t = traits_of(format);
    return (t.has_min ? 32 : 32 + 128 / t.weights_per_scale) * n_tokens;
}
INLINE int super_sums_bytes(enum format format) {
    const struct format_traits t = traits_of(format);
    return t.has_min ? 512 / t.weights_per_scale : 0;
}
INLINE int64_t super_act_bytes(enum format format) {
    return 8 * part_act_bytes(format, 1) + 4 + super_sums_bytes(format);
}

/* A super-block of 256 numbers of token j, quantised as upstream does it for Q8_K, but for signs that cancel out. */
INLINE void quantise_super_block(enum format format, const float *x, uint8_t *block, int n_tokens, int j) {
    const struct format_traits t = traits_of(format);
    const float max = max_magnitude(x, 256), times = max != 0 ? 127 / max : 0;
    const float scale = max != 0 ? 1 / times : 0;
    const bool fine = t.weights_per_scale == 16;
    int16_t sums[16];
    for (int n = 0; n < 8; n++) {
        uint8_t *part = block + n * part_act_bytes(format, n_tokens);
        const bytes32 quants = round_to_bytes(x + 32 * n, times);
        int32_t halves[2];
        sums_of_bytes(quants, halves);
        store_bytes(part + 32 * j, quants);
        const int32_t sum = halves[0] + halves[1];
        if (t.has_min) {
            if (fine) sums[2 * n] = (int16_t)halves[0], sums[2 * n + 1] = (int16_t)halves[1];
            else sums[n] = (int16_t)sum;
        } else {
            const int32_t corrections[2] = {-t.zero_point * (fine ? halves[0] : sum), -t.zero_point * halves[1]};
            memcpy(part + (32 * n_tokens) + (fine ? 8 : 4) * j, corrections, fine ? 8 : 4);
        }
    }
    uint8_t *end = block + 8 * part_act_bytes(format, n_tokens);
    memcpy(end + 4 * j, &scale, 4);
    if (t.has_min) memcpy(end + 4 * n_tokens + super_sums_bytes(format) * j, sums, (size_t)super_sums_bytes(format));
}
