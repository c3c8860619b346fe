/* Attention with tiles of bf16 (AMX), for runs of several rows: what comes from 16 bits is rounded to 8, as queries
 * and weights are, and sums are in single precision.
 *
 * Scores come out as keys x queries, [cell][row], and sums as values x weights, [of the width][row]: keys are read as
 * they lie, rows are a vector's lanes, so that maxima and totals need no sums across lanes, and weights become the next
 * product's operand where the scores stood. Only values have to be transposed.
 *
 * Cells are made operands once for all rows of a run, a chunk of them that the second cache has room for. Then 32 rows at
 * a time go through it, 32 cells a step, so that what they have on the way stays in the first cache. */
#pragma once
#include <math.h>

#include "amx.h"
#include "rows.h"
#include "runs.h"

#if HAS_AMX_ATTENTION
#define OPERAND 512    /* numbers of a tile */
#define SLACK 0x1p12f  /* the weights' sum of a step up to which the highest score needn't be known better */

#define APART static __attribute__((noinline, noclone)) /* what would crowd the registers where it is called */

/* ---- Cells to operands --------------------------------------------------------------------------------------------- */

/* 32 numbers as bf16. */
INLINE __m512i nearest(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
INLINE __m512i nearest_of(__m512i h) {
    return nearest(_mm512_cvtph_ps(_mm512_castsi512_si256(h)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1)));
}

/* Keys of a step: an operand is 16 cells by 32 of the width. */
APART void take_keys(int width, uint16_t *to, const uint8_t *keys, size_t stride, const uint32_t *at, const uint8_t *ahead, const uint32_t *next) {
    for (int j = 0; j < STEP; j += 4) {
        for (int i = 0; i < 4; i++) ask_for(ahead + next[j + i] * stride, 2 * width);
        for (int s = 0; s < width / 32; s++)
            for (int i = 0; i < 4; i++) {
                const uint8_t *from = keys + at[j + i] * stride + 64 * s;
                _mm512_store_si512(to + (j / 16 * (width / 32) + s) * OPERAND + (j % 16 + i) * 32, nearest(halves(from), halves(from + 32)));
            }
    }
}

/* Eight numbers of each of four cells. */
INLINE __m512i eights(const uint8_t *values, size_t stride, const uint32_t *at) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(values + at[0] * stride)));
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + at[8] * stride)), 1);
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + at[16] * stride)), 2);
    return _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + at[24] * stride)), 3);
}

/* Values of a step, transposed: an operand is 16 of the width by 32 cells. */
APART void take_values(int width, uint16_t *to, const uint8_t *values, size_t stride, const uint32_t *at, const uint8_t *ahead, const uint32_t *next) {
    for (int d = 0; d < width; d += 8) {
        for (int j = d * STEP / width; j < (d + 8) * STEP / width; j++) ask_for(ahead + next[j] * stride, 2 * width);
        __m512i a[8], b[8];
        for (int i = 0; i < 8; i++) a[i] = eights(values + 2 * d, stride, at + i);
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm512_unpacklo_epi16(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 1]);
        }
        for (int i = 0; i < 8; i += 4)
            for (int n = 0; n < 2; n++) {
                a[i + 2 * n] = _mm512_unpacklo_epi32(b[i + n], b[i + n + 2]);
                a[i + 2 * n + 1] = _mm512_unpackhi_epi32(b[i + n], b[i + n + 2]);
            }
        for (int i = 0; i < 4; i++) {
            _mm512_store_si512(to + d * 32 + 64 * i, nearest_of(_mm512_unpacklo_epi64(a[i], a[i + 4])));
            _mm512_store_si512(to + d * 32 + 64 * i + 32, nearest_of(_mm512_unpackhi_epi64(a[i], a[i + 4])));
        }
    }
}

/* ---- Weights ------------------------------------------------------------------------------------------------------- */

/* 2 to the x: the rest of the exponent by a polynomial whose error is 3e-6. */
INLINE __m512 weight(__m512 x) {
    const __m512 shift = _mm512_set1_ps(0x1.8p23f);
    const __m512 whole = _mm512_sub_ps(_mm512_add_ps(x, shift), shift), f = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(0.0095701017f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0559178603f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240247448f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693121815f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999999261f));
    return _mm512_scalef_ps(p, whole);
}

