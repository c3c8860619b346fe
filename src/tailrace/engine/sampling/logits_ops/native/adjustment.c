/* Bias and penalties on a row of logits, and undoing them. The arithmetic is that of the NumPy implementation, bit for
 * bit.
 *
 * The tokens lie anywhere in a row of a megabyte, so the time goes into fetching their cache lines. The logits of many
 * tokens are read first, so that the fetches overlap; then they are changed together; then they are written. */
#include <math.h>
#include <stdint.h>

#include "logits_row.h"

/* AdjustmentStruct in structs.py. No array of tokens has a token twice. */
struct adjustment {
    const int64_t *bias_tokens, *repeat_tokens, *count_tokens;
    const float *bias, *counts; /* of bias_tokens, of count_tokens */
    float *saved_logits;        /* the logits that were replaced, in the order of the arrays above */
    float *saved_maxima;        /* the group maxima of their lanes, in the same order */
    int64_t n_bias, n_repeat, n_count;
    float repeat_penalty, frequency_penalty, presence_penalty;
};

enum { BATCH = 512 }; /* tokens that are changed together */

static int all_within(const int64_t *tokens, int64_t count, int64_t size) {
    int64_t outside = 0;
    for (int64_t i = 0; i < count; i++) outside |= (uint64_t)tokens[i] >= (uint64_t)size;
    return !outside;
}

static inline void gather(float *restrict to, const float *restrict row, const int64_t *restrict tokens,
                          int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = row[tokens[i]];
}

static inline void scatter(float *restrict row, const int64_t *restrict tokens, const float *restrict from,
                           int64_t count) {
    for (int64_t i = 0; i < count; i++) row[tokens[i]] = from[i];
}

/* As NumPy's minimum and maximum: NaN where one operand is NaN. */
static inline float min_or_nan(float a, float b) { return a < b || a != a ? a : b; }
static inline float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }

/* The maximum of a token's lane in its group. */
static float lane_max(const float *row, int64_t size, int64_t token) {
    float max = -INFINITY;
    const int64_t begin = token / GROUP * GROUP;
    for (int64_t at = begin + token % LANES; at < begin + GROUP && at < size; at += LANES)
        max = row[at] > max ? row[at] : max;
    return max;
}

/* Updates the group maxima after the row has changed. A lane is read again only if its maximum may have been the
 * token's logit `before`: one token in sixteen. */
static void update_group_max(float *group_max, const float *row, int64_t size, const int64_t *tokens,
                             const float *before, float *saved, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float *lane = group_max + tokens[i] / GROUP * LANES + tokens[i] % LANES;
        const float now = row[tokens[i]];
        saved[i] = *lane;
        if (now != now) *lane = INFINITY; /* No row has it, so the row itself is read. */
        else if (now > *lane) *lane = now;
        else if (before[i] >= *lane) *lane = lane_max(row, size, tokens[i]);
    }
}

static void restore_group_max(float *group_max, const int64_t *tokens, const float *saved, int64_t count) {
    for (int64_t i = count - 1; i >= 0; i--) group_max[tokens[i] / GROUP * LANES + tokens[i] % LANES] = saved[i];
}

/* Changes the logits, and their group maxima unless `group_max` is NULL. 0, and nothing is changed, if a token isn't in
 * the row. */
EXPORT int tailrace_logits_apply(float *restrict row, int64_t size, const struct adjustment *adjustment,
                                 float *group_max) {
    const struct adjustment c = *adjustment;
    if (!all_within(c.bias_tokens, c.n_bias, size) || !all_within(c.repeat_tokens, c.n_repeat, size) ||
        !all_within(c.count_tokens, c.n_count, size))
        return 0;
    float *restrict before = c.saved_logits;
    float after[BATCH];
    for (int64_t begin = 0, count; begin < c.n_bias; begin += count, before += count) {
        count = c.n_bias - begin < BATCH ? c.n_bias - begin : BATCH;
        gather(before, row, c.bias_tokens + begin, count);
        for (int64_t i = 0; i < count; i++) after[i] = before[i] + c.bias[begin + i];
        scatter(row, c.bias_tokens + begin, after, count);
    }
    for (int64_t begin = 0, count; begin < c.n_repeat; begin += count, before += count) {
        count = c.n_repeat - begin < BATCH ? c.n_repeat - begin : BATCH;
        gather(before, row, c.repeat_tokens + begin, count);
        for (int64_t i = 0; i < count; i++) {
            const float divided = before[i] / c.repeat_penalty, multiplied = before[i] * c.repeat_penalty;
            after[i] = c.repeat_penalty > 1.0f ? min_or_nan(divided, multiplied) : max_or_nan(divided, multiplied);
        }
        scatter(row, c.repeat_tokens + begin, after, count);
    }
    for (int64_t begin = 0, count; begin < c.n_count; begin += count, before += count) {
        count = c.n_count - begin < BATCH ? c.n_count - begin : BATCH;
        gather(before, row, c.count_tokens + begin, count);
        /* Two loops: the compiler would fuse product and sum, but NumPy rounds each of them. */
        for (int64_t i = 0; i < count; i++) after[i] = c.counts[begin + i] * c.frequency_penalty;
        __asm__("" : : "r"(after) : "memory");
        for (int64_t i = 0; i < count; i++) after[i] = before[i] - (after[i] + c.presence_penalty);
        scatter(row, c.count_tokens + begin, after, count);
    }
    if (group_max) {
        /* The last array first. If several arrays lower a token, only the first array's `before` can be its lane's
         * maximum, so the lane is read once. */
        const int64_t first = c.n_bias, second = c.n_bias + c.n_repeat;
        update_group_max(group_max, row, size, c.count_tokens, c.saved_logits + second, c.saved_maxima + second,
                         c.n_count);
        update_group_max(group_max, row, size, c.repeat_tokens, c.saved_logits + first, c.saved_maxima + first,
                         c.n_repeat);
        update_group_max(group_max, row, size, c.bias_tokens, c.saved_logits, c.saved_maxima, c.n_bias);
    }
    return 1;
}

/* Restores what tailrace_logits_apply changed. */
EXPORT void tailrace_logits_undo(float *restrict row, const struct adjustment *adjustment, float *group_max) {
    const struct adjustment c = *adjustment;
    if (group_max) {
        restore_group_max(group_max, c.bias_tokens, c.saved_maxima, c.n_bias);
        restore_group_max(group_max, c.repeat_tokens, c.saved_maxima + c.n_bias, c.n_repeat);
        restore_group_max(group_max, c.count_tokens, c.saved_maxima + c.n_bias + c.n_repeat, c.n_count);
    }
    /* The last array first: a token may be in several. */
    scatter(row, c.count_tokens, c.saved_logits + c.n_bias + c.n_repeat, c.n_count);
    scatter(row, c.repeat_tokens, c.saved_logits + c.n_bias, c.n_repeat);
    scatter(row, c.bias_tokens, c.saved_logits, c.n_bias);
}
