/* From a row to the few tokens that one is drawn from, and the draw: plain.py's arithmetic, in double precision. */
#include "rows.h"

struct filters {
    int64_t count;   /* of the likeliest that may stay, from 1 */
    double top_p;    /* the part of their probability that stays */
    double distance; /* of the least logit that stays from the best */
    double temperature;
};

/* The tokens that the filters leave, best first, their probabilities over the best one's, and how many. `tokens` and `other`
 * have room for the whole row, `weights` for `count`. */
EXPORT int64_t tailrace_rows_filtered(const float *logits, const uint32_t *mask, int64_t size, float *maxima, float best,
    const struct filters *filters, int64_t *tokens, int64_t *other, double *weights) {
    const struct row row = row_of(logits, mask, size);
    const struct maxima m = maxima_of(maxima, size);
    int64_t kept = likeliest(&row, &m, best, filters->count, tokens, other);
    if (filters->top_p < 1.0) {
        double mass = 0;
        for (int64_t i = 0; i < kept; i++) weights[i] = mass += exp((double)logits[tokens[i]] - best);
        const double wanted = filters->top_p * mass;
        int64_t first = 0; /* that reaches it */
        while (first < kept && !(weights[first] >= wanted)) first++;
        if (first < kept) kept = first + 1;
    }
    while (kept > 0 && (double)logits[tokens[kept - 1]] - best < filters->distance) kept--;
    for (int64_t i = 0; i < kept; i++) weights[i] = exp(((double)logits[tokens[i]] - best) / filters->temperature);
    return kept;
}

/* Where `number`, from 0 to below 1, falls among so many weights. */
EXPORT int64_t tailrace_rows_place(const double *weights, int64_t many, double number) {
    double total = 0;
    for (int64_t i = 0; i < many; i++) total += weights[i];
    const double target = number * total;
    double reached = 0;
    int64_t last = 0; /* that adds anything */
    for (int64_t i = 0; i < many; i++) {
        const double before = reached;
        reached += weights[i];
        if (reached > target) return i;
        if (reached > before) last = i;
    }
    return last;
}