/* Scores of a step on their way to weights, and the weights' sums. */
struct weighing {
    float *scores[2];      /* of up to two blocks; they become operands, a pair of cells where its first one's scores were */
    const uint8_t *hidden; /* of each cell, how many of the run's tokens don't see it; 0 where all are seen by all */
    int heads, row, done;  /* the run's row that the first block begins with; pairs of cells that are weighed */
    __m512 sum[2];
};

/* The rows of a block from `row` on that see a cell which the run's first `hidden` tokens don't. */
INLINE __mmask16 seeing(int hidden, int heads, int row) {
    const int rows = hidden * heads - row;
    return (__mmask16)(rows <= 0 ? 0xffff : rows >= LANES ? 0 : 0xffff << rows);
}

/* Rounded to the 8 bits of bf16, where they stand in single precision. */
INLINE __m512i eight_bits(__m512 x) {
    const __m512i more = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    return _mm512_and_si512(more, _mm512_set1_epi32((int)0xffff0000));
}

/* The next pair of cells. */
INLINE void weigh_pair(int blocks, struct weighing *w) {
    if (w->done == STEP / 2) return;
    for (int n = 0; n < blocks; n++) {
        float *own = w->scores[n] + 2 * LANES * w->done;
        __m512 a = weight(_mm512_load_ps(own)), b = weight(_mm512_load_ps(own + LANES));
        if (w->hidden) {
            const uint8_t *here = w->hidden + 2 * w->done;
            a = _mm512_maskz_mov_ps(seeing(here[0], w->heads, w->row + n * LANES), a);
            b = _mm512_maskz_mov_ps(seeing(here[1], w->heads, w->row + n * LANES), b);
        }
        /* What is summed is what is multiplied: a weight that stands nearly alone makes no error so. */
        const __m512i x = eight_bits(a), y = eight_bits(b);
        w->sum[n] = _mm512_add_ps(w->sum[n], _mm512_add_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y)));
        _mm512_store_si512(own, _mm512_or_si512(_mm512_srli_epi32(x, 16), y));
    }
    w->done++;
}

/* ---- Products ------------------------------------------------------------------------------------------------------ */

/* Tiles 0 and 1 are sums of two blocks, 2 and 3 their queries or weights, 4 is keys or values. A product takes 16 turns of
 * the core and as long again to come to its end, in which a pair of cells is weighed. */
INLINE void weigh_some(int width, int blocks, struct weighing *w, bool first) {
    if (w && (first || width < 128)) weigh_pair(blocks, w);
}

/* Scores of a step, relative to what weights are relative to. */
INLINE void score(struct desk *own, int width, int blocks, int block, const uint16_t *cells, float *const *into, struct weighing *w) {
    const int steps = width / 32;
    const uint16_t *q = own->operands + block * steps * OPERAND;
    for (int c = 0; c < STEP / 16; c++) {
        TILE_LOAD(0, own->base + block * LANES, 0);
        if (blocks > 1) TILE_LOAD(1, own->base + (block + 1) * LANES, 0);
        for (int s = 0; s < steps; s++) {
            const uint16_t *key = cells + (c * steps + s) * OPERAND;
            TILE_LOAD(4, key, 64);
            TILE_LOAD(2, q + s * OPERAND, 64);
            _tile_dpbf16ps(0, 4, 2);
            weigh_some(width, blocks, w, true);
            if (blocks > 1) {
                TILE_LOAD(3, q + (steps + s) * OPERAND, 64);
                _tile_dpbf16ps(1, 4, 3);
            }
            weigh_some(width, blocks, w, false);
        }
        TILE_STORE(0, into[0] + c * 256, 64);
        if (blocks > 1) TILE_STORE(1, into[1] + c * 256, 64);
    }
}

