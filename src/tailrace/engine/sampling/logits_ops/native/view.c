/* The first pass over a row: the maxima that a view remembers, so that later questions read only a few groups. */
#include "logits_row.h"

/* How many floats `maxima` must hold. */
EXPORT int64_t tailrace_logits_view_floats(int64_t size) { return (count_blocks(size) + count_groups(size)) * LANES; }

INLINE float view_by_reading(const struct logits_row *row, const struct view_maxima *m) {
    __m512 max = _mm512_set1_ps(-INFINITY);
    __mmask16 ordered = 0xffff;
    for (int64_t b = 0; b < m->n_blocks; b++) {
        __m512 block_max = _mm512_set1_ps(-INFINITY);
        const int64_t end = b * 16 + 16 < m->n_groups ? b * 16 + 16 : m->n_groups;
        for (int64_t g = b * 16; g < end; g++) {
            const __m512 x = max_of_group(row, g * GROUP, &ordered);
            _mm512_storeu_ps(m->group_max + g * LANES, x);
            block_max = _mm512_max_ps(block_max, x);
        }
        _mm512_storeu_ps(m->block_max + b * LANES, block_max);
        max = _mm512_max_ps(max, block_max);
    }
    return ordered == 0xffff ? _mm512_reduce_max_ps(max) : NAN;
}

/* The same from the group maxima that the logits' product has stored. */
INLINE float view_by_group_max(const float *group_max, const struct view_maxima *m) {
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (int64_t b = 0; b < m->n_blocks; b++) {
        __m512 block_max = _mm512_set1_ps(-INFINITY);
        const int64_t end = b * 16 + 16 < m->n_groups ? b * 16 + 16 : m->n_groups;
        for (int64_t g = b * 16; g < end; g++) {
            const __m512 x = _mm512_loadu_ps(group_max + g * LANES);
            _mm512_storeu_ps(m->group_max + g * LANES, x);
            block_max = _mm512_max_ps(block_max, x);
        }
        _mm512_storeu_ps(m->block_max + b * LANES, block_max);
        max = _mm512_max_ps(max, block_max);
    }
    return _mm512_reduce_max_ps(max);
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
