/* Attention of mask runs in AMX tiles of bf16, for runs of several rows. Queries, keys, values and probabilities are
 * rounded to bf16, and sums are in single precision.
 *
 * Scores are keys x queries, [cell][row], and accumulators are values x probabilities, [head_dim][row]. So keys are
 * read as they lie, and rows are the lanes of a vector, which needs no sums across lanes for maxima and sums.
 * Probabilities become the next product's operand in the place of their scores. Only values have to be transposed.
 *
 * Cells are packed into tiles once for all rows of a run, as many as the second-level cache holds. Then 32 rows at a
 * time go through them, 32 cells (a step) at a time, so that a step's scores stay in the first-level cache. */
#pragma once
#include "attention/pack_cells_amx.h"

#if HAS_AMX
/* Up to this sum of a step's probabilities, row_max needn't be the maximum. A larger sum raises it. */
#define MAX_STEP_SUM 0x1p12f

/* ---- Probabilities ----------------------------------------------------------------------------------------------- */

/* 2^x: the fraction of the exponent by a polynomial whose error is 3e-6. */
INLINE __m512 exp2_approx(__m512 x) {
    const __m512 shift = _mm512_set1_ps(0x1.8p23f);
    const __m512 whole = _mm512_sub_ps(_mm512_add_ps(x, shift), shift), f = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(0.0095701017f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0559178603f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240247448f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693121815f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999999261f));
    return _mm512_scalef_ps(p, whole);
}

/* A step's scores that become probabilities, and their sums. */
struct softmax_step {
    float *scores[2]; /* of up to two blocks; a pair of cells becomes an operand where its first cell's scores were */
    const uint8_t
        *n_hidden; /* of each cell, how many of the run's first tokens don't see it; 0 where all tokens see all cells */
    int heads, row, n_done; /* row: the run's row that the first block begins with; n_done: pairs of cells */
    __m512 sum[2];
};

/* The rows of a block, from `row` on, that see a cell which the run's first `n_hidden` tokens don't see. */
INLINE __mmask16 rows_that_see(int n_hidden, int heads, int row) {
    const int blind = n_hidden * heads - row;
    return (__mmask16)(blind <= 0 ? 0xffff : blind >= BLOCK_ROWS ? 0 : 0xffff << blind);
}

/* Single-precision numbers rounded to the 8 bits of bf16. */
INLINE __m512i round_to_bf16(__m512 x) {
    const __m512i raised = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    return _mm512_and_si512(raised, _mm512_set1_epi32((int)0xffff0000));
}

/* The probabilities of the next pair of cells. */
INLINE void softmax_pair(int blocks, struct softmax_step *w) {
    if (w->n_done == STEP_CELLS / 2) return;
    for (int n = 0; n < blocks; n++) {
        float *scores = w->scores[n] + 2 * BLOCK_ROWS * w->n_done;
        __m512 a = exp2_approx(_mm512_load_ps(scores)), b = exp2_approx(_mm512_load_ps(scores + BLOCK_ROWS));
        if (w->n_hidden) {
            const uint8_t *n_hidden = w->n_hidden + 2 * w->n_done;
            a = _mm512_maskz_mov_ps(rows_that_see(n_hidden[0], w->heads, w->row + n * BLOCK_ROWS), a);
            b = _mm512_maskz_mov_ps(rows_that_see(n_hidden[1], w->heads, w->row + n * BLOCK_ROWS), b);
        }
        /* The sum is of rounded numbers, which are what is multiplied: a row with one large probability has no error
         * then. */
        const __m512i x = round_to_bf16(a), y = round_to_bf16(b);
        w->sum[n] = _mm512_add_ps(w->sum[n], _mm512_add_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y)));
        _mm512_store_si512(scores, _mm512_or_si512(_mm512_srli_epi32(x, 16), y));
    }
    w->n_done++;
}

/* Numbers of a head's key and of its value. */
struct head_dims {
    int k, v;
};

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* Tiles 0 and 1 are sums of two blocks, 2 and 3 their queries or probabilities, 4 is keys or values. A product takes 16
 * cycles and as long again until its result is there. A pair of cells is computed meanwhile. */
