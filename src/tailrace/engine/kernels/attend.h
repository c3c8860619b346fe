/* Attention of one group of queries: tiles of cells, one after the other. attention.c says what for,
 * and who does which. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "abi.h"

#define TILE 64
#define MOST_ROWS 32
#define BLOCK 64       /* of the width: a block of four keys, or of four rows' sums, has room in registers */
#define STATE 32768    /* floats of queries, and of their sums, that a thread has on the way */
#define HIDDEN 0xfc00 /* minus infinity in 16 bits */

static _Thread_local float query[STATE] __attribute__((aligned(64)));
static _Thread_local float sums[STATE] __attribute__((aligned(64)));
static _Thread_local float highest[STATE / BLOCK], total[STATE / BLOCK];
static _Thread_local float shares[MOST_ROWS * 64] __attribute__((aligned(64)));
static _Thread_local float weights[MOST_ROWS * TILE] __attribute__((aligned(64)));

INLINE void ask_for(const uint8_t *p, int bytes) {
    for (int line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}
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

/* Four vectors to one that has, in each quarter, a share of each one's sum. */
INLINE __m512 four_shares(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 e = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 f = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d g = _mm512_castps_pd(e), h = _mm512_castps_pd(f);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(g, h)), _mm512_castpd_ps(_mm512_unpackhi_pd(g, h)));
}

/* Four of those to the sixteen sums. */
INLINE __m512 sixteen_sums(const float *p) {
    const __m512 a = _mm512_load_ps(p), b = _mm512_load_ps(p + 16), c = _mm512_load_ps(p + 32), d = _mm512_load_ps(p + 48);
    const __m512 e = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    const __m512 f = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(e, f, 0x88), _mm512_shuffle_f32x4(e, f, 0xdd));
}

/* A block of the width: how many vectors. */
INLINE int vectors(int width, int block) { return width - block < BLOCK ? (width - block) / 16 : BLOCK / 16; }

/* weights[row][cell] = query . key. Four cells' keys are in registers for all rows. What lies `next` bytes further on is
 * asked for meanwhile: a head's keys lie apart from each other, and the hardware doesn't see it coming. */
INLINE void score(int width, int rows, const float *q, const uint8_t *keys, size_t stride, int cells, size_t next) {
    for (int j = 0; j < cells; j += 16) {
        for (int i = 0; i < 16; i += 4)
            for (int block = 0; block < width; block += BLOCK) {
                __m512 k[16];
                for (int n = 0; n < 4; n++) {
                    const uint8_t *key = keys + (size_t)(j + i + n) * stride + 2 * block;
                    for (int d = 0; d < vectors(width, block); d++) k[4 * n + d] = halves(key + 32 * d);
                    ask_for(key + next, 32 * vectors(width, block));
                }
                for (int r = 0; r < rows; r++) {
                    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
                    for (int d = 0; d < vectors(width, block); d++) {
                        const __m512 own = _mm512_load_ps(q + r * width + block + 16 * d);
                        for (int n = 0; n < 4; n++) s[n] = _mm512_fmadd_ps(k[4 * n + d], own, s[n]);
                    }
                    __m512 four = four_shares(s[0], s[1], s[2], s[3]);
                    float *out = shares + r * 64 + 4 * i;
                    if (block) four = _mm512_add_ps(four, _mm512_load_ps(out));
                    _mm512_store_ps(out, four);
                }
            }
        for (int r = 0; r < rows; r++) _mm512_store_ps(weights + r * TILE + j, sixteen_sums(shares + r * 64));
    }
}

/* into[row] += by[row] . values for up to four rows. `next` as above, 0 for nothing. */
INLINE void gather(int width, int rows, const float *by, float *into, const uint8_t *values, size_t stride, int cells, size_t next) {
    for (int block = 0; block < width; block += BLOCK) {
        const int parts = vectors(width, block);
        __m512 a[16];
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < parts; d++) a[4 * r + d] = _mm512_load_ps(into + r * width + block + 16 * d);
        for (int j = 0; j < cells; j++) {
            const uint8_t *value = values + (size_t)j * stride + 2 * block;
            if (next) ask_for(value + next, 32 * parts);
            for (int d = 0; d < parts; d++) {
                const __m512 v = halves(value + 32 * d);
                for (int r = 0; r < rows; r++) a[4 * r + d] = _mm512_fmadd_ps(v, _mm512_set1_ps(by[r * TILE + j]), a[4 * r + d]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < parts; d++) _mm512_store_ps(into + r * width + block + 16 * d, a[4 * r + d]);
    }
}

/* Scores of a row to weights: add the mask, raise the row's maximum, bring what is summed to it. */
INLINE void weigh(int width, float *own, int row, const uint16_t *mask, int cells) {
    __m512 s[TILE / 16], top = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < cells / 16; i++) {
        s[i] = _mm512_load_ps(own + 16 * i);
        if (mask) s[i] = _mm512_add_ps(s[i], _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(mask + 16 * i))));
        top = _mm512_max_ps(top, s[i]);
    }
    const float before = highest[row], now = fmaxf(before, _mm512_reduce_max_ps(top));
    if (now == -INFINITY) {
        memset(own, 0, (size_t)cells * sizeof(float));
        return;
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
        for (float *p = sums + row * width; p < sums + (row + 1) * width; p += 16)
            _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), _mm512_set1_ps(by)));
        highest[row] = now;
    }
    total[row] += _mm512_reduce_add_ps(all);
}

