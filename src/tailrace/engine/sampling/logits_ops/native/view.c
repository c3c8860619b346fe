/* The first pass over a row: the maxima that a view remembers, so that later questions read only a few groups. */
#include "logits_row.h"

/* How many floats `maxima` must hold. */
EXPORT int64_t tailrace_logits_view_floats(int64_t size) { return (count_blocks(size) + count_groups(size)) * LANES; }

INLINE float view_by_reading(const struct logits_row *row, const struct view_maxima *m) {
    v16 max = v16_set1(-INFINITY);
    order16 ordered = order16_all();
    for (int64_t b = 0; b < m->n_blocks; b++) {
        v16 block_max = v16_set1(-INFINITY);
        const int64_t end = b * 16 + 16 < m->n_groups ? b * 16 + 16 : m->n_groups;
        for (int64_t g = b * 16; g < end; g++) {
            const v16 x = max_of_group(row, g * GROUP, &ordered);
            v16_store(m->group_max + g * LANES, x);
            block_max = v16_max(block_max, x);
        }
        v16_store(m->block_max + b * LANES, block_max);
        max = v16_max(max, block_max);
    }
    return order16_is_all(ordered) ? v16_reduce_max(max) : NAN;
}

/* The same from the group maxima that the logits' product has stored. */
INLINE float view_by_group_max(const float *group_max, const struct view_maxima *m) {
    v16 max = v16_set1(-INFINITY);
    for (int64_t b = 0; b < m->n_blocks; b++) {
        v16 block_max = v16_set1(-INFINITY);
        const int64_t end = b * 16 + 16 < m->n_groups ? b * 16 + 16 : m->n_groups;
        for (int64_t g = b * 16; g < end; g++) {
            const v16 x = v16_load(group_max + g * LANES);
            v16_store(m->group_max + g * LANES, x);
            block_max = v16_max(block_max, x);
        }
        v16_store(m->block_max + b * LANES, block_max);
        max = v16_max(max, block_max);
    }
    return v16_reduce_max(max);
}

/* Fills `maxima`. The greatest allowed logit, NaN where one is. `group_max`: the stored maxima of the whole row, or
 * NULL. */
EXPORT float tailrace_logits_view(const float *logits, const uint32_t *mask, int64_t size, const float *group_max,
                                  float *maxima) {
    const struct logits_row row = make_row(logits, mask, size), unmasked = make_row(logits, 0, size);
    const struct view_maxima m = make_view_maxima(maxima, size);
    if (group_max && !mask && argmax_by_group_max(&unmasked, group_max) >= 0) {
        const float max_logit = view_by_group_max(group_max, &m);
        if (isfinite(max_logit)) return max_logit;
    }
    return mask ? view_by_reading(&row, &m) : view_by_reading(&unmasked, &m);
}