INLINE void softmax_some(int head_dim, int blocks, struct softmax_step *w, bool first) {
    if (w && (first || head_dim < 128)) softmax_pair(blocks, w);
}

/* Scores of a step, relative to row_max. */
INLINE void score_step(struct scratch *scratch, int k_dim, int blocks, int block, const uint16_t *cells,
                       float *const *scores, struct softmax_step *other) {
    const int steps = k_dim / 32;
    const uint16_t *q = scratch->query_tiles + block * steps * TILE_NUMBERS;
    for (int c = 0; c < STEP_CELLS / 16; c++) {
        TILE_LOAD(0, scratch->neg_max + block * BLOCK_ROWS, 0);
        if (blocks > 1) TILE_LOAD(1, scratch->neg_max + (block + 1) * BLOCK_ROWS, 0);
        for (int s = 0; s < steps; s++) {
            const uint16_t *key = cells + (c * steps + s) * TILE_NUMBERS;
            TILE_LOAD(4, key, 64);
            TILE_LOAD(2, q + s * TILE_NUMBERS, 64);
            _tile_dpbf16ps(0, 4, 2);
            softmax_some(k_dim, blocks, other, true);
            if (blocks > 1) {
                TILE_LOAD(3, q + (steps + s) * TILE_NUMBERS, 64);
                _tile_dpbf16ps(1, 4, 3);
            }
            softmax_some(k_dim, blocks, other, false);
        }
        TILE_STORE(0, scores[0] + c * 256, 64);
        if (blocks > 1) TILE_STORE(1, scores[1] + c * 256, 64);
    }
}

/* Accumulate the values of a step. */
INLINE void accumulate_step(struct scratch *scratch, struct head_dims dims, int blocks, int block,
                            const uint16_t *cells, float *const *probs, struct softmax_step *other) {
    const uint16_t *values = cells + STEP_CELLS * dims.k;
    float *acc = scratch->acc_t + block * dims.v * BLOCK_ROWS;
    TILE_LOAD(2, probs[0], 128);
    if (blocks > 1) TILE_LOAD(3, probs[1], 128);
    for (int c = 0; c < dims.v / 16; c++) {
        TILE_LOAD(0, acc + c * 256, 64);
        TILE_LOAD(4, values + c * TILE_NUMBERS, 64);
        _tile_dpbf16ps(0, 4, 2);
        TILE_STORE(0, acc + c * 256, 64);
        softmax_some(dims.v, blocks, other, true);
        if (blocks > 1) {
            TILE_LOAD(1, acc + dims.v * BLOCK_ROWS + c * 256, 64);
            _tile_dpbf16ps(1, 4, 3);
            TILE_STORE(1, acc + dims.v * BLOCK_ROWS + c * 256, 64);
        }
        softmax_some(dims.v, blocks, other, false);
    }
}

/* ---- Blocks of 16 rows ------------------------------------------------------------------------------------------- */

INLINE int blocks_of(struct mask_run run) { return (run.n_tokens * run.g->heads + BLOCK_ROWS - 1) / BLOCK_ROWS; }
INLINE int row_of(struct mask_run run, int kh) { return (kh * run.g->n_tokens + run.token) * run.g->heads; }

/* Raise a block's row_max to the maximum of its scores, and make its scores, the next step's scores and its sums
 * relative to it. */
