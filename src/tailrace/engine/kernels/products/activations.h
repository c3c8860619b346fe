/* Quantised activations for products with repacked weights: 8 bits, up to eight tokens side by side. */
#pragma once
#include <math.h>

#include "products/panels.h"

/* Tokens are in groups of TILE_TOKENS, and the last group has the rest. Of each block of 32 numbers there are all
 * tokens' quants, then all their scales, then all their sums. A sum is times the scale (formats with minima) or times
 * the zero point, an integer with which the product's sum begins. So memory is read in order, at offsets that fit into
 * short instructions. */
enum { BLOCK_ACT_BYTES = 32 + 4 + 4 };
INLINE int64_t act_scales_at(int n_tokens) { return 32 * n_tokens; }
INLINE int64_t act_sums_at(int n_tokens) { return 36 * n_tokens; }

/* The maximum of 16 lanes; NaN unless all lanes are ordered. The maximum of a vector drops NaN, and 8 bits have none,
 * so a block with NaN gets a scale that is NaN. */
INLINE float max_or_nan(__m512 v, __mmask16 ordered) { return ordered == 0xffff ? _mm512_reduce_max_ps(v) : NAN; }
INLINE __mmask16 ordered_lanes(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_ORD_Q); }

/* A block of 32 numbers of token j, quantised as upstream does it for Q8_0 and Q8_1, to the last bit. */
INLINE void quantise_block(enum format format, const float *x, uint8_t *block, int n_tokens, int j) {
    const struct format_traits t = traits_of(format);
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const float max = max_or_nan(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)), ordered_lanes(a, b));
    const float scale = max / 127, times = max != 0 ? 127 / max : 0;
    const __m512i m = _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(times)));
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(times)));
    _mm_storeu_si128((__m128i *)(block + 32 * j), _mm512_cvtsepi32_epi8(m));
    _mm_storeu_si128((__m128i *)(block + 32 * j + 16), _mm512_cvtsepi32_epi8(n));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(m, n)), correction = -t.zero_point * sum;
    /* Upstream stores both in 16 bits. */
    const float stored[2] = {_cvtsh_ss(_cvtss_sh(scale, 0)), _cvtsh_ss(_cvtss_sh(scale * (float)sum, 0))};
    memcpy(block + act_scales_at(n_tokens) + 4 * j, stored, 4);
    memcpy(block + act_sums_at(n_tokens) + 4 * j, t.has_min ? (const void *)(stored + 1) : (const void *)&correction,
           4);
}

/* ---- Super-blocks ------------------------------------------------------------------------------------------------ */

/* Of each 32 numbers (a part) there are all tokens' quants and, for formats without minima, two sums of 16 of each
 * token times the zero point. After eight parts come all tokens' scales and then, for formats with minima, eight 16-bit
 * sums of 32 of each token. */
INLINE int64_t part_act_bytes(enum format format, int n_tokens) {
    return (traits_of(format).has_min ? 32 : 32 + 8) * n_tokens;
}
INLINE int64_t super_act_bytes(enum format format) {
    return 8 * part_act_bytes(format, 1) + 4 + (traits_of(format).has_min ? 16 : 0);
}

/* A super-block of 256 numbers of token j, quantised as upstream does it for Q8_K, but for signs that cancel out. */
INLINE void quantise_super_block(enum format format, const float *x, uint8_t *block, int n_tokens, int j) {
    const struct format_traits t = traits_of(format);
    __m512 max = _mm512_setzero_ps();
    __mmask16 ordered = 0xffff;
    for (int n = 0; n < 16; n++) {
        const __m512 a = _mm512_loadu_ps(x + 16 * n);
        max = _mm512_max_ps(max, _mm512_abs_ps(a));
        ordered &= ordered_lanes(a, a);
    }
    const float largest = max_or_nan(max, ordered), times = largest != 0 ? 127 / largest : 0;
    const float scale = largest != 0 ? 1 / times : 0;
    int16_t sums[8];
    for (int n = 0; n < 8; n++) {
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * n), _mm512_set1_ps(times)));
        const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * n + 16), _mm512_set1_ps(times)));
        uint8_t *part = block + n * part_act_bytes(format, n_tokens);
        _mm_storeu_si128((__m128i *)(part + 32 * j), _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(part + 32 * j + 16), _mm512_cvtsepi32_epi8(b));
        if (!t.has_min) {
            const int32_t corrections[2] = {-t.zero_point * _mm512_reduce_add_epi32(a),
                                            -t.zero_point * _mm512_reduce_add_epi32(b)};
            memcpy(part + 32 * n_tokens + 8 * j, corrections, 8);
        } else {
            sums[n] = (int16_t)_mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
        }
    }
    uint8_t *end = block + 8 * part_act_bytes(format, n_tokens);
    memcpy(end + 4 * j, &scale, 4);
    if (t.has_min) memcpy(end + 4 * n_tokens + 16 * j, sums, 16);
}