INLINE bool hidden(const uint16_t *mask, int cells) {
    for (int i = 0; i < cells; i += 16) {
        const __m256i m = _mm256_loadu_si256((const __m256i *)(mask + i));
        if (_mm256_cmpeq_epi16_mask(m, _mm256_set1_epi16((short)HIDDEN)) != 0xffff) return false;
    }
    return true;
}

/* One group of queries of one stream: `tokens` tokens from `token` on, in `heads` heads of each of `key_heads` key heads,
 * of which `head` and `key_head` are the first. Rows of what comes out go key head by key head, in those token by token,
 * in those head by head. */
struct group {
    const struct tensor *q, *k, *v, *mask;
    float scale;
    int64_t stream, token, head, key_head;
    int tokens, heads, key_heads;
};

INLINE const uint16_t *mask_of(const struct group *g, int64_t token) {
    const struct tensor *m = g->mask;
    if (!m) return 0;
    return (const uint16_t *)((const char *)m->data + token * m->strides[1] + g->stream % m->sizes[3] * m->strides[3]);
}

INLINE void begin(int width, const struct group *g) {
    float *own = query;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->tokens; t++)
            for (int h = 0; h < g->heads; h++, own += width) {
                const size_t *s = g->q->strides;
                const char *p = (const char *)g->q->data + (g->token + t) * s[1] + (g->head + kh * g->heads + h) * s[2] + g->stream * s[3];
                for (int d = 0; d < width; d += 16) _mm512_store_ps(own + d, _mm512_mul_ps(_mm512_loadu_ps(p + 4 * d), _mm512_set1_ps(g->scale)));
            }
    const int rows = g->key_heads * g->tokens * g->heads;
    memset(sums, 0, (size_t)(rows * width) * sizeof(float));
    memset(total, 0, (size_t)rows * sizeof(float));
    for (int r = 0; r < rows; r++) highest[r] = -INFINITY;
}

/* Tiles first, first + step, ... of the cells. What comes out stands in sums, highest and total. All heads of a tile lie side
 * by side in memory, so they are done before the next tile: head by head, cells were read at 20 GB/s, and so at 30 to 40. */
INLINE void attend(int width, const struct group *g, int first, int step) {
    const int rows = g->tokens * g->heads;
    const int64_t cells = g->k->sizes[1], shared = g->q->sizes[3] / g->k->sizes[3];
    const size_t key = g->k->strides[1], value = g->v->strides[1], stride = (size_t)step * TILE;
    begin(width, g);
    for (int64_t at = (int64_t)first * TILE; at < cells; at += (int64_t)step * TILE) {
        const int here = cells - at < TILE ? (int)(cells - at) : TILE;
        bool seen = !g->mask;
        for (int t = 0; t < g->tokens && !seen; t++) seen = !hidden(mask_of(g, g->token + t) + at, here);
        if (!seen) continue;
        for (int kh = 0; kh < g->key_heads; kh++) {
            const uint8_t *k = (const uint8_t *)g->k->data + at * key + (g->key_head + kh) * g->k->strides[2] + g->stream / shared * g->k->strides[3];
            const uint8_t *v = (const uint8_t *)g->v->data + at * value + (g->key_head + kh) * g->v->strides[2] + g->stream / shared * g->v->strides[3];
            /* Then comes the next head of this tile, or the first one of the next. */
            const bool last = kh + 1 == g->key_heads;
            const size_t k_next = last ? stride * key - (size_t)kh * g->k->strides[2] : g->k->strides[2];
            const size_t v_next = last ? stride * value - (size_t)kh * g->v->strides[2] : g->v->strides[2];
            score(width, rows, query + kh * rows * width, k, key, here, k_next);
            for (int t = 0; t < g->tokens; t++) {
                const uint16_t *mask = mask_of(g, g->token + t);
                for (int r = t * g->heads; r < (t + 1) * g->heads; r++) weigh(width, weights + r * TILE, kh * rows + r, mask ? mask + at : 0, here);
            }
            for (int r = 0; r < rows; r += 4) {
                const float *by = weights + r * TILE;
                float *into = sums + (kh * rows + r) * width;
                const size_t next = r ? 0 : v_next;
                switch (rows - r) {
                    case 1: gather(width, 1, by, into, v, value, here, next); break;
                    case 2: gather(width, 2, by, into, v, value, here, next); break;
                    case 3: gather(width, 3, by, into, v, value, here, next); break;
                    default: gather(width, 4, by, into, v, value, here, next); break;
                }
            }
        }
    }
}
