/* A row of logits with its mask, and what the other files share: group maxima, and the maxima that a view remembers.
 *
 * Words: a lane is one of the 16 positions of a vector. A group is 256 consecutive tokens; token t belongs to lane
 * t % 16 of group t / 256. A block is 4096 consecutive tokens. A token is allowed if it is within the row and its bit
 * of the mask is set, or if there is no mask. */
#pragma once
#include <math.h>
#include <stdint.h>

#include "vectors.h"

enum {
    LANES = 16,
    GROUP = 16 * LANES,
    BLOCK = 16 * GROUP,
};

struct logits_row {
    const float *logits;
    const uint16_t *mask; /* 16 bits for each vector of logits, or NULL */
    int64_t size;
};

INLINE struct logits_row make_row(const float *logits, const uint32_t *mask, int64_t size) {
    return (struct logits_row){logits, (const uint16_t *)mask, size};
}

/* Which of the 16 tokens from `token` on are allowed. */
INLINE m16 allowed_at(const struct logits_row *row, int64_t token) {
    const int64_t left = row->size - token;
    const m16 within = left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    return row->mask && within ? within & row->mask[token / LANES] : within;
}

/* 16 logits; minus infinity for a token that isn't allowed. */
INLINE v16 load_logits(const struct logits_row *row, int64_t token) {
    return v16_load_where(allowed_at(row, token), v16_set1(-INFINITY), row->logits + token);
}

INLINE int64_t count_groups(int64_t size) { return (size + GROUP - 1) / GROUP; }
INLINE int64_t count_blocks(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

/* What a view remembers: 16 lane maxima for each block, and behind them 16 for each group. A lane without an allowed
 * token has minus infinity. */
struct view_maxima {
    float *block_max, *group_max;
    int64_t n_blocks, n_groups;
};

INLINE struct view_maxima make_view_maxima(float *maxima, int64_t size) {
    return (struct view_maxima){maxima, maxima + count_blocks(size) * LANES, count_blocks(size), count_groups(size)};
}

/* The lane maxima of a whole group. A bit of `ordered` is cleared where a logit is NaN. `logits` and `mask` point to
 * the group's first token. */
INLINE v16 max_of_whole_group(const float *logits, const uint16_t *mask, order16 *ordered) {
    const v16 none = v16_set1(-INFINITY);
    if (mask) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)mask);
        if (_mm256_testz_si256(bits, bits)) return none;
    }
    v16 max[2] = {none, none};
    order16 no_nan[2] = {*ordered, *ordered};
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const float *p = logits + 2 * i * LANES;
        const v16 a = mask ? v16_load_all_where(mask[2 * i], none, p) : v16_load(p);
        const v16 b = mask ? v16_load_all_where(mask[2 * i + 1], none, p + LANES) : v16_load(p + LANES);
        no_nan[i % 2] = order16_of(no_nan[i % 2], a, b);
        max[i % 2] = v16_max(max[i % 2], v16_max(a, b));
    }
    *ordered = order16_and(no_nan[0], no_nan[1]);
    return v16_max(max[0], max[1]);
}

/* The same for the last group of a row where it has fewer than 256 tokens. Out of line: it runs once a row. */
static __attribute__((noinline, unused)) v16 max_of_last_group(const struct logits_row *row, int64_t token,
                                                               order16 *ordered) {
    v16 max = v16_set1(-INFINITY);
    for (; token < row->size; token += LANES) {
        const v16 x = load_logits(row, token);
        *ordered = order16_of(*ordered, x, x);
        max = v16_max(max, x);
    }
    return max;
}

INLINE v16 max_of_group(const struct logits_row *row, int64_t token, order16 *ordered) {
    if (token + GROUP > row->size) return max_of_last_group(row, token, ordered);
    return max_of_whole_group(row->logits + token, row->mask ? row->mask + token / LANES : 0, ordered);
}

/* argmax.c: the first token with the greatest logit, found from the group maxima of the whole row (no mask); -1 if the
 * maxima belong to another row. */
HIDDEN int64_t argmax_by_group_max(const struct logits_row *row, const float *group_max);

/* top_k.c: see tailrace_logits_top_k. */
HIDDEN int64_t find_top_k(const struct logits_row *row, const struct view_maxima *maxima, float max_logit, int64_t k,
                          int64_t *tokens, int64_t *scratch);
