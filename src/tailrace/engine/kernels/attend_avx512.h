/* Attention in AVX-512: a tile of cells for a few queries, in single precision, a dot product at a time. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "rows.h"
#include "runs.h"

#define BLOCK 64 /* of the width: a block of four keys, or of four rows' sums, has room in registers */

/* 2 to the x for x <= 0: the exponent's whole part by scaling, the rest by its Taylor polynomial, whose error is 1e-7. NaN
 * stays NaN. */
INLINE __m512 exponential(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, 0);
    const __m512 f = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(1.54035304e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226507f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147181f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    /* Hidden cells are minus infinity here, where the above isn't a number. */
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-115.0f), _CMP_NLE_UQ), p, whole);
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

/* Cells that come soon: their keys or values are asked for, all heads of one and then the next. Heads' keys lie apart from
 * each other, and the hardware doesn't see it coming. */
struct ahead {
    const uint8_t *base;
    size_t stride, between; /* bytes from a cell to the next, and from a head */
    const uint32_t *next, *end;
    int head, heads, bytes;
};

INLINE struct ahead ahead_of(const struct tensor *t, const struct group *g, int width) {
    return (struct ahead){
        .base = cells_from(t, g), .stride = t->strides[1], .between = t->strides[2], .heads = g->key_heads, .bytes = 2 * width};
}

INLINE void ask_next(struct ahead *a) {
    if (a->next == a->end) return;
    ask_for(a->base + *a->next * a->stride + (size_t)a->head * a->between, a->bytes);
    if (++a->head < a->heads) return;
    a->head = 0;
    a->next++;
}

/* weights[row][cell] = query . key for the listed cells. Four cells' keys are in registers for all rows. */
INLINE void few_scores(struct desk *own, int width, int rows, const float *q, const uint8_t *keys, size_t stride,
                       const uint32_t *at, int cells, struct ahead *ahead) {
    for (int j = 0; j < cells; j += 16) {
        for (int i = 0; i < 16; i += 4) {
            for (int n = 0; n < 4; n++) ask_next(ahead);
            for (int block = 0; block < width; block += BLOCK) {
                __m512 k[16];
                for (int n = 0; n < 4; n++) {
                    const uint8_t *key = keys + at[j + i + n] * stride + 2 * block;
                    for (int d = 0; d < vectors(width, block); d++) k[4 * n + d] = halves(key + 32 * d);
                }
                for (int r = 0; r < rows; r++) {
                    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
                    for (int d = 0; d < vectors(width, block); d++) {
                        const __m512 part = _mm512_load_ps(q + r * width + block + 16 * d);
                        for (int n = 0; n < 4; n++) s[n] = _mm512_fmadd_ps(k[4 * n + d], part, s[n]);
                    }
                    __m512 four = four_shares(s[0], s[1], s[2], s[3]);
                    float *out = own->shares + r * 64 + 4 * i;
                    if (block) four = _mm512_add_ps(four, _mm512_load_ps(out));
                    _mm512_store_ps(out, four);
                }
            }
        }
        for (int r = 0; r < rows; r++) _mm512_store_ps(own->weights + r * TILE + j, sixteen_sums(own->shares + r * 64));
    }
}

/* into[row] += by[row] . values for up to four rows. */
INLINE void gather(int width, int rows, const float *by, float *into, const uint8_t *values, size_t stride, const uint32_t *at,
                   int cells, struct ahead *ahead) {
    for (int block = 0; block < width; block += BLOCK) {
        const int parts = vectors(width, block);
        __m512 a[16];
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < parts; d++) a[4 * r + d] = _mm512_load_ps(into + r * width + block + 16 * d);
        for (int j = 0; j < cells; j++) {
            const uint8_t *value = values + at[j] * stride + 2 * block;
            if (ahead && !block) ask_next(ahead);
            for (int d = 0; d < parts; d++) {
                const __m512 v = halves(value + 32 * d);
                for (int r = 0; r < rows; r++) a[4 * r + d] = _mm512_fmadd_ps(v, _mm512_set1_ps(by[r * TILE + j]), a[4 * r + d]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < parts; d++) _mm512_store_ps(into + r * width + block + 16 * d, a[4 * r + d]);
    }
}

/* Scores of a row to weights: hide what isn't marked, raise the row's maximum, bring what is summed to it. A score that is NaN
 * or plus infinity makes the total NaN, and so the whole result: damaged keys must not look like cells without weight. */
INLINE void weigh(struct desk *own, int width, float *scores, int row, uint64_t marked, int cells) {
    __m512 s[TILE / 16], top = _mm512_set1_ps(-INFINITY);
    __mmask16 broken = 0;
    for (int i = 0; i < cells / 16; i++) {
        s[i] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)(marked >> (16 * i)), _mm512_load_ps(scores + 16 * i));
        top = _mm512_max_ps(s[i], top); /* of a NaN and a number, max gives the second */
        broken |= _mm512_cmp_ps_mask(s[i], s[i], _CMP_UNORD_Q);
    }
    const float before = own->highest[row], now = fmaxf(before, _mm512_reduce_max_ps(top));
    if (now == -INFINITY) {
        if (broken) own->highest[row] = 0, own->total[row] = NAN; /* not as a row that sees nothing */
        memset(scores, 0, (size_t)cells * sizeof(float));
        return;
    }
    __m512 all = _mm512_setzero_ps();
    for (int i = 0; i < cells / 16; i++) {
        const __m512 e = exponential(_mm512_sub_ps(s[i], _mm512_set1_ps(now)));
        all = _mm512_add_ps(all, e);
        _mm512_store_ps(scores + 16 * i, e);
    }
    if (now > before) {
        const float by = before == -INFINITY ? 0.0f : exp2f(before - now);
        own->total[row] *= by;
        for (float *p = own->sums + row * width; p < own->sums + (row + 1) * width; p += 16)
            _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), _mm512_set1_ps(by)));
        own->highest[row] = now;
    }
    own->total[row] += _mm512_reduce_add_ps(all);
}