/* Sums of a step. */
INLINE void add(struct desk *own, int width, int blocks, int block, const uint16_t *cells, float *const *weights, struct weighing *w) {
    const uint16_t *values = cells + STEP * width;
    float *sum = own->gathered + block * width * LANES;
    TILE_LOAD(2, weights[0], 128);
    if (blocks > 1) TILE_LOAD(3, weights[1], 128);
    for (int c = 0; c < width / 16; c++) {
        TILE_LOAD(0, sum + c * 256, 64);
        TILE_LOAD(4, values + c * OPERAND, 64);
        _tile_dpbf16ps(0, 4, 2);
        TILE_STORE(0, sum + c * 256, 64);
        weigh_some(width, blocks, w, true);
        if (blocks > 1) {
            TILE_LOAD(1, sum + width * LANES + c * 256, 64);
            _tile_dpbf16ps(1, 4, 3);
            TILE_STORE(1, sum + width * LANES + c * 256, 64);
        }
        weigh_some(width, blocks, w, false);
    }
}

/* ---- A run --------------------------------------------------------------------------------------------------------- */

INLINE int blocks_of(struct run run) { return (run.tokens * run.g->heads + LANES - 1) / LANES; }
INLINE int row_of(struct run run, int kh) { return (kh * run.g->tokens + run.token) * run.g->heads; }

/* Raise what the weights of a block are relative to, to the highest of its scores, and bring its scores, those of the step
 * after and its sums to it. */
APART void raise(struct desk *own, int width, int block, const uint8_t *hidden, int heads, int row, float *scores, float *after) {
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int j = 0; j < STEP; j++) {
        const __mmask16 here = hidden ? seeing(hidden[j], heads, row) : 0xffff;
        top = _mm512_mask_max_ps(top, here, top, _mm512_load_ps(scores + LANES * j));
    }
    const __mmask16 fresh = own->fresh[block], nothing = _mm512_cmp_ps_mask(top, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    const __m512 rise = _mm512_maskz_mov_ps((__mmask16)~nothing, _mm512_mask_max_ps(top, (__mmask16)~fresh, top, _mm512_setzero_ps()));
    own->fresh[block] = fresh & nothing;
    const __m512 times = _mm512_maskz_mov_ps((__mmask16)~fresh, weight(_mm512_sub_ps(_mm512_setzero_ps(), rise)));
    float *base = own->base + block * LANES, *total_of = own->weighed + block * LANES, *sum = own->gathered + block * width * LANES;
    _mm512_store_ps(base, _mm512_sub_ps(_mm512_load_ps(base), rise));
    _mm512_store_ps(total_of, _mm512_mul_ps(_mm512_load_ps(total_of), times));
    for (float *p = sum; p < sum + width * LANES; p += LANES) _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), times));
    for (int j = 0; j < STEP * LANES; j += LANES) {
        _mm512_store_ps(scores + j, _mm512_sub_ps(_mm512_load_ps(scores + j), rise));
        if (after) _mm512_store_ps(after + j, _mm512_sub_ps(_mm512_load_ps(after + j), rise));
    }
}

/* A step's weights once more: they were larger than they may be, or there was nothing that they could be relative to. */
APART void weigh_anew(struct desk *own, int width, int blocks, int block, const uint16_t *cells, struct weighing *w, float *const *after) {
    score(own, width, blocks, block, cells, w->scores, 0);
    w->done = 0;
    for (int n = 0; n < blocks; n++) {
        raise(own, width, block + n, w->hidden, w->heads, w->row + n * LANES, w->scores[n], after ? after[n] : 0);
        w->sum[n] = _mm512_setzero_ps();
    }
    while (w->done < STEP / 2) weigh_pair(blocks, w);
}

