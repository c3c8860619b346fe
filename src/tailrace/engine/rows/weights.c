/* Probabilities over the best token's, and sums of them. */
#include "rows.h"

/* e to the x for x <= 0, within 2 units of the last place: the whole part of the exponent to base 2 by scaling, the rest
 * (at most 0.35) by its Taylor polynomial, whose eighth term is below single precision. */
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f)); /* minus infinity has no whole part; both are 0 */
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), 0);
    /* ln 2 in two parts, of which products with the first are exact. */
    __m512 r = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

/* A sum in double precision, by single-precision sums of 256 numbers: equal ones are all rounded in the same direction,
 * so that longer sums would lose digits. */
struct sum {
    __m512d low, high;
};

INLINE struct sum nothing(void) { return (struct sum){_mm512_setzero_pd(), _mm512_setzero_pd()}; }

INLINE void add(struct sum *sum, const __m512 *parts) {
    const __m512 x = _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3]));
    sum->low = _mm512_add_pd(sum->low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    sum->high = _mm512_add_pd(sum->high, _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee))));
}

INLINE double whole(struct sum sum) { return _mm512_reduce_add_pd(_mm512_add_pd(sum.low, sum.high)); }

/* The probabilities of 16 tokens over the best one's; 0 for what doesn't count. */
INLINE __m512 weights_at(const struct row *row, int64_t token, __m512 best, __m512 factor) {
    return exponential(_mm512_mul_ps(_mm512_sub_ps(load(row, token), best), factor));
}

/* The sum of every token's probability over the best one's. */
EXPORT double tailrace_rows_total(const float *logits, const uint32_t *mask, int64_t size, float best) {
    const struct row row = row_of(logits, mask, size);
    const __m512 most = _mm512_set1_ps(best), one = _mm512_set1_ps(1.0f);
    struct sum total = nothing();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int i = 0; i < 16; i++)
            parts[i % 4] = _mm512_add_ps(parts[i % 4], weights_at(&row, begin + i * LANES, most, one));
        add(&total, parts);
    }
    return whole(total);
}

/* Those probabilities with differences of logits `factor` times as large. */
EXPORT void tailrace_rows_weights(
    const float *logits, const uint32_t *mask, int64_t size, float best, float factor, float *weights) {
    const struct row row = row_of(logits, mask, size);
    const struct row there = row_of(logits, 0, size);
    const __m512 most = _mm512_set1_ps(best), by = _mm512_set1_ps(factor);
    for (int64_t token = 0; token < size; token += LANES)
        _mm512_mask_storeu_ps(weights + token, counted(&there, token), weights_at(&row, token, most, by));
}

/* The sum of each 4096 of them. */
EXPORT void tailrace_rows_sums(const float *weights, int64_t size, double *sums) {
    const struct row row = row_of(weights, 0, size);
    for (int64_t block = 0; block < size; block += BLOCK) {
        struct sum sum = nothing();
        for (int64_t begin = block; begin < block + BLOCK && begin < size; begin += GROUP) {
            __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int i = 0; i < 16; i++) {
                const int64_t at = begin + i * LANES;
                parts[i % 4] = _mm512_add_ps(parts[i % 4], _mm512_maskz_loadu_ps(counted(&row, at), weights + at));
            }
            add(&sum, parts);
        }
        *sums++ = whole(sum);
    }
}
