/* Attention of one group of queries: tiles of cells, one after the other. attention.c says what for,
 * and who does which. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "abi.h"

#define TILE 64
#define MOST_ROWS 32
#define WIDEST 256
#define HIDDEN 0xfc00 /* minus infinity in 16 bits */

static _Thread_local float query[MOST_ROWS * WIDEST] __attribute__((aligned(64)));
static _Thread_local float sums[MOST_ROWS * WIDEST] __attribute__((aligned(64)));
static _Thread_local float weights[MOST_ROWS * TILE] __attribute__((aligned(64)));
static _Thread_local float highest[MOST_ROWS], total[MOST_ROWS];

INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

/* e to the x for x <= 0: the whole part of the exponent to base 2 by scaling, the rest by its Taylor polynomial, whose
 * error is 1e-7. */
INLINE __m512 exponential(__m512 x) {
    const __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(y, 0);
    const __m512 f = _mm512_sub_ps(y, whole);
    __m512 p = _mm512_set1_ps(1.54035304e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226507f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147181f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    /* Hidden cells are minus infinity here, where the above isn't a number. */
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-80.0f), _CMP_GT_OQ), p, whole);
}

/* The sums of four vectors' lanes. */
INLINE __m128 four_sums(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m256 f = _mm256_add_ps(_mm512_castps512_ps256(b), _mm512_extractf32x8_ps(b, 1));
    const __m256 g = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(d), _mm512_extractf32x8_ps(d, 1));
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* weights[row][cell] = query . key; `at_once` cells' keys are kept in registers for all rows. */
INLINE void score(int width, int at_once, int rows, const uint8_t *keys, size_t stride, int cells) {
    for (int j = 0; j < cells; j += at_once) {
        __m512 k[16];
        for (int i = 0; i < at_once; i++) {
            const uint8_t *key = keys + (j + i) * stride;
            for (int d = 0; d < width / 16; d++) k[i * (width / 16) + d] = halves(key + 32 * d);
        }
        for (int r = 0; r < rows; r++) {
            __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int d = 0; d < width / 16; d++) {
                const __m512 q = _mm512_load_ps(query + r * width + 16 * d);
                for (int i = 0; i < at_once; i++) s[i] = _mm512_fmadd_ps(k[i * (width / 16) + d], q, s[i]);
            }
            float *out = weights + r * TILE + j;
            if (at_once == 4) _mm_store_ps(out, four_sums(s[0], s[1], s[2], s[3]));
            else for (int i = 0; i < at_once; i++) out[i] = _mm512_reduce_add_ps(s[i]);
        }
    }
}

/* sums[row] += weights[row] . values, for as many rows as have room in registers. */
INLINE void gather(int width, int at_once, int from, const uint8_t *values, size_t stride, int cells) {
    __m512 a[16];
    for (int r = 0; r < at_once; r++)
        for (int d = 0; d < width / 16; d++) a[r * (width / 16) + d] = _mm512_load_ps(sums + (from + r) * width + 16 * d);
    for (int j = 0; j < cells; j++) {
        const uint8_t *value = values + j * stride;
        for (int d = 0; d < width / 16; d++) {
            const __m512 v = halves(value + 32 * d);
            for (int r = 0; r < at_once; r++)
                a[r * (width / 16) + d] = _mm512_fmadd_ps(v, _mm512_set1_ps(weights[(from + r) * TILE + j]), a[r * (width / 16) + d]);
        }
    }
    for (int r = 0; r < at_once; r++)
        for (int d = 0; d < width / 16; d++) _mm512_store_ps(sums + (from + r) * width + 16 * d, a[r * (width / 16) + d]);
}

/* Scores to weights: add the mask, raise the row's maximum, bring what is summed to it. False when nothing is seen. */
INLINE bool weigh(int width, int row, const uint16_t *mask, int cells) {
    float *own = weights + row * TILE;
    __m512 s[TILE / 16], top = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < cells / 16; i++) {
        s[i] = _mm512_load_ps(own + 16 * i);
        if (mask) s[i] = _mm512_add_ps(s[i], _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(mask + 16 * i))));
        top = _mm512_max_ps(top, s[i]);
    }
    const float before = highest[row], now = fmaxf(before, _mm512_reduce_max_ps(top));
    if (now == -INFINITY) {
        memset(own, 0, (size_t)cells * sizeof(float));
        return false;
    }
    __m512 all = _mm512_setzero_ps();
    for (int i = 0; i < cells / 16; i++) {
        const __m512 e = exponential(_mm512_sub_ps(s[i], _mm512_set1_ps(now)));
        all = _mm512_add_ps(all, e);
        _mm512_store_ps(own + 16 * i, e);
    }
    if (now > before) {
        const float by = before == -INFINITY ? 0.0f : expf(before - now);
        total[row] *= by;
        for (int d = 0; d < width; d += 16)
            _mm512_store_ps(sums + row * width + d, _mm512_mul_ps(_mm512_load_ps(sums + row * width + d), _mm512_set1_ps(by)));
        highest[row] = now;
    }
    total[row] += _mm512_reduce_add_ps(all);
    return true;
}