/* One or two blocks through a chunk of `count` tiles: the run's from `block` of the desk on, whose first row is `row`. */
INLINE void attend_blocks(struct desk *own, int width, int blocks, int block, int heads, int row, int count) {
    const uint16_t *cells[MOST_TILES * 2];
    const uint8_t *hidden[MOST_TILES * 2];
    int steps = 0;
    for (int i = 0; i < count * 2; i++) {
        if (own->least[i / 2][i % 2] * heads >= row + blocks * LANES) continue;
        cells[steps] = own->cells + i * 2 * STEP * width;
        hidden[steps++] = own->whole[i / 2] ? 0 : own->hidden[i / 2] + i % 2 * STEP;
    }
    if (!steps) return;
    float *scores[2][2] = {{own->scores[0][0], own->scores[0][1]}, {own->scores[1][0], own->scores[1][1]}};
    __m512 total_of[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    score(own, width, blocks, block, cells[0], scores[0], 0);
    for (int i = 0; i < steps; i++) {
        float *const *here = scores[i % 2], *const *other = scores[(i + 1) % 2];
        struct weighing w = {{here[0], here[1]}, hidden[i], heads, row, 0, {_mm512_setzero_ps(), _mm512_setzero_ps()}};
        if (i) add(own, width, blocks, block, cells[i - 1], other, &w);
        if (i + 1 < steps) score(own, width, blocks, block, cells[i + 1], other, &w);
        while (w.done < STEP / 2) weigh_pair(blocks, &w);
        int odd = own->fresh[block] | _mm512_cmp_ps_mask(w.sum[0], _mm512_set1_ps(SLACK), _CMP_NLE_UQ);
        if (blocks > 1) odd |= own->fresh[block + 1] | _mm512_cmp_ps_mask(w.sum[1], _mm512_set1_ps(SLACK), _CMP_NLE_UQ);
        if (odd) {
            for (int n = 0; n < blocks; n++) {
                float *so_far = own->weighed + (block + n) * LANES;
                _mm512_store_ps(so_far, _mm512_add_ps(_mm512_load_ps(so_far), total_of[n]));
                total_of[n] = _mm512_setzero_ps();
            }
            weigh_anew(own, width, blocks, block, cells[i], &w, i + 1 < steps ? other : 0);
        }
        for (int n = 0; n < blocks; n++) total_of[n] = _mm512_add_ps(total_of[n], w.sum[n]);
    }
    add(own, width, blocks, block, cells[steps - 1], scores[(steps - 1) % 2], 0);
    for (int n = 0; n < blocks; n++) {
        float *so_far = own->weighed + (block + n) * LANES;
        _mm512_store_ps(so_far, _mm512_add_ps(_mm512_load_ps(so_far), total_of[n]));
    }
}

/* Which tokens see which cells of the `count` tiles whose numbers are `tile` and every `step`-th after it. */
APART void look_up(struct desk *own, struct run run, int tile, int count, int step) {
    for (int i = 0; i < count; i++, tile += step) {
        own->whole[i] = !~own->marks[run.token][tile];
        __m512i hidden = _mm512_setzero_si512();
        if (!own->whole[i])
            for (int t = 0; t < run.tokens; t++) hidden = _mm512_mask_add_epi8(hidden, ~own->marks[run.token + t][tile], hidden, _mm512_set1_epi8(1));
        _mm512_store_si512(own->hidden[i], hidden);
        for (int half = 0; half < 2; half++) {
            own->least[i][half] = own->hidden[i][half * STEP];
            for (int j = 1; j < STEP; j++)
                if (own->hidden[i][half * STEP + j] < own->least[i][half]) own->least[i][half] = own->hidden[i][half * STEP + j];
        }
    }
}

/* A chunk of the list for a run: `count` tiles, `tile` and every `step`-th after it. */
INLINE void attend_chunk(struct desk *own, int width, struct run run, int tile, int count, int step) {
    const struct group *g = run.g;
    const size_t key = g->k->strides[1], value = g->v->strides[1];
    const uint8_t *k = cells_from(g->k, g), *v = cells_from(g->v, g);
    look_up(own, run, tile, count, step);
    for (int kh = 0; kh < g->key_heads; kh++) {
        for (int i = 0; i < count; i++)
            for (int half = 0; half < TILE; half += STEP) {
                /* Then comes the next tile, or the first one of the next head, or of the next chunk. */
                const bool last = i + 1 == count, end = kh + 1 == g->key_heads;
                const size_t head = (size_t)(!last ? kh : end ? 0 : kh + 1);
                int then = !last ? tile + (i + 1) * step : end ? tile + count * step : tile;
                if (then >= run.tiles) then = tile;
                const uint32_t *at = run.list + (tile + i * step) * TILE + half, *next = run.list + then * TILE + half;
                uint16_t *to = own->cells + (2 * i + half / STEP) * 2 * STEP * width;
                take_keys(width, to, k + (size_t)kh * g->k->strides[2], key, at, k + head * g->k->strides[2], next);
                take_values(width, to + STEP * width, v + (size_t)kh * g->v->strides[2], value, at, v + head * g->v->strides[2], next);
            }
        const int blocks = blocks_of(run);
        for (int b = 0; b < blocks; b += 2) {
            if (b + 1 < blocks) attend_blocks(own, width, 2, kh * blocks + b, g->heads, b * LANES, count);
            else attend_blocks(own, width, 1, kh * blocks + b, g->heads, b * LANES, count);
        }
    }
}

/* 16 rows of 32 numbers to an operand, [pair][row][2]. */
INLINE void transpose_pairs(int row, __m512i pairs, uint16_t *operand) {
    const __m512i places = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
    _mm512_i32scatter_epi32(operand + 2 * row, places, pairs, 4);
}
INLINE __m512i rows_apart(int width) {
    return _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(width));
}