OUT_OF_LINE void raise_max(struct scratch *scratch, int v_dim, int block, const uint8_t *n_hidden, int heads, int row,
                           float *scores, float *next_scores) {
    const __m512 minus_infinity = _mm512_set1_ps(-INFINITY);
    __m512 top = minus_infinity;
    for (int j = 0; j < STEP_CELLS; j++) {
        const __mmask16 seen = n_hidden ? rows_that_see(n_hidden[j], heads, row) : 0xffff;
        top = _mm512_mask_max_ps(top, seen, top, _mm512_load_ps(scores + BLOCK_ROWS * j));
    }
    const __mmask16 fresh = scratch->no_cell_yet[block], nothing = _mm512_cmp_ps_mask(top, minus_infinity, _CMP_EQ_OQ);
    const __m512 higher = _mm512_mask_max_ps(top, (__mmask16)~fresh, top, _mm512_setzero_ps());
    const __m512 rise = _mm512_maskz_mov_ps((__mmask16)~nothing, higher);
    scratch->no_cell_yet[block] = fresh & nothing;
    const __m512 times = _mm512_maskz_mov_ps((__mmask16)~fresh, exp2_approx(_mm512_sub_ps(_mm512_setzero_ps(), rise)));
    float *neg_max = scratch->neg_max + block * BLOCK_ROWS, *row_sum = scratch->row_sum_t + block * BLOCK_ROWS;
    float *acc = scratch->acc_t + block * v_dim * BLOCK_ROWS;
    _mm512_store_ps(neg_max, _mm512_sub_ps(_mm512_load_ps(neg_max), rise));
    _mm512_store_ps(row_sum, _mm512_mul_ps(_mm512_load_ps(row_sum), times));
    for (float *p = acc; p < acc + v_dim * BLOCK_ROWS; p += BLOCK_ROWS)
        _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), times));
    for (int j = 0; j < STEP_CELLS * BLOCK_ROWS; j += BLOCK_ROWS) {
        _mm512_store_ps(scores + j, _mm512_sub_ps(_mm512_load_ps(scores + j), rise));
        if (next_scores) _mm512_store_ps(next_scores + j, _mm512_sub_ps(_mm512_load_ps(next_scores + j), rise));
    }
}

/* Compute a step's probabilities again: they were too large, or a row had no row_max so far. */
OUT_OF_LINE void redo_softmax(struct scratch *scratch, struct head_dims dims, int blocks, int block,
                              const uint16_t *cells, struct softmax_step *w, float *const *next_scores) {
    score_step(scratch, dims.k, blocks, block, cells, w->scores, 0);
    w->n_done = 0;
    for (int n = 0; n < blocks; n++) {
        raise_max(scratch, dims.v, block + n, w->n_hidden, w->heads, w->row + n * BLOCK_ROWS, w->scores[n],
                  next_scores ? next_scores[n] : 0);
        w->sum[n] = _mm512_setzero_ps();
    }
    while (w->n_done < STEP_CELLS / 2) softmax_pair(blocks, w);
}

/* Add what steps have summed to the row sums of the scratch buffers. */
INLINE void add_row_sums(struct scratch *scratch, int blocks, int block, __m512 *sums) {
    for (int n = 0; n < blocks; n++) {
        float *row_sum = scratch->row_sum_t + (block + n) * BLOCK_ROWS;
        _mm512_store_ps(row_sum, _mm512_add_ps(_mm512_load_ps(row_sum), sums[n]));
        sums[n] = _mm512_setzero_ps();
    }
}

INLINE bool exceeds(__m512 step_sum) { return _mm512_cmp_ps_mask(step_sum, _mm512_set1_ps(MAX_STEP_SUM), _CMP_NLE_UQ); }

/* One or two blocks of rows by `n_tiles` packed tiles of cells. `block` is the scratch buffers' first one, and `row`
 * its first row in the run. */