INLINE bool hidden(const uint16_t *mask, int cells) {
    for (int i = 0; i < cells; i += 16) {
        const __m256i m = _mm256_loadu_si256((const __m256i *)(mask + i));
        if (_mm256_cmpeq_epi16_mask(m, _mm256_set1_epi16((short)HIDDEN)) != 0xffff) return false;
    }
    return true;
}

/* One group of queries: `tokens` tokens from `token` on, in `heads` heads from `head` on, of one stream. Rows are token
 * by token. */
struct group {
    const struct tensor *q, *k, *v, *mask;
    float scale;
    int64_t stream, token, head, key_head;
    int tokens, heads;
};

INLINE const uint16_t *mask_of(const struct group *g, int64_t token) {
    const struct tensor *m = g->mask;
    if (!m) return 0;
    const char *p = (const char *)m->data + token * m->strides[1] + g->head % m->sizes[2] * m->strides[2];
    return (const uint16_t *)(p + g->stream % m->sizes[3] * m->strides[3]);
}

/* Tiles first, first + step, ... of the cells. What comes out stands in sums, highest and total. */
INLINE void attend(int width, const struct group *g, int first, int step) {
    const int rows = g->tokens * g->heads, fit = 256 / width;
    for (int t = 0; t < g->tokens; t++)
        for (int h = 0; h < g->heads; h++) {
            const char *p = (const char *)g->q->data + (g->token + t) * g->q->strides[1] + (g->head + h) * g->q->strides[2] + g->stream * g->q->strides[3];
            float *own = query + (t * g->heads + h) * width;
            for (int d = 0; d < width; d += 16)
                _mm512_store_ps(own + d, _mm512_mul_ps(_mm512_loadu_ps(p + 4 * d), _mm512_set1_ps(g->scale)));
        }
    memset(sums, 0, (size_t)(rows * width) * sizeof(float));
    for (int r = 0; r < rows; r++) {
        highest[r] = -INFINITY;
        total[r] = 0;
    }
    const int64_t cells = g->k->sizes[1];
    const int64_t shared = g->q->sizes[3] / g->k->sizes[3];
    const uint8_t *keys = (const uint8_t *)g->k->data + g->key_head * g->k->strides[2] + g->stream / shared * g->k->strides[3];
    const uint8_t *values = (const uint8_t *)g->v->data + g->key_head * g->v->strides[2] + g->stream / shared * g->v->strides[3];
    for (int64_t at = (int64_t)first * TILE; at < cells; at += (int64_t)step * TILE) {
        const int here = cells - at < TILE ? (int)(cells - at) : TILE;
        bool seen = !g->mask;
        for (int t = 0; t < g->tokens && !seen; t++) seen = !hidden(mask_of(g, g->token + t) + at, here);
        if (!seen) continue;
        /* Rows of one head lie apart from each other, and the hardware doesn't see it coming. */
        for (int j = 0; j < here; j++)
            for (int line = 0; line < width * 2; line += 64) _mm_prefetch((const char *)(values + (at + j) * g->v->strides[1] + line), _MM_HINT_T0);
        score(width, fit < 4 ? fit : 4, rows, keys + at * g->k->strides[1], g->k->strides[1], here);
        if (at + (int64_t)step * TILE < cells)
            for (int j = 0; j < TILE; j++)
                for (int line = 0; line < width * 2; line += 64) _mm_prefetch((const char *)(keys + (at + (int64_t)step * TILE + j) * g->k->strides[1] + line), _MM_HINT_T0);
        for (int t = 0; t < g->tokens; t++) {
            const uint16_t *mask = mask_of(g, g->token + t);
            for (int h = 0; h < g->heads; h++) weigh(width, t * g->heads + h, mask ? mask + at : 0, here);
        }
        int r = 0;
        const uint8_t *v = values + at * g->v->strides[1];
        for (; r + 4 <= rows && fit >= 4; r += 4) gather(width, 4, r, v, g->v->strides[1], here);
        for (; r + 3 <= rows && fit >= 3; r += 3) gather(width, 3, r, v, g->v->strides[1], here);
        for (; r + 2 <= rows && fit >= 2; r += 2) gather(width, 2, r, v, g->v->strides[1], here);
        for (; r < rows; r++) gather(width, 1, r, v, g->v->strides[1], here);
    }
}
