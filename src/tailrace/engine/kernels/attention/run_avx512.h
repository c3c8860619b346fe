/* Attention of mask runs in AVX-512: a tile of cells for a few query rows, in single precision. */
#pragma once
#include "attention/mask_runs.h"

#define DIM_BLOCK 64 /* of head_dim: the registers hold a block of four keys, or of four rows' accumulators */

/* 2^x for x <= 0, and 0 below -115: the whole part of the exponent by scaling, the rest by its Taylor polynomial, whose
 * error is 1e-7. NaN stays NaN. */
INLINE __m512 exp2_or_zero(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, 0);
    const __m512 f = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(1.54035304e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226507f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147181f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    /* Scores of hidden cells are minus infinity, for which the polynomial is NaN. */
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-115.0f), _CMP_NLE_UQ), p, whole);
}

/* A vector that has, in each quarter, partial sums of the four vectors. */
INLINE __m512 partial_sums_x4(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 e = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 f = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d g = _mm512_castps_pd(e), h = _mm512_castps_pd(f);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(g, h)), _mm512_castpd_ps(_mm512_unpackhi_pd(g, h)));
}

/* The sixteen sums of four such vectors. */
INLINE __m512 finish_sums_x16(const float *p) {
    const __m512 a = _mm512_load_ps(p), b = _mm512_load_ps(p + 16);
    const __m512 c = _mm512_load_ps(p + 32), d = _mm512_load_ps(p + 48);
    const __m512 e = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    const __m512 f = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(e, f, 0x88), _mm512_shuffle_f32x4(e, f, 0xdd));
}

/* Vectors of a block of head_dim. */
INLINE int n_vectors(int head_dim, int block) {
    return head_dim - block < DIM_BLOCK ? (head_dim - block) / 16 : DIM_BLOCK / 16;
}

/* Prefetches keys or values of the cells that follow: all heads of one cell, then of the next. Heads lie apart from
 * each other, and the hardware doesn't follow such strides. */
struct prefetcher {
    const uint8_t *base;
    size_t cell_stride, head_stride; /* bytes */
    const uint32_t *next, *end;
    int head, heads;
    enum cache_type type;
};

INLINE struct prefetcher prefetcher_of(const struct ggml_tensor *t, enum cache_type type, const struct query_group *g) {
    return (struct prefetcher){
        .base = cells_of(t, g), .cell_stride = t->nb[1], .head_stride = t->nb[2], .heads = g->key_heads, .type = type};
}

/* `bytes` are those of a cell in one head. */
INLINE void prefetch_next(struct prefetcher *p, int bytes) {
    if (p->next == p->end) return;
    prefetch_l2(p->base + *p->next * p->cell_stride + (size_t)p->head * p->head_stride, bytes);
    if (++p->head < p->heads) return;
    p->head = 0;
    p->next++;
}

/* probs[row][cell] = query . key for the listed cells. Four cells' keys are in registers for all rows. */
INLINE void compute_scores(struct scratch *scratch, int head_dim, enum cache_type type, int n_rows, const float *q,
                           const uint8_t *keys, const uint32_t *list, int n_cells, struct prefetcher *prefetcher) {
    const size_t stride = prefetcher->cell_stride;
    for (int j = 0; j < n_cells; j += 16) {
        for (int i = 0; i < 16; i += 4) {
            for (int n = 0; n < 4; n++) prefetch_next(prefetcher, cache_bytes(type, head_dim));
            for (int block = 0; block < head_dim; block += DIM_BLOCK) {
                __m512 k[16];
                for (int n = 0; n < 4; n++) {
                    const uint8_t *key = keys + list[j + i + n] * stride + cache_bytes(type, block);
                    for (int d = 0; d < n_vectors(head_dim, block); d += 2)
                        load_block(type, key + cache_bytes(type, 16 * d), k + 4 * n + d);
                }
                for (int r = 0; r < n_rows; r++) {
                    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
                    for (int d = 0; d < n_vectors(head_dim, block); d++) {
                        const __m512 part = _mm512_load_ps(q + r * head_dim + block + 16 * d);
                        for (int n = 0; n < 4; n++) s[n] = _mm512_fmadd_ps(k[4 * n + d], part, s[n]);
                    }
                    __m512 four = partial_sums_x4(s[0], s[1], s[2], s[3]);
                    float *out = scratch->partial_dots + r * 64 + 4 * i;
                    if (block) four = _mm512_add_ps(four, _mm512_load_ps(out));
                    _mm512_store_ps(out, four);
                }
            }
        }
        for (int r = 0; r < n_rows; r++)
            _mm512_store_ps(scratch->probs + r * TILE_CELLS + j, finish_sums_x16(scratch->partial_dots + r * 64));
    }
}

