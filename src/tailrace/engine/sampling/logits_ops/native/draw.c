/* From a row to the few tokens that top_k, top_p and min_p leave, and the draw among them. The arithmetic is in double
 * precision, as in the NumPy implementation. */
#include "logits_row.h"

/* FilterParams in structs.py. */
struct filter_params {
    int64_t top_k;             /* from 1 */
    double top_p;              /* the part of the top_k's probability that stays */
    double min_logit_distance; /* log(min_p): the lowest distance of a logit from the greatest one */
    double temperature;
};

/* Writes the tokens that the filters leave, best first, and their relative probabilities; returns their number.
 * `tokens` and `scratch` hold as many as the row, `probs` holds top_k. */
EXPORT int64_t tailrace_logits_filter(const float *logits, const uint32_t *mask, int64_t size, float *maxima,
                                      float max_logit, const struct filter_params *params, int64_t *tokens,
                                      int64_t *scratch, double *probs) {
    const struct logits_row row = make_row(logits, mask, size);
    const struct view_maxima m = make_view_maxima(maxima, size);
    int64_t left = find_top_k(&row, &m, max_logit, params->top_k, tokens, scratch);
    if (params->top_p < 1.0) {
        double mass = 0;
        for (int64_t i = 0; i < left; i++) probs[i] = mass += exp((double)logits[tokens[i]] - max_logit);
        const double min_mass = params->top_p * mass;
        int64_t first = 0; /* that reaches it */
        while (first < left && !(probs[first] >= min_mass)) first++;
        if (first < left) left = first + 1;
    }
    while (left > 0 && (double)logits[tokens[left - 1]] - max_logit < params->min_logit_distance) left--;
    for (int64_t i = 0; i < left; i++) probs[i] = exp(((double)logits[tokens[i]] - max_logit) / params->temperature);
    return left;
}

/* The index at which `number`, from [0, 1), falls among the relative probabilities. If rounding puts it beyond all of
 * them: the last that isn't 0. */
EXPORT int64_t tailrace_logits_draw_index(const double *probs, int64_t count, double number) {
    double total = 0;
    for (int64_t i = 0; i < count; i++) total += probs[i];
    const double target = number * total;
    double cumulative = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < count; i++) {
        const double before = cumulative;
        cumulative += probs[i];
        if (cumulative > target) return i;
        if (cumulative > before) last = i;
    }
    return last;
}
