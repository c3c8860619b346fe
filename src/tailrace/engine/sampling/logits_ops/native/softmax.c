/* Relative probabilities, exp((logit - greatest logit) / temperature), and sums over them. */
#include "logits_row.h"

/* exp(x) for x <= 0, within 2 units of the last place. The whole part of the exponent to base 2 becomes the result's scale.
 * The rest (at most 0.35) goes through its Taylor polynomial, whose eighth term is below single precision. */
INLINE v16 exp_ps(v16 x) {
    x = v16_max(x, v16_set1(-150.0f)); /* minus infinity has no whole part; the result is 0 in both cases */
    const v16 whole = v16_round(v16_mul(x, v16_set1(0x1.715476p+0f)));
    /* ln 2 in two parts: products with the first part are exact. */
    v16 r = v16_fnma(whole, v16_set1(0x1.62e4p-1f), x);
    r = v16_fnma(whole, v16_set1(0x1.7f7d1cp-20f), r);
    v16 p = v16_set1(1.0f / 5040);
    p = v16_fma(p, r, v16_set1(1.0f / 720));
    p = v16_fma(p, r, v16_set1(1.0f / 120));
    p = v16_fma(p, r, v16_set1(1.0f / 24));
    p = v16_fma(p, r, v16_set1(1.0f / 6));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_scale_exp2(p, whole);
}

/* A sum in double precision of single-precision sums of 256 numbers. Longer single-precision sums would lose
 * digits: equal numbers are all rounded in the same direction. */
struct sum {
    d8 low, high;
};

INLINE struct sum zero_sum(void) { return (struct sum){d8_zero(), d8_zero()}; }

INLINE void add_to_sum(struct sum *sum, const v16 *parts) {
    const v16 x = v16_add(v16_add(parts[0], parts[1]), v16_add(parts[2], parts[3]));
    sum->low = d8_add(sum->low, d8_of_low(x));
    sum->high = d8_add(sum->high, d8_of_high(x));
}

INLINE double sum_value(struct sum sum) { return d8_reduce_add(d8_add(sum.low, sum.high)); }

/* The relative probabilities of 16 tokens; 0 for a token that isn't allowed. `factor` is 1 / temperature. */
INLINE v16 probs_at(const struct logits_row *row, int64_t token, v16 max, v16 factor) {
    return exp_ps(v16_mul(v16_sub(load_logits(row, token), max), factor));
}

/* The sum of all relative probabilities at temperature 1. */
EXPORT double tailrace_logits_sum_exp(const float *logits, const uint32_t *mask, int64_t size, float max_logit) {
    const struct logits_row row = make_row(logits, mask, size);
    const v16 max = v16_set1(max_logit), one = v16_set1(1.0f);
    struct sum total = zero_sum();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        v16 parts[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
        for (int i = 0; i < 16; i++) parts[i % 4] = v16_add(parts[i % 4], probs_at(&row, begin + i * LANES, max, one));
        add_to_sum(&total, parts);
    }
    return sum_value(total);
}

/* Writes all relative probabilities; `factor` is 1 / temperature. */
EXPORT void tailrace_logits_probabilities(const float *logits, const uint32_t *mask, int64_t size, float max_logit,
                                          float factor, float *probs) {
    const struct logits_row row = make_row(logits, mask, size);
    const struct logits_row whole_row = make_row(logits, 0, size);
    const v16 max = v16_set1(max_logit), scale = v16_set1(factor);
    for (int64_t token = 0; token < size; token += LANES)
        v16_store_where(allowed_at(&whole_row, token), probs + token, probs_at(&row, token, max, scale));
}

/* The sum of each block of 4096 relative probabilities. */
EXPORT void tailrace_logits_block_sums(const float *probs, int64_t size, double *sums) {
    const struct logits_row row = make_row(probs, 0, size);
    for (int64_t block = 0; block < size; block += BLOCK) {
        struct sum sum = zero_sum();
        for (int64_t begin = block; begin < block + BLOCK && begin < size; begin += GROUP) {
            v16 parts[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
            for (int i = 0; i < 16; i++) {
                const int64_t at = begin + i * LANES;
                parts[i % 4] = v16_add(parts[i % 4], v16_load_where(allowed_at(&row, at), v16_set1(0), probs + at));
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
    const v16 max = v16_set1(max_logit), scale = v16_set1(factor), min_distance = v16_set1(-150.0f);
    struct sum total = zero_sum(), weighted = zero_sum();
    for (int64_t begin = 0; begin < size; begin += GROUP) {
        v16 parts[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
        v16 products[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
        for (int i = 0; i < 16; i++) {
            /* The probability is 0 from there on. Without the limit, 0 times minus infinity would be NaN. */
            const v16 x = v16_max(v16_mul(v16_sub(load_logits(&row, begin + i * LANES), max), scale), min_distance);
            const v16 p = exp_ps(x);
            parts[i % 4] = v16_add(parts[i % 4], p);
            products[i % 4] = v16_fma(p, x, products[i % 4]);
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
    const d8 from = d8_set1(origin);
    d8 sums[2] = {d8_zero(), d8_zero()};
    int64_t n_finite = 0;
    for (int64_t token = 0; token < row->size; token += LANES) {
        const v16 x = load_logits(row, token);
        const m16 finite = v16_greater(x, v16_set1(-INFINITY));
        const d8 halves[2] = {d8_of_low(x), d8_of_high(x)};
        n_finite += __builtin_popcount(finite);
        for (int i = 0; i < 2; i++) {
            const d8 d = d8_sub_where(finite >> 8 * i, halves[i], from);
            sums[i] = squared ? d8_fma(d, d, sums[i]) : d8_add(sums[i], d);
        }
    }
    *count = n_finite;
    return d8_reduce_add(d8_add(sums[0], sums[1]));
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
