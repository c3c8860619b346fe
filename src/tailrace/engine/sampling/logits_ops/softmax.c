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

/* The sum of every token's probability over the best one's, differences of logits being `factor` times as large, and of
 * these times the differences. */
EXPORT void tailrace_rows_surprise(
    const float *logits, const uint32_t *mask, int64_t size, float best, float factor, double *sums) {
    const struct row row = row_of(logits, mask, size);
    const __m512 most = _mm512_set1_ps(best), by = _mm512_set1_ps(factor), farthest = _mm512_set1_ps(-150.0f);
    struct sum total = nothing(), weighted = nothing();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        __m512 products[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int i = 0; i < 16; i++) {
            /* From there on the probability is 0, and its product with minus infinity would be none. */
            const __m512 x = _mm512_max_ps(
                _mm512_mul_ps(_mm512_sub_ps(load(&row, begin + i * LANES), most), by), farthest);
            const __m512 weight = exponential(x);
            parts[i % 4] = _mm512_add_ps(parts[i % 4], weight);
            products[i % 4] = _mm512_fmadd_ps(weight, x, products[i % 4]);
        }
        add(&total, parts);
        add(&weighted, products);
    }
    sums[0] = whole(total);
    sums[1] = whole(weighted);
}

/* How many logits count and aren't minus infinity, and the sum of their differences from `from`, or of the squares of
 * these. */
INLINE double spread(const struct row *row, double from, int squared, int64_t *many) {
    const __m512d origin = _mm512_set1_pd(from);
    __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    int64_t found = 0;
    for (int64_t token = 0; token < row->size; token += LANES) {
        const __m512 x = load(row, token);
        const __mmask16 there = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
        const __m256 halves[2] = {
            _mm512_castps512_ps256(x), _mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee))};
        found += __builtin_popcount(there);
        for (int i = 0; i < 2; i++) {
            const __m512d d = _mm512_maskz_sub_pd((__mmask8)(there >> 8 * i), _mm512_cvtps_pd(halves[i]), origin);
            sums[i] = squared ? _mm512_fmadd_pd(d, d, sums[i]) : _mm512_add_pd(sums[i], d);
        }
    }
    *many = found;
    return _mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1]));
}

/* Mean and standard deviation of the logits that count and aren't minus infinity; there has to be one. */
EXPORT void tailrace_rows_spread(const float *logits, const uint32_t *mask, int64_t size, float best, double *both) {
    const struct row row = row_of(logits, mask, size);
    int64_t many;
    const double sum = spread(&row, best, 0, &many), mean = best + sum / (double)many;
    const double squares = spread(&row, mean, 1, &many);
    both[0] = mean;
    both[1] = sqrt(squares / (double)many);
}
