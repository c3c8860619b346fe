/* A row of logits with its mask, and what the other files share: group maxima, and the maxima that a view remembers.
 *
 * Words: a lane is one of the 16 positions of a vector. A group is 256 consecutive tokens; token t belongs to lane
 * t % 16 of group t / 256. A block is 4096 consecutive tokens. A token is allowed if it is within the row and its bit
 * of the mask is set, or if there is no mask. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define INLINE static inline __attribute__((always_inline))

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
INLINE __mmask16 allowed_at(const struct logits_row *row, int64_t token) {
    const int64_t left = row->size - token;
    const __mmask16 within = left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    return row->mask && within ? within & row->mask[token / LANES] : within;
}

/* 16 logits; minus infinity for a token that isn't allowed. */
INLINE __m512 load_logits(const struct logits_row *row, int64_t token) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), allowed_at(row, token), row->logits + token);
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
INLINE __m512 max_of_whole_group(const float *logits, const uint16_t *mask, __mmask16 *ordered) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    if (mask) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)mask);
        if (_mm256_testz_si256(bits, bits)) return none;
    }
    __m512 max[2] = {none, none};
    __mmask16 no_nan[2] = {*ordered, *ordered};
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const float *p = logits + 2 * i * LANES;
        const __m512 a = mask ? _mm512_mask_loadu_ps(none, mask[2 * i], p) : _mm512_loadu_ps(p);
        const __m512 b = mask ? _mm512_mask_loadu_ps(none, mask[2 * i + 1], p + LANES) : _mm512_loadu_ps(p + LANES);
        no_nan[i % 2] = _mm512_mask_cmp_ps_mask(no_nan[i % 2], a, b, _CMP_ORD_Q);
        max[i % 2] = _mm512_max_ps(max[i % 2], _mm512_max_ps(a, b));
    }
    *ordered = _kand_mask16(no_nan[0], no_nan[1]);
    return _mm512_max_ps(max[0], max[1]);
}

/* The same for the last group of a row where it has fewer than 256 tokens. Out of line: it runs once a row. */
static __attribute__((noinline, unused)) __m512 max_of_last_group(const struct logits_row *row, int64_t token,
                                                                  __mmask16 *ordered) {
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (; token < row->size; token += LANES) {
        const __m512 x = load_logits(row, token);
        *ordered = _mm512_mask_cmp_ps_mask(*ordered, x, x, _CMP_ORD_Q);
        max = _mm512_max_ps(max, x);
    }
    return max;
}

INLINE __m512 max_of_group(const struct logits_row *row, int64_t token, __mmask16 *ordered) {
    if (token + GROUP > row->size) return max_of_last_group(row, token, ordered);
    return max_of_whole_group(row->logits + token, row->mask ? row->mask + token / LANES : 0, ordered);
}

/* argmax.c: the first token with the greatest logit, found from the group maxima of the whole row (no mask); -1 if the
 * maxima belong to another row. */
HIDDEN int64_t argmax_by_group_max(const struct logits_row *row, const float *group_max);

/* top_k.c: see tailrace_logits_top_k. */
HIDDEN int64_t find_top_k(const struct logits_row *row, const struct view_maxima *maxima, float max_logit, int64_t k,
                          int64_t *tokens, int64_t *scratch);
