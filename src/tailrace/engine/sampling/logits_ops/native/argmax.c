/* The token with the greatest logit.
 *
 * A row of 262k logits is 1 MB, and a pass takes the time to bring it from the last-level cache. The product that made
 * the logits may have stored their group maxima (see RowMaxima in row_maxima.py): then only one group of the row is
 * read. */
#include "logits_row.h"

/* The first allowed token of a block whose logit equals `logit` (or is NaN, if `logit` is), or -1. */
static int64_t find_in_block(const struct logits_row *row, int64_t begin, float logit) {
    const v16 sought = v16_set1(logit);
    for (int64_t token = begin; token < begin + BLOCK && token < row->size; token += LANES) {
        const v16 x = load_logits(row, token);
        const m16 equal = v16_equal(x, sought), nan = v16_is_nan(x);
        const m16 hits = allowed_at(row, token) & (isnan(logit) ? nan : equal);
        if (hits) return token + __builtin_ctz(hits);
    }
    return -1;
}

/* The first allowed token with the greatest logit, or the first NaN; -1 where all allowed logits are minus infinity. */
INLINE int64_t argmax_by_reading(const struct logits_row *row) {
    float max_logit = -INFINITY;
    int64_t max_block = -1;
    for (int64_t begin = 0; begin < row->size; begin += BLOCK) {
        const int64_t end = begin + BLOCK < row->size ? begin + BLOCK : row->size;
        v16 max = v16_set1(-INFINITY);
        order16 ordered = order16_all();
        for (int64_t token = begin; token < end; token += GROUP) max = v16_max(max, max_of_group(row, token, &ordered));
        if (!order16_is_all(ordered)) return find_in_block(row, begin, NAN);
        const float block_max = v16_reduce_max(max);
        if (block_max > max_logit) {
            max_logit = block_max;
            max_block = begin;
        }
    }
    return max_block < 0 ? -1 : find_in_block(row, max_block, max_logit);
}

INLINE int64_t find_by_group_max(const struct logits_row *row, const float *group_max) {
    v16 max = v16_set1(-INFINITY);
    i16 max_group = i16_set1(0);
    const int64_t groups = count_groups(row->size);
    for (int64_t g = 0; g < groups; g++) {
        const v16 x = v16_load(group_max + g * LANES);
        max_group = i16_where_greater(x, max, (int)g, max_group);
        max = v16_max(max, x);
    }
    const float max_logit = v16_reduce_max(max);
    /* Each lane has the first group with the lane's maximum. */
    const int64_t first = i16_min_where_equal(max_group, max, v16_set1(max_logit)) * (int64_t)GROUP;
    for (int64_t token = first; token < first + GROUP; token += LANES) {
        const m16 equal = v16_equal(load_logits(row, token), v16_set1(max_logit));
        const m16 hits = equal & allowed_at(row, token);
        if (hits) return token + __builtin_ctz(hits);
    }
    return -1;
}

/* Out of line, for view.c. */
int64_t argmax_by_group_max(const struct logits_row *row, const float *group_max) {
    return find_by_group_max(row, group_max);
}

INLINE int64_t argmax_unmasked(const struct logits_row *row, const float *group_max) {
    if (group_max) {
        const int64_t token = find_by_group_max(row, group_max);
        if (token >= 0 && isfinite(row->logits[token])) return token;
    }
    return argmax_by_reading(row);
}

/* `group_max`: the stored maxima of the whole row, or NULL. */
EXPORT int64_t tailrace_logits_argmax(const float *logits, const uint32_t *mask, int64_t size, const float *group_max) {
    const struct logits_row row = make_row(logits, mask, size), unmasked = make_row(logits, 0, size);
    return mask ? argmax_by_reading(&row) : argmax_unmasked(&unmasked, group_max);
}

/* The argmax of each of `count` consecutive rows, whose stored maxima are consecutive, too. 0 where a maximum isn't
 * finite. */
EXPORT int tailrace_logits_argmax_of_rows(const float *logits, int64_t count, int64_t size, const float *group_max,
                                          int64_t *tokens) {
    /* The last row first: it was written last, so it is in the nearest cache. */
    for (int64_t i = count - 1; i >= 0; i--) {
        const struct logits_row row = make_row(logits + i * size, 0, size);
        tokens[i] = argmax_unmasked(&row, group_max ? group_max + i * count_groups(size) * LANES : 0);
        if (tokens[i] < 0 || !isfinite(row.logits[tokens[i]])) return 0;
    }
    return 1;
}