/* The run's rows to blocks. */
APART void begin_run(struct desk *own, int width, struct run run) {
    const int rows = run.tokens * run.g->heads, blocks = blocks_of(run);
    for (int kh = 0; kh < run.g->key_heads; kh++)
        for (int b = 0; b < blocks; b++) {
            const int to = kh * blocks + b, from = row_of(run, kh) + b * LANES;
            const int here = rows - b * LANES < LANES ? rows - b * LANES : LANES;
            const __mmask16 lanes = (__mmask16)((1 << here) - 1);
            for (int s = 0; s < width / 32; s++) {
                uint16_t *operand = own->operands + (to * (width / 32) + s) * OPERAND;
                for (int r = 0; r < LANES; r++) {
                    const float *query = own->query + (from + r) * width + 32 * s;
                    const __m512i row = r < here ? nearest(_mm512_load_ps(query), _mm512_load_ps(query + 16)) : _mm512_setzero_si512();
                    transpose_pairs(r, row, operand);
                }
            }
            const __m512 high = _mm512_mask_loadu_ps(_mm512_setzero_ps(), lanes, own->highest + from);
            own->fresh[to] = _mm512_cmp_ps_mask(high, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
            _mm512_store_ps(own->base + to * LANES, _mm512_maskz_sub_ps((__mmask16)~own->fresh[to], _mm512_setzero_ps(), high));
            _mm512_store_ps(own->weighed + to * LANES, _mm512_maskz_loadu_ps(lanes, own->total + from));
            for (int d = 0; d < width; d++) {
                const __m512 x = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, rows_apart(width), own->sums + from * width + d, 4);
                _mm512_store_ps(own->gathered + (to * width + d) * LANES, x);
            }
        }
}

/* And back. */
APART void end_run(struct desk *own, int width, struct run run) {
    const int rows = run.tokens * run.g->heads, blocks = blocks_of(run);
    for (int kh = 0; kh < run.g->key_heads; kh++)
        for (int b = 0; b < blocks; b++) {
            const int from = kh * blocks + b, to = row_of(run, kh) + b * LANES;
            const int here = rows - b * LANES < LANES ? rows - b * LANES : LANES;
            const __mmask16 lanes = (__mmask16)((1 << here) - 1);
            const __m512 base = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_load_ps(own->base + from * LANES));
            _mm512_mask_storeu_ps(own->highest + to, lanes, _mm512_mask_mov_ps(base, own->fresh[from], _mm512_set1_ps(-INFINITY)));
            _mm512_mask_storeu_ps(own->total + to, lanes, _mm512_load_ps(own->weighed + from * LANES));
            for (int d = 0; d < width; d++) {
                const __m512 x = _mm512_load_ps(own->gathered + (from * width + d) * LANES);
                _mm512_mask_i32scatter_ps(own->sums + to * width + d, lanes, rows_apart(width), x, 4);
            }
        }
}

/* What the thread `first` of `step` has of a run. */
INLINE void attend_run(struct desk *own, int width, struct run run, int first, int step) {
    int tile = tile_of_thread(run, first, step);
    if (tile >= run.tiles) return;
    /* A few rows take as long as their cells do to come, and these come fastest with all heads of some before the next. */
    const int most = run.tokens * run.g->heads <= 2 * LANES && run.g->key_heads > 1 ? 1 : CHUNK / (2 * width * TILE);
    const struct tile_configuration before = tiles_begin();
    begin_run(own, width, run);
    while (tile < run.tiles) {
        const int left = (run.tiles - tile + step - 1) / step, count = left < most ? left : most;
        attend_chunk(own, width, run, tile, count, step);
        tile += count * step;
    }
    end_run(own, width, run);
    tiles_end(before);
}
#endif