INLINE void attend_blocks(struct scratch *scratch, struct head_dims dims, int blocks, int block, int heads, int row,
                          int n_tiles) {
    const uint16_t *cells[MAX_TILES * 2];
    const uint8_t *n_hidden[MAX_TILES * 2];
    int steps = 0;
    for (int i = 0; i < n_tiles * 2; i++) {
        if (scratch->min_hidden[i / 2][i % 2] * heads >= row + blocks * BLOCK_ROWS) continue;
        cells[steps] = scratch->cells + i * STEP_CELLS * (dims.k + dims.v);
        n_hidden[steps++] = scratch->all_visible[i / 2] ? 0 : scratch->n_hidden[i / 2] + i % 2 * STEP_CELLS;
    }
    if (!steps) return;
    float *scores[2][2] = {{scratch->scores[0][0], scratch->scores[0][1]},
                           {scratch->scores[1][0], scratch->scores[1][1]}};
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    score_step(scratch, dims.k, blocks, block, cells[0], scores[0], 0);
    for (int i = 0; i < steps; i++) {
        float *const *here = scores[i % 2], *const *other = scores[(i + 1) % 2];
        struct softmax_step w = {
            {here[0], here[1]}, n_hidden[i], heads, row, 0, {_mm512_setzero_ps(), _mm512_setzero_ps()}};
        if (i) accumulate_step(scratch, dims, blocks, block, cells[i - 1], other, &w);
        if (i + 1 < steps) score_step(scratch, dims.k, blocks, block, cells[i + 1], other, &w);
        while (w.n_done < STEP_CELLS / 2) softmax_pair(blocks, &w);
        bool redo = scratch->no_cell_yet[block] || exceeds(w.sum[0]);
        if (blocks > 1) redo |= scratch->no_cell_yet[block + 1] || exceeds(w.sum[1]);
        if (redo) {
            add_row_sums(scratch, blocks, block, sums);
            redo_softmax(scratch, dims, blocks, block, cells[i], &w, i + 1 < steps ? other : 0);
        }
        for (int n = 0; n < blocks; n++) sums[n] = _mm512_add_ps(sums[n], w.sum[n]);
    }
    accumulate_step(scratch, dims, blocks, block, cells[steps - 1], scores[(steps - 1) % 2], 0);
    add_row_sums(scratch, blocks, block, sums);
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* Which tokens see which cells of `n_tiles` tiles: `tile` and every n_parts-th after it. */
OUT_OF_LINE void find_hidden(struct scratch *scratch, struct mask_run run, int tile, int n_tiles, int n_parts) {
    for (int i = 0; i < n_tiles; i++, tile += n_parts) {
        scratch->all_visible[i] = !~scratch->run_visible[run.token][tile];
        __m512i hidden = _mm512_setzero_si512();
        if (!scratch->all_visible[i])
            for (int t = 0; t < run.n_tokens; t++) {
                const __mmask64 unseen = ~scratch->run_visible[run.token + t][tile];
                hidden = _mm512_mask_add_epi8(hidden, unseen, hidden, _mm512_set1_epi8(1));
            }
        _mm512_store_si512(scratch->n_hidden[i], hidden);
        for (int half = 0; half < 2; half++) {
            const uint8_t *n_hidden = scratch->n_hidden[i] + half * STEP_CELLS;
            uint8_t min = n_hidden[0];
            for (int j = 1; j < STEP_CELLS; j++)
                if (n_hidden[j] < min) min = n_hidden[j];
            scratch->min_hidden[i][half] = min;
        }
    }
}

/* Pack keys and values of `n_tiles` tiles of one key head into the scratch buffers. */
INLINE void pack_cells(struct scratch *scratch, struct head_dims dims, struct mask_run run, int kh, int tile,
                       int n_tiles, int n_parts) {
    const struct query_group *g = run.g;
    const size_t k_stride = g->k->nb[1], v_stride = g->v->nb[1];
    const uint8_t *k = cells_of(g->k, g), *v = cells_of(g->v, g);
    for (int i = 0; i < n_tiles; i++)
        for (int half = 0; half < TILE_CELLS; half += STEP_CELLS) {
            /* The next tile is prefetched, or the first one of the next head or chunk. */
            const bool last = i + 1 == n_tiles, end = kh + 1 == g->key_heads;
            const size_t next_head = (size_t)(!last ? kh : end ? 0 : kh + 1);
            int next_tile = !last ? tile + (i + 1) * n_parts : end ? tile + n_tiles * n_parts : tile;
            if (next_tile >= run.n_tiles) next_tile = tile;
            const uint32_t *list = run.list + (tile + i * n_parts) * TILE_CELLS + half;
            const uint32_t *next = run.list + next_tile * TILE_CELLS + half;
            uint16_t *to = scratch->cells + (2 * i + half / STEP_CELLS) * STEP_CELLS * (dims.k + dims.v);
            pack_keys(g->k_type, dims.k, to, k + (size_t)kh * g->k->nb[2], k_stride, list, k + next_head * g->k->nb[2],
                      next);
            pack_values(g->v_type, dims.v, to + STEP_CELLS * dims.k, v + (size_t)kh * g->v->nb[2], v_stride, list,
                        v + next_head * g->v->nb[2], next);
        }
}

/* A run by `n_tiles` tiles of its list: `tile` and every n_parts-th after it. */
INLINE void attend_chunk(struct scratch *scratch, struct head_dims dims, struct mask_run run, int tile, int n_tiles,
                         int n_parts) {
    const struct query_group *g = run.g;
    const int blocks = blocks_of(run);
    find_hidden(scratch, run, tile, n_tiles, n_parts);
    for (int kh = 0; kh < g->key_heads; kh++) {
        pack_cells(scratch, dims, run, kh, tile, n_tiles, n_parts);
        for (int b = 0; b < blocks; b += 2) {
            if (b + 1 < blocks) attend_blocks(scratch, dims, 2, kh * blocks + b, g->heads, b * BLOCK_ROWS, n_tiles);
            else attend_blocks(scratch, dims, 1, kh * blocks + b, g->heads, b * BLOCK_ROWS, n_tiles);
        }
    }
}

/* Store 32 numbers of a row in a tile, [pair][row][2]. */
INLINE void transpose_pairs(int row, __m512i pairs, uint16_t *tile) {
    const __m512i places = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
    _mm512_i32scatter_epi32(tile + 2 * row, places, pairs, 4);
}
INLINE __m512i row_offsets(int head_dim) {
    return _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                              _mm512_set1_epi32(head_dim));
}