/* acc[row] += probs[row] . values, for up to four rows. */
INLINE void accumulate_values(int head_dim, enum cache_type type, int n_rows, const float *probs, float *acc,
                              const uint8_t *values, size_t stride, const uint32_t *list, int n_cells,
                              struct prefetcher *prefetcher) {
    for (int block = 0; block < head_dim; block += DIM_BLOCK) {
        const int parts = n_vectors(head_dim, block);
        __m512 a[16];
        for (int r = 0; r < n_rows; r++)
            for (int d = 0; d < parts; d++) a[4 * r + d] = _mm512_load_ps(acc + r * head_dim + block + 16 * d);
        for (int j = 0; j < n_cells; j++) {
            const uint8_t *value = values + list[j] * stride + cache_bytes(type, block);
            if (prefetcher && !block) prefetch_next(prefetcher, cache_bytes(type, head_dim));
            for (int d = 0; d < parts; d += 2) {
                __m512 v[2];
                load_block(type, value + cache_bytes(type, 16 * d), v);
                for (int i = 0; i < 2; i++)
                    for (int r = 0; r < n_rows; r++) {
                        const __m512 prob = _mm512_set1_ps(probs[r * TILE_CELLS + j]);
                        a[4 * r + d + i] = _mm512_fmadd_ps(v[i], prob, a[4 * r + d + i]);
                    }
            }
        }
        for (int r = 0; r < n_rows; r++)
            for (int d = 0; d < parts; d++) _mm512_store_ps(acc + r * head_dim + block + 16 * d, a[4 * r + d]);
    }
}

/* The online softmax of a row over a tile: scores become probabilities relative to the new row_max, and what has been
 * accumulated is rescaled to it. A score that is NaN or plus infinity makes the row's sum NaN, and so its result:
 * damaged keys must not look like cells without weight. */
INLINE void softmax_row(struct scratch *scratch, int head_dim, float *scores, int row, uint64_t visible, int n_cells) {
    __m512 s[TILE_CELLS / 16], top = _mm512_set1_ps(-INFINITY);
    __mmask16 unordered = 0;
    for (int i = 0; i < n_cells / 16; i++) {
        s[i] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)(visible >> (16 * i)),
                                  _mm512_load_ps(scores + 16 * i));
        top = _mm512_max_ps(s[i], top); /* of NaN and a number, this is the second operand */
        unordered |= _mm512_cmp_ps_mask(s[i], s[i], _CMP_UNORD_Q);
    }
    const float before = scratch->row_max[row], now = fmaxf(before, _mm512_reduce_max_ps(top));
    if (now == -INFINITY) {
        if (unordered) scratch->row_max[row] = 0, scratch->row_sum[row] = NAN; /* unlike a row that sees no cells */
        memset(scores, 0, (size_t)n_cells * sizeof(float));
        return;
    }
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < n_cells / 16; i++) {
        const __m512 e = exp2_or_zero(_mm512_sub_ps(s[i], _mm512_set1_ps(now)));
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(scores + 16 * i, e);
    }
    if (now > before) {
        const float by = before == -INFINITY ? 0.0f : exp2f(before - now);
        scratch->row_sum[row] *= by;
        for (float *p = scratch->acc + row * head_dim; p < scratch->acc + (row + 1) * head_dim; p += 16)
            _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), _mm512_set1_ps(by)));
        scratch->row_max[row] = now;
    }
    scratch->row_sum[row] += _mm512_reduce_add_ps(sum);
}

/* Scores of a run's rows in one key head, from row `row` of the scratch buffers on. */
INLINE void score_rows(struct scratch *scratch, int head_dim, int n_rows, int row, int kh, const uint32_t *list,
                       int n_cells, struct prefetcher *keys) {
    const float *q = scratch->query + row * head_dim;
    const uint8_t *from = keys->base + (size_t)kh * keys->head_stride;
#define SCORE(TYPE)                                                                                                    \
    case TYPE: compute_scores(scratch, head_dim, TYPE, n_rows, q, from, list, n_cells, keys); break;
    switch (keys->type) {
        SCORE(CACHE_F16)
        SCORE(CACHE_BF16)
        SCORE(CACHE_Q8_0)
        SCORE(CACHE_Q4_0)
        case N_CACHE_TYPES: break;
    }
#undef SCORE
}

/* Values of one key head by the probabilities of a run's rows. */
INLINE void accumulate_rows(struct scratch *scratch, int head_dim, enum cache_type type, int n_rows, int row, int kh,
                            const uint32_t *list, int n_cells, struct prefetcher *values) {
    const uint8_t *from = values->base + (size_t)kh * values->head_stride;
    const size_t stride = values->cell_stride;
    for (int r = 0; r < n_rows; r += 4) {
        const float *probs = scratch->probs + r * TILE_CELLS;
        float *acc = scratch->acc + (row + r) * head_dim;
        struct prefetcher *prefetcher = r ? 0 : values;
        switch (n_rows - r) {
            case 1: accumulate_values(head_dim, type, 1, probs, acc, from, stride, list, n_cells, prefetcher); break;
            case 2: accumulate_values(head_dim, type, 2, probs, acc, from, stride, list, n_cells, prefetcher); break;
            case 3: accumulate_values(head_dim, type, 3, probs, acc, from, stride, list, n_cells, prefetcher); break;
            default: accumulate_values(head_dim, type, 4, probs, acc, from, stride, list, n_cells, prefetcher); break;
        }
    }
}

