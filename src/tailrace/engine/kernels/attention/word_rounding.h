/* Queries and probabilities as 16-bit words, for products with quantised keys and values. */
#pragma once
#include "attention/scratch.h"
#include "attention/words.h"

#define MAX_WORD 32767

/* NaN where x is infinite: a product of an infinite scale may be minus infinity, which is a score without weight. */
INLINE vf nan_unless_finite(vf x) { return vf_fma(x, vf_zero(), x); }

/* The scale of words for numbers of up to `max`, and its inverse, 0 where it would overflow. The scale is NaN where `max`
 * isn't finite. */
INLINE float word_scale(float max, float *inverse) {
    *inverse = max > 1e-30f ? MAX_WORD / max : 0;
    return max * (1.0f / MAX_WORD) + 0 * max;
}

/* The place of number i of four in a query's words: pairs are of even and of odd numbers, as those of keys. */
INLINE int pair_place(int i) { return (i & ~3) | (i & 1) << 1 | (i & 2) >> 1; }

/* Round the first `dim` numbers of a query to words, with a scale for each block. */
INLINE void round_query(const float *query, int dim, int16_t *words, float *scales) {
    for (int d = 0; d < dim; d += QUANT_BLOCK) {
        int16_t rounded[QUANT_BLOCK] __attribute__((aligned(64)));
        vf max = vf_zero();
        vm wrong = vf_is_nan(max);
        for (int i = 0; i < QUANT_BLOCK; i += VF_LANES) {
            const vf x = vf_loadu(query + d + i);
            max = vf_max(max, vf_abs(x));
            wrong = vm_or(wrong, vf_is_nan(nan_unless_finite(x)));
        }
        float inverse;
        scales[d / QUANT_BLOCK] = word_scale(vm_any(wrong) ? NAN : vf_reduce_max(max), &inverse);
        for (int i = 0; i < QUANT_BLOCK; i += VF_LANES)
            store_words(rounded + i, vf_mul(vf_loadu(query + d + i), vf_set1(inverse)));
        for (int i = 0; i < QUANT_BLOCK; i++) words[d + pair_place(i)] = rounded[i];
    }
}

/* Probabilities of a tile's cells times their values' scales as words. The scale of the words. */
INLINE float round_weights(const float *probs, const float *scales, int n_cells, bool damaged, int16_t *words) {
    vf max = vf_zero();
    for (int j = 0; j < n_cells; j += VF_LANES)
        max = vf_max(max, vf_abs(vf_mul(vf_load(probs + j), vf_load(scales + j))));
    float inverse;
    const float scale = word_scale(damaged ? NAN : vf_reduce_max(max), &inverse);
    for (int j = 0; j < n_cells; j += VF_LANES)
        store_words(words + j, vf_mul(vf_mul(vf_load(probs + j), vf_load(scales + j)), vf_set1(inverse)));
    return scale;
}