/* Bring the run's rows from the query state into blocks. */
OUT_OF_LINE void gather_state(struct scratch *scratch, struct head_dims dims, struct mask_run run) {
    const int rows = run.n_tokens * run.g->heads, blocks = blocks_of(run);
    for (int kh = 0; kh < run.g->key_heads; kh++)
        for (int b = 0; b < blocks; b++) {
            const int to = kh * blocks + b, from = row_of(run, kh) + b * BLOCK_ROWS;
            const int n = rows - b * BLOCK_ROWS < BLOCK_ROWS ? rows - b * BLOCK_ROWS : BLOCK_ROWS;
            const __mmask16 lanes = (__mmask16)((1 << n) - 1);
            for (int s = 0; s < dims.k / 32; s++) {
                uint16_t *tile = scratch->query_tiles + (to * (dims.k / 32) + s) * TILE_NUMBERS;
                for (int r = 0; r < BLOCK_ROWS; r++) {
                    const float *query = scratch->query + (from + r) * dims.k + 32 * s;
                    const __m512i row =
                        r < n ? to_bf16(_mm512_load_ps(query), _mm512_load_ps(query + 16)) : _mm512_setzero_si512();
                    transpose_pairs(r, row, tile);
                }
            }
            const __m512 max = _mm512_mask_loadu_ps(_mm512_setzero_ps(), lanes, scratch->row_max + from);
            scratch->no_cell_yet[to] = _mm512_cmp_ps_mask(max, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
            _mm512_store_ps(scratch->neg_max + to * BLOCK_ROWS,
                            _mm512_maskz_sub_ps((__mmask16)~scratch->no_cell_yet[to], _mm512_setzero_ps(), max));
            _mm512_store_ps(scratch->row_sum_t + to * BLOCK_ROWS,
                            _mm512_maskz_loadu_ps(lanes, scratch->row_sum + from));
            for (int d = 0; d < dims.v; d++) {
                const __m512 x = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, row_offsets(dims.v),
                                                          scratch->acc + from * dims.v + d, 4);
                _mm512_store_ps(scratch->acc_t + (to * dims.v + d) * BLOCK_ROWS, x);
            }
        }
}