/* A tile of a run. All heads of it lie side by side in memory, so they are done before the next tile: head by head, cells
 * were read at 20 GB/s, and so at 30 to 40. */
INLINE void attend_tile(struct desk *own, int width, struct run run, int tile, struct ahead *keys, struct ahead *values) {
    const struct group *g = run.g;
    const int all = g->tokens * g->heads, rows = run.tokens * g->heads, first = run.token * g->heads;
    const int cells = run.cells - tile * TILE < TILE ? (run.cells - tile * TILE + 15) / 16 * 16 : TILE;
    const uint32_t *at = run.list + tile * TILE;
    for (int kh = 0; kh < g->key_heads; kh++) {
        few_scores(own, width, rows, own->query + (kh * all + first) * width, keys->base + (size_t)kh * keys->between, keys->stride, at, cells, keys);
        for (int r = 0; r < rows; r++) weigh(own, width, own->weights + r * TILE, kh * all + first + r, own->marks[run.token + r / g->heads][tile], cells);
        for (int r = 0; r < rows; r += 4) {
            const float *by = own->weights + r * TILE;
            float *into = own->sums + (kh * all + first + r) * width;
            const uint8_t *here = values->base + (size_t)kh * values->between;
            struct ahead *ahead = r ? 0 : values;
            switch (rows - r) {
                case 1: gather(width, 1, by, into, here, values->stride, at, cells, ahead); break;
                case 2: gather(width, 2, by, into, here, values->stride, at, cells, ahead); break;
                case 3: gather(width, 3, by, into, here, values->stride, at, cells, ahead); break;
                default: gather(width, 4, by, into, here, values->stride, at, cells, ahead); break;
            }
        }
    }
}

/* Sets what comes next: a tile of each run, cell by cell, as they lie in memory where the runs' sequences run together.
 * Whether there is any. */
INLINE bool look_ahead(struct desk *own, const struct run *runs, int count, int round, int first, int step, struct ahead *keys,
                       struct ahead *values) {
    uint32_t *end = own->together;
    for (int j = 0; j < TILE; j++)
        for (int r = 0; r < count; r++) {
            const int tile = tile_of_thread(runs[r], first, step) + round;
            if (tile < runs[r].tiles) *end++ = runs[r].list[tile * TILE + j];
        }
    keys->next = values->next = own->together;
    keys->end = values->end = end;
    return end > own->together;
}

/* Runs of a window side by side: a tile of each, then the next of each, which is asked for meanwhile. One run after the
 * other, the cells of eight sequences that lie between each other's were read at 15 GB/s, and so at 20. */
INLINE void attend_runs(struct desk *own, int width, const struct run *runs, int count, int first, int step) {
    if (!count) return;
    struct ahead keys = ahead_of(runs->g->k, runs->g, width), values = ahead_of(runs->g->v, runs->g, width);
    look_ahead(own, runs, count, 0, first, step, &keys, &values);
    while (keys.next < keys.end) ask_next(&keys), ask_next(&values);
    bool more = true;
    for (int round = 0; more; round += step) {
        more = look_ahead(own, runs, count, round + step, first, step, &keys, &values);
        for (int r = 0; r < count; r++) {
            const int tile = tile_of_thread(runs[r], first, step) + round;
            if (tile < runs[r].tiles) attend_tile(own, width, runs[r], tile, &keys, &values);
        }
    }
}