/* A tile of a run. All heads of a cell lie side by side in memory, so all of them are computed before the next tile:
 * cells are read at 30 to 40 GB/s, head by head at 20. */
INLINE void attend_tile(struct scratch *scratch, int head_dim, struct mask_run run, int tile, struct prefetcher *keys,
                        struct prefetcher *values) {
    const struct query_group *g = run.g;
    const int head_rows = g->n_tokens * g->heads, n_rows = run.n_tokens * g->heads, first = run.token * g->heads;
    const int left = run.n_cells - tile * TILE_CELLS, n_cells = left < TILE_CELLS ? (left + 15) / 16 * 16 : TILE_CELLS;
    const uint32_t *list = run.list + tile * TILE_CELLS;
    for (int kh = 0; kh < g->key_heads; kh++) {
        const int row = kh * head_rows + first;
        score_rows(scratch, head_dim, n_rows, row, kh, list, n_cells, keys);
        for (int r = 0; r < n_rows; r++)
            softmax_row(scratch, head_dim, scratch->probs + r * TILE_CELLS, row + r,
                        scratch->run_visible[run.token + r / g->heads][tile], n_cells);
#define ACCUMULATE(TYPE)                                                                                               \
    case TYPE: accumulate_rows(scratch, head_dim, TYPE, n_rows, row, kh, list, n_cells, values); break;
        switch (values->type) {
            ACCUMULATE(CACHE_F16)
            ACCUMULATE(CACHE_BF16)
            ACCUMULATE(CACHE_Q8_0)
            ACCUMULATE(CACHE_Q4_0)
            case N_CACHE_TYPES: break;
        }
#undef ACCUMULATE
    }
}

/* Set what is prefetched next: one tile of each run, cell by cell, in the order in which the cells of sequences that
 * run together lie in memory. Whether there is any. */
INLINE bool plan_prefetch(struct scratch *scratch, const struct mask_run *runs, int n_runs, int round, int part,
                          int n_parts, struct prefetcher *keys, struct prefetcher *values) {
    uint32_t *end = scratch->prefetch_list;
    for (int j = 0; j < TILE_CELLS; j++)
        for (int r = 0; r < n_runs; r++) {
            const int tile = first_tile_of(runs[r], part, n_parts) + round;
            if (tile < runs[r].n_tiles) *end++ = runs[r].list[tile * TILE_CELLS + j];
        }
    keys->next = values->next = scratch->prefetch_list;
    keys->end = values->end = end;
    return end > scratch->prefetch_list;
}

/* Runs of a window side by side: a tile of each, while the next tile of each is prefetched. The cells of eight
 * sequences that lie mixed are read at 20 GB/s, one run after the other at 15. */
INLINE void attend_runs_of(struct scratch *scratch, int head_dim, const struct mask_run *runs, int n_runs, int part,
                           int n_parts) {
    const struct query_group *g = runs->g;
    struct prefetcher keys = prefetcher_of(g->k, g->k_type, g), values = prefetcher_of(g->v, g->v_type, g);
    const int key_bytes = cache_bytes(g->k_type, head_dim), value_bytes = cache_bytes(g->v_type, head_dim);
    plan_prefetch(scratch, runs, n_runs, 0, part, n_parts, &keys, &values);
    while (keys.next < keys.end) prefetch_next(&keys, key_bytes), prefetch_next(&values, value_bytes);
    bool more = true;
    for (int round = 0; more; round += n_parts) {
        more = plan_prefetch(scratch, runs, n_runs, round + n_parts, part, n_parts, &keys, &values);
        for (int r = 0; r < n_runs; r++) {
            const int tile = first_tile_of(runs[r], part, n_parts) + round;
            if (tile < runs[r].n_tiles) attend_tile(scratch, head_dim, runs[r], tile, &keys, &values);
        }
    }
}

/* The same for each head dimension, compiled once and not wherever it is called. */
#define ATTEND_RUNS(HEAD_DIM)                                                                                          \
    OUT_OF_LINE void attend_runs_##HEAD_DIM(struct scratch *scratch, const struct mask_run *runs, int n_runs,          \
                                            int part, int n_parts) {                                                   \
        attend_runs_of(scratch, HEAD_DIM, runs, n_runs, part, n_parts);                                                \
    }
ATTEND_RUNS(64)
ATTEND_RUNS(96)
ATTEND_RUNS(128)
ATTEND_RUNS(256)

INLINE void attend_runs(struct scratch *scratch, int head_dim, const struct mask_run *runs, int n_runs, int part,
                        int n_parts) {
    if (!n_runs) return;
    switch (head_dim) {
        case 64: attend_runs_64(scratch, runs, n_runs, part, n_parts); break;
        case 96: attend_runs_96(scratch, runs, n_runs, part, n_parts); break;
        case 128: attend_runs_128(scratch, runs, n_runs, part, n_parts); break;
        case 256: attend_runs_256(scratch, runs, n_runs, part, n_parts); break;
    }
}
