/* A row of logits, its mask, and what a scan remembers of it: see rows.c. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 16,
    GROUP = 16 * LANES,  /* tokens that one vector of `near` stands for */
    BLOCK = 16 * GROUP,  /* those of a vector of `far`, and of a sum */
};

struct row {
    const float *logits;
    const uint16_t *mask; /* one of these for each vector, or NULL */
    int64_t size;
};

INLINE struct row row_of(const float *logits, const uint32_t *mask, int64_t size) {
    return (struct row){logits, (const uint16_t *)mask, size};
}

/* Which of the 16 tokens from `token` on there are, and count. */
INLINE __mmask16 counted(const struct row *row, int64_t token) {
    const int64_t left = row->size - token;
    const __mmask16 there = left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    return row->mask && there ? there & row->mask[token / LANES] : there;
}

/* 16 logits, minus infinity where there is none that counts. */
INLINE __m512 load(const struct row *row, int64_t token) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), counted(row, token), row->logits + token);
}

INLINE int64_t groups_of(int64_t size) { return (size + GROUP - 1) / GROUP; }
INLINE int64_t blocks_of(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

/* What a scan remembers: `far` has 16 numbers for each 4096 tokens, and `near` behind it 16 for each 256. Both
 * are minus infinity where nothing counts. */
struct maxima {
    float *far, *near;
    int64_t blocks, groups;
};

INLINE struct maxima maxima_of(float *maxima, int64_t size) {
    return (struct maxima){maxima, maxima + blocks_of(size) * LANES, blocks_of(size), groups_of(size)};
}

/* tailrace_rows_top, for others here. */
__attribute__((visibility("hidden"))) int64_t likeliest(
    const struct row *row, const struct maxima *m, float best, int64_t count, int64_t *tokens, int64_t *other);
