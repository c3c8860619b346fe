/* Relative probabilities, exp((logit - greatest logit) / temperature), and sums over them. */
#include "logits_row.h"

/* exp(x) for x <= 0, within 2 units of the last place. The whole part of the exponent to base 2 becomes the result's scale.
 * The rest (at most 0.35) goes through its Taylor polynomial, whose eighth term is below single precision. */
INLINE __m512 exp_ps(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f)); /* minus infinity has no whole part; the result is 0 in both cases */
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), 0);
    /* ln 2 in two parts: products with the first part are exact. */
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

/* A sum in double precision of single-precision sums of 256 numbers. Longer single-precision sums would lose
 * digits: equal numbers are all rounded in the same direction. */
struct sum {
    __m512d low, high;
};

INLINE struct sum zero_sum(void) { return (struct sum){_mm512_setzero_pd(), _mm512_setzero_pd()}; }

INLINE void add_to_sum(struct sum *sum, const __m512 *parts) {
    const __m512 x = _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3]));
    sum->low = _mm512_add_pd(sum->low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    sum->high = _mm512_add_pd(sum->high, _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee))));
}

INLINE double sum_value(struct sum sum) { return _mm512_reduce_add_pd(_mm512_add_pd(sum.low, sum.high)); }

/* The relative probabilities of 16 tokens; 0 for a token that isn't allowed. `factor` is 1 / temperature. */
INLINE __m512 probs_at(const struct logits_row *row, int64_t token, __m512 max, __m512 factor) {
    return exp_ps(_mm512_mul_ps(_mm512_sub_ps(load_logits(row, token), max), factor));
}

/* The sum of all relative probabilities at temperature 1. */
EXPORT double tailrace_logits_sum_exp(const float *logits, const uint32_t *mask, int64_t size, float max_logit) {
    const struct logits_row row = make_row(logits, mask, size);
    const __m512 max = _mm512_set1_ps(max_logit), one = _mm512_set1_ps(1.0f);
    struct sum total = zero_sum();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int i = 0; i < 16; i++)
            parts[i % 4] = _mm512_add_ps(parts[i % 4], probs_at(&row, begin + i * LANES, max, one));
        add_to_sum(&total, parts);
    }
    return sum_value(total);
}

/* Writes all relative probabilities; `factor` is 1 / temperature. */
EXPORT void tailrace_logits_probabilities(const float *logits, const uint32_t *mask, int64_t size, float max_logit,
                                          float factor, float *probs) {
    const struct logits_row row = make_row(logits, mask, size);
    const struct logits_row whole_row = make_row(logits, 0, size);
    const __m512 max = _mm512_set1_ps(max_logit), scale = _mm512_set1_ps(factor);
    for (int64_t token = 0; token < size; token += LANES)
        _mm512_mask_storeu_ps(probs + token, allowed_at(&whole_row, token), probs_at(&row, token, max, scale));
}

/* The sum of each block of 4096 relative probabilities. */
EXPORT void tailrace_logits_block_sums(const float *probs, int64_t size, double *sums) {
    const struct logits_row row = make_row(probs, 0, size);
    for (int64_t block = 0; block < size; block += BLOCK) {
        struct sum sum = zero_sum();
        for (int64_t begin = block; begin < block + BLOCK && begin < size; begin += GROUP) {
            __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int i = 0; i < 16; i++) {
                const int64_t at = begin + i * LANES;
                parts[i % 4] = _mm512_add_ps(parts[i % 4], _mm512_maskz_loadu_ps(allowed_at(&row, at), probs + at));
            }
            add_to_sum(&sum, parts);
        }
        *sums++ = sum_value(sum);
    }
}

/* sums[0]: the sum of all relative probabilities p. sums[1]: the sum of p * log(p). `factor` is 1 / temperature. */
EXPORT void tailrace_logits_entropy_sums(const float *logits, const uint32_t *mask, int64_t size, float max_logit,
                                         float factor, double *sums) {
    const struct logits_row row = make_row(logits, mask, size);
    const __m512 max = _mm512_set1_ps(max_logit), scale = _mm512_set1_ps(factor),
                 min_distance = _mm512_set1_ps(-150.0f);
    struct sum total = zero_sum(), weighted = zero_sum();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        __m512 parts[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        __m512 products[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int i = 0; i < 16; i++) {
            /* The probability is 0 from there on. Without the limit, 0 times minus infinity would be NaN. */
            const __m512 x = _mm512_max_ps(
                _mm512_mul_ps(_mm512_sub_ps(load_logits(&row, begin + i * LANES), max), scale), min_distance);
            const __m512 p = exp_ps(x);
            parts[i % 4] = _mm512_add_ps(parts[i % 4], p);
            products[i % 4] = _mm512_fmadd_ps(p, x, products[i % 4]);
        }
        add_to_sum(&total, parts);
        add_to_sum(&weighted, products);
    }
    sums[0] = sum_value(total);
    sums[1] = sum_value(weighted);
}

/* The sum of the differences (or of their squares) of all allowed finite logits from `origin`. `count` gets their
 * number. */
INLINE double sum_differences(const struct logits_row *row, double origin, int squared, int64_t *count) {
    const __m512d from = _mm512_set1_pd(origin);
    __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    int64_t n_finite = 0;
    for (int64_t token = 0; token < row->size; token += LANES) {
        const __m512 x = load_logits(row, token);
        const __mmask16 finite = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
        const __m256 halves[2] = {_mm512_castps512_ps256(x), _mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee))};
        n_finite += __builtin_popcount(finite);
        for (int i = 0; i < 2; i++) {
            const __m512d d = _mm512_maskz_sub_pd((__mmask8)(finite >> 8 * i), _mm512_cvtps_pd(halves[i]), from);
            sums[i] = squared ? _mm512_fmadd_pd(d, d, sums[i]) : _mm512_add_pd(sums[i], d);
        }
    }
    *count = n_finite;
    return _mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1]));
}

/* Mean and standard deviation of the allowed finite logits. There must be one. */
EXPORT void tailrace_logits_mean_and_deviation(const float *logits, const uint32_t *mask, int64_t size, float max_logit,
                                               double *mean_and_deviation) {
    const struct logits_row row = make_row(logits, mask, size);
    int64_t count;
    const double sum = sum_differences(&row, max_logit, 0, &count), mean = max_logit + sum / (double)count;
    const double squares = sum_differences(&row, mean, 1, &count);
    mean_and_deviation[0] = mean;
    mean_and_deviation[1] = sqrt(squares / (double)count);
}
