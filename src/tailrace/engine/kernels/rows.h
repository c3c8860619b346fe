/* What a thread has of a group's rows on the way: their queries, and of each the sums of softmax so far.
 *
 * Scores are to base 2: queries are taken times log2 e together with the scale. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "runs.h"

INLINE void begin(struct desk *own, int width, const struct group *g) {
    const __m512 scale = _mm512_set1_ps(g->scale * 1.44269504f);
    float *to = own->query;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->tokens; t++)
            for (int h = 0; h < g->heads; h++, to += width) {
                const size_t *s = g->q->strides;
                const char *p = (const char *)g->q->data + (g->token + t) * s[1] + (g->head + kh * g->heads + h) * s[2] + g->stream * s[3];
                for (int d = 0; d < width; d += 16) _mm512_store_ps(to + d, _mm512_mul_ps(_mm512_loadu_ps(p + 4 * d), scale));
            }
    const int rows = g->key_heads * g->tokens * g->heads;
    memset(own->sums, 0, (size_t)(rows * width) * sizeof(float));
    memset(own->total, 0, (size_t)rows * sizeof(float));
    for (int r = 0; r < rows; r++) own->highest[r] = -INFINITY;
}

INLINE void ask_for(const uint8_t *p, int bytes) {
    for (int line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}

/* Sixteen numbers of a key or a value. */
INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
