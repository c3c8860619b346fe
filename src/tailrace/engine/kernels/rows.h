/* What a thread has of a group's rows on the way: their queries, and of each the sums of softmax so far.
 *
 * Scores are to base 2: queries are taken times log2 e together with the scale. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "runs.h"

#define STATE (MOST_ROWS * 256) /* floats of queries, and of their sums */
#define NARROW 64               /* the least width */

static _Thread_local float query[STATE] __attribute__((aligned(64)));
static _Thread_local float sums[STATE] __attribute__((aligned(64)));
/* What a row's weights, total and sums are relative to (2 to its power), and the weights' sum. */
static _Thread_local float highest[STATE / NARROW], total[STATE / NARROW];

INLINE void begin(int width, const struct group *g) {
    const __m512 scale = _mm512_set1_ps(g->scale * 1.44269504f);
    float *own = query;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->tokens; t++)
            for (int h = 0; h < g->heads; h++, own += width) {
                const size_t *s = g->q->strides;
                const char *p = (const char *)g->q->data + (g->token + t) * s[1] + (g->head + kh * g->heads + h) * s[2] + g->stream * s[3];
                for (int d = 0; d < width; d += 16) _mm512_store_ps(own + d, _mm512_mul_ps(_mm512_loadu_ps(p + 4 * d), scale));
            }
    const int rows = g->key_heads * g->tokens * g->heads;
    memset(sums, 0, (size_t)(rows * width) * sizeof(float));
    memset(total, 0, (size_t)rows * sizeof(float));
    for (int r = 0; r < rows; r++) highest[r] = -INFINITY;
}

INLINE void ask_for(const uint8_t *p, int bytes) {
    for (int line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}