/* Bring the blocks back into the query state. */
OUT_OF_LINE void scatter_state(struct scratch *scratch, int v_dim, struct mask_run run) {
    const int rows = run.n_tokens * run.g->heads, blocks = blocks_of(run);
    for (int kh = 0; kh < run.g->key_heads; kh++)
        for (int b = 0; b < blocks; b++) {
            const int from = kh * blocks + b, to = row_of(run, kh) + b * BLOCK_ROWS;
            const int n = rows - b * BLOCK_ROWS < BLOCK_ROWS ? rows - b * BLOCK_ROWS : BLOCK_ROWS;
            const __mmask16 lanes = (__mmask16)((1 << n) - 1);
            const __m512 base =
                _mm512_sub_ps(_mm512_setzero_ps(), _mm512_load_ps(scratch->neg_max + from * BLOCK_ROWS));
            _mm512_mask_storeu_ps(scratch->row_max + to, lanes,
                                  _mm512_mask_mov_ps(base, scratch->no_cell_yet[from], _mm512_set1_ps(-INFINITY)));
            _mm512_mask_storeu_ps(scratch->row_sum + to, lanes, _mm512_load_ps(scratch->row_sum_t + from * BLOCK_ROWS));
            for (int d = 0; d < v_dim; d++) {
                const __m512 x = _mm512_load_ps(scratch->acc_t + (from * v_dim + d) * BLOCK_ROWS);
                _mm512_mask_i32scatter_ps(scratch->acc + to * v_dim + d, lanes, row_offsets(v_dim), x, 4);
            }
        }
}

/* The tiles of a run that belong to `part`. */
INLINE void attend_run_amx_of(struct scratch *scratch, struct head_dims dims, struct mask_run run, int part,
                              int n_parts) {
    int tile = first_tile_of(run, part, n_parts);
    if (tile >= run.n_tiles) return;
    /* With few rows, reading the cells takes longest. It is fastest with all heads of a tile before the next tile. */
    const bool few_rows = run.n_tokens * run.g->heads <= 2 * BLOCK_ROWS && run.g->key_heads > 1;
    const int max_tiles = few_rows ? 1 : OPERAND_NUMBERS / ((dims.k + dims.v) * TILE_CELLS);
    const struct tile_config before = tiles_begin();
    gather_state(scratch, dims, run);
    while (tile < run.n_tiles) {
        const int left = (run.n_tiles - tile + n_parts - 1) / n_parts, n_tiles = left < max_tiles ? left : max_tiles;
        attend_chunk(scratch, dims, run, tile, n_tiles, n_parts);
        tile += n_tiles * n_parts;
    }
    scatter_state(scratch, dims.v, run);
    tiles_end(before);
}

/* Dimensions of a head's keys and values for which there is code. Others use float vectors. The last two are those of
 * latent attention (DeepSeek): 512 numbers and 64 with positions, of which the first are values, and not absorbed. */
#define AMX_DIMS(X) X(64, 64) X(96, 96) X(128, 128) X(256, 256) X(576, 512) X(192, 128)

#define ATTEND_RUN_AMX(K, V)                                                                                           \
    OUT_OF_LINE void attend_run_amx_##K##_##V(struct scratch *scratch, struct mask_run run, int part, int n_parts) {   \
        attend_run_amx_of(scratch, (struct head_dims){K, V}, run, part, n_parts);                                      \
    }
AMX_DIMS(ATTEND_RUN_AMX)
#undef ATTEND_RUN_AMX

INLINE bool has_amx_code(int k_dim, int v_dim) {
#define IS_CODED(K, V)                                                                                                 \
    if (k_dim == (K) && v_dim == (V)) return true;
    AMX_DIMS(IS_CODED)
#undef IS_CODED
    return false;
}

INLINE void attend_run_amx(struct scratch *scratch, struct mask_run run, int part, int n_parts) {
#define ATTEND(K, V)                                                                                                   \
    if (run.g->k_dim == (K) && run.g->v_dim == (V)) attend_run_amx_##K##_##V(scratch, run, part, n_parts);
    AMX_DIMS(ATTEND)
#undef ATTEND
}
#endif
