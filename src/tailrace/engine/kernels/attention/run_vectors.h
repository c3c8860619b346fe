/* Attention of mask runs in float vectors: tiles of cells for the rows of a run, in single precision. */
#pragma once
#include "attention/score_blocks.h"
#include "attention/softmax.h"
#include "attention/word_products.h"

/* Cells whose keys in single precision fit into the first-level cache beside the queries of a row tile. */
#define CACHED_KEY_FLOATS 4096
/* Rows up to which each row tile converts a tile's cells for itself. */
#define MAX_DIRECT_ROWS (2 * ROW_TILE)

/* Cells of the scratch buffers, as expand_cells stores them. */
INLINE struct tile_cells expanded(const float *from, int row_floats, int n_cells, int dim) {
    return (struct tile_cells){
        .base = (const uint8_t *)from, .stride = 4 * (size_t)row_floats, .n = n_cells, .dim = dim};
}

/* Scores of up to ROW_TILE rows. */
OUT_OF_LINE void score_few_rows(enum cache_type type, int n_rows, const float *query, int query_row,
                                struct tile_cells keys, float *probs, struct prefetcher *prefetcher) {
#define SCORE_ROWS(TYPE, ROWS) score_row_tile(TYPE, ROWS, query, query_row, keys, probs, prefetcher)
#define SCORE_FEW(TYPE)                                                                                                \
    case TYPE:                                                                                                         \
        switch (n_rows) {                                                                                              \
            case 1: SCORE_ROWS(TYPE, 1); break;                                                                        \
            case 2: SCORE_ROWS(TYPE, 2); break;                                                                        \
            case 3: SCORE_ROWS(TYPE, 3); break;                                                                        \
            default: SCORE_ROWS(TYPE, ROW_TILE); break;                                                                \
        }                                                                                                              \
        break;
    switch (type) {
        SCORE_FEW(CACHE_F16)
        SCORE_FEW(CACHE_BF16)
        SCORE_FEW(TILE_F32)
        case CACHE_Q8_0:
        case CACHE_Q4_0: break;
    }
#undef SCORE_FEW
#undef SCORE_ROWS
}

/* Scores of any number of rows, where registers hold a block of keys. */
OUT_OF_LINE void score_all_rows(struct scratch *scratch, enum cache_type type, int n_rows, const float *query,
                                int query_row, struct tile_cells keys, struct prefetcher *prefetcher) {
#if MAX_BLOCK_DIM > 0
/* The dimensions that most models have are constants. */
#define SCORE_ALL_OF(TYPE, DIM)                                                                                        \
    score_by_blocks(TYPE, n_rows, query, DIM, (struct tile_cells){keys.base, keys.stride, keys.list, keys.n, DIM},     \
                    scratch->partial_dots, scratch->probs, prefetcher)
#define SCORE_ALL(TYPE)                                                                                                \
    case TYPE:                                                                                                         \
        if (keys.dim == 64) SCORE_ALL_OF(TYPE, 64);                                                                    \
        else if (keys.dim == 128) SCORE_ALL_OF(TYPE, 128);                                                             \
        else score_by_blocks(TYPE, n_rows, query, query_row, keys, scratch->partial_dots, scratch->probs, prefetcher); \
        break;
    switch (type) {
        SCORE_ALL(CACHE_F16)
        SCORE_ALL(CACHE_BF16)
        case CACHE_Q8_0:
        case CACHE_Q4_0:
        case TILE_F32: break;
    }
#undef SCORE_ALL
#undef SCORE_ALL_OF
#endif
}

/* Values by the probabilities of up to ROW_TILE rows. */
OUT_OF_LINE void accumulate_few_rows(enum cache_type type, int n_rows, const float *probs, float *acc, int acc_row,
                                     struct tile_cells values, struct prefetcher *prefetcher) {
#define ACCUMULATE_ROWS(TYPE, ROWS)                                                                                    \
    if (values.dim == 4 * VF_LANES) accumulate_part(TYPE, ROWS, 4, 0, probs, acc, acc_row, values, prefetcher);        \
    else accumulate_row_tile(TYPE, ROWS, probs, acc, acc_row, values, prefetcher)
#define ACCUMULATE_FEW(TYPE)                                                                                           \
    case TYPE:                                                                                                         \
        switch (n_rows) {                                                                                              \
            case 1: ACCUMULATE_ROWS(TYPE, 1); break;                                                                   \
            case 2: ACCUMULATE_ROWS(TYPE, 2); break;                                                                   \
            case 3: ACCUMULATE_ROWS(TYPE, 3); break;                                                                   \
            default: ACCUMULATE_ROWS(TYPE, ROW_TILE); break;                                                           \
        }                                                                                                              \
        break;
    switch (type) {
        ACCUMULATE_FEW(CACHE_F16)
        ACCUMULATE_FEW(CACHE_BF16)
        ACCUMULATE_FEW(TILE_F32)
        case CACHE_Q8_0:
        case CACHE_Q4_0: break;
    }
#undef ACCUMULATE_FEW
#undef ACCUMULATE_ROWS
}

/* A tile's keys or values in single precision. */
OUT_OF_LINE void expand_tile(enum cache_type type, struct tile_cells cells, float *to, int to_row) {
    switch (type) {
        case CACHE_F16: expand_cells(CACHE_F16, cells, to, to_row); break;
        case CACHE_BF16: expand_cells(CACHE_BF16, cells, to, to_row); break;
        case CACHE_Q8_0:
        case CACHE_Q4_0:
        case TILE_F32: break;
    }
}

/* Scores of a run's rows in one key head, from row `row` of the scratch buffers on. */
INLINE void score_rows(struct scratch *scratch, const struct query_group *g, int n_rows, int row,
                       struct tile_cells keys, struct prefetcher *prefetcher) {
    if (is_quantised(g->k_type)) {
        score_quantised_rows(scratch, g, n_rows, row, keys, prefetcher);
        return;
    }
    const float *query = scratch->query + row * g->k_row;
    if (g->k_dim <= MAX_BLOCK_DIM) {
        score_all_rows(scratch, g->k_type, n_rows, query, g->k_row, keys, prefetcher);
        return;
    }
    if (n_rows <= MAX_DIRECT_ROWS) {
        for (int r = 0, n; r < n_rows; r += n) {
            n = next_rows(n_rows - r, ROW_TILE);
            score_few_rows(g->k_type, n, query + r * g->k_row, g->k_row, keys, scratch->probs + r * TILE_CELLS,
                           r ? 0 : prefetcher);
        }
        return;
    }
    expand_tile(g->k_type, keys, scratch->keys, g->k_row);
    const int fit = CACHED_KEY_FLOATS / g->k_row / 8 * 8, step = fit < 8 ? 8 : fit;
    for (int j = 0; j < keys.n; j += step) {
        const int n = keys.n - j < step ? keys.n - j : step;
        const struct tile_cells some = expanded(scratch->keys + j * g->k_row, g->k_row, n, keys.dim);
        for (int r = 0, rows; r < n_rows; r += rows) {
            rows = next_rows(n_rows - r, ROW_TILE);
            score_few_rows(TILE_F32, rows, query + r * g->k_row, g->k_row, some, scratch->probs + r * TILE_CELLS + j,
                           r ? 0 : prefetcher);
        }
    }
}

/* Values of one key head by the probabilities of a run's rows. */
INLINE void accumulate_rows(struct scratch *scratch, const struct query_group *g, int n_rows, int row,
                            struct tile_cells values, struct prefetcher *prefetcher) {
    const bool from_keys = g->values_are_keys && g->k_dim > MAX_BLOCK_DIM;
    float *acc = scratch->acc + row * g->v_row;
    if (is_quantised(g->v_type)) {
        accumulate_quantised_rows(scratch, g, n_rows, row, values, prefetcher);
        return;
    }
    if (n_rows <= MAX_DIRECT_ROWS || (g->v_dim <= MAX_BLOCK_DIM && !from_keys)) {
        for (int r = 0, n; r < n_rows; r += n) {
            n = next_rows(n_rows - r, ROW_TILE);
            accumulate_few_rows(g->v_type, n, scratch->probs + r * TILE_CELLS, acc + r * g->v_row, g->v_row, values,
                                r ? 0 : prefetcher);
        }
        return;
    }
    if (!from_keys) expand_tile(g->v_type, values, scratch->values, g->v_row);
    /* Part by part of a value, which the first-level cache then holds for all rows. */
    for (int d = 0; d < values.dim; d += 4 * VF_LANES) {
        const int n = values.dim - d < 4 * VF_LANES ? values.dim - d : 4 * VF_LANES;
        const struct tile_cells part = from_keys ? expanded(scratch->keys + d, g->k_row, values.n, n)
                                                 : expanded(scratch->values + d, g->v_row, values.n, n);
        for (int r = 0; r < n_rows; r += ROW_TILE)
            accumulate_few_rows(TILE_F32, n_rows - r, scratch->probs + r * TILE_CELLS, acc + r * g->v_row + d, g->v_row,
                                part, r || d ? 0 : prefetcher);
    }
}

/* What the mask holds of a tile's cells, for each token of the run. */
INLINE void load_distances(struct scratch *scratch, struct mask_run run, const uint32_t *list, int n_cells) {
    for (int t = 0; t < run.n_tokens; t++) {
        const uint16_t *mask = mask_of(run.g, run.g->token + run.token + t);
        uint16_t bits[TILE_CELLS];
        for (int j = 0; j < n_cells; j++) bits[j] = mask[list[j]];
        for (int j = 0; j < n_cells; j += VF_LANES)
            vf_store(scratch->distances + t * TILE_CELLS + j, vf_load_f16((const uint8_t *)(bits + j)));
    }
}

/* A tile of a run. All heads of a cell lie side by side in memory, so all of them are computed before the next tile:
 * cells are read at 30 to 40 GB/s, head by head at 20. */
INLINE void attend_tile(struct scratch *scratch, struct mask_run run, int tile, struct prefetcher *keys,
                        struct prefetcher *values) {
    const struct query_group *g = run.g;
    const int head_rows = g->n_tokens * g->heads, n_rows = run.n_tokens * g->heads, first = run.token * g->heads;
    const int left = run.n_cells - tile * TILE_CELLS;
    const int n_cells = left < TILE_CELLS ? (left + VF_LANES - 1) / VF_LANES * VF_LANES : TILE_CELLS;
    const uint32_t *list = run.list + tile * TILE_CELLS;
    if (g->alibi_bias != 0) load_distances(scratch, run, list, n_cells);
    for (int kh = 0; kh < g->key_heads; kh++) {
        const int row = kh * head_rows + first;
        const struct tile_cells k = {keys->base + (size_t)kh * keys->head_stride, keys->cell_stride, list, n_cells,
                                     g->k_dim};
        const struct tile_cells v = {values->base + (size_t)kh * values->head_stride, values->cell_stride, list,
                                     n_cells, g->v_dim};
        score_rows(scratch, g, n_rows, row, k, keys);
        for (int r = 0; r < n_rows; r++) {
            float *scores = scratch->probs + r * TILE_CELLS;
            if (g->softcap != 0) cap_scores(scores, n_cells, g->softcap);
            if (g->alibi_bias != 0)
                add_distances(scores, scratch->distances + r / g->heads * TILE_CELLS, n_cells, scratch->slope[row + r]);
            softmax_row(scratch, scores, row + r, g->v_row, scratch->run_visible[run.token + r / g->heads][tile],
                        n_cells);
        }
        accumulate_rows(scratch, g, n_rows, row, v, values);
    }
}

/* Set what is prefetched next: one tile of each run, cell by cell, in the order in which the cells of sequences that
 * run together lie in memory. Whether there is any. */
INLINE bool plan_prefetch(struct scratch *scratch, const struct mask_run *runs, int n_runs, int round, int part,
                          int n_parts, struct prefetcher *keys, struct prefetcher *values) {
    uint32_t *end = scratch->prefetch_list;
    const uint32_t *lists[MAX_ROWS];
    int n_lists = 0;
    for (int r = 0; r < n_runs; r++) {
        const int tile = first_tile_of(runs[r], part, n_parts) + round;
        if (tile < runs[r].n_tiles) lists[n_lists++] = runs[r].list + tile * TILE_CELLS;
    }
    for (int j = 0; j < TILE_CELLS; j++)
        for (int i = 0; i < n_lists; i++) *end++ = lists[i][j];
    keys->next = values->next = scratch->prefetch_list;
    keys->end = values->end = end;
    if (runs->g->values_are_keys) values->next = end;
    return end > scratch->prefetch_list;
}

/* Runs of a window side by side: a tile of each, while the next tile of each is prefetched. The cells of eight
 * sequences that lie mixed are read at 20 GB/s, one run after the other at 15. */
OUT_OF_LINE void attend_runs(struct scratch *scratch, const struct mask_run *runs, int n_runs, int part, int n_parts) {
    if (!n_runs) return;
    const struct query_group *g = runs->g;
    struct prefetcher keys = prefetcher_of(g->k, g->k_type, g), values = prefetcher_of(g->v, g->v_type, g);
    plan_prefetch(scratch, runs, n_runs, 0, part, n_parts, &keys, &values);
    while (keys.next < keys.end) prefetch_next(&keys), prefetch_next(&values);
    bool more = true;
    for (int round = 0; more; round += n_parts) {
        more = plan_prefetch(scratch, runs, n_runs, round + n_parts, part, n_parts, &keys, &values);
        for (int r = 0; r < n_runs; r++) {
            const int tile = first_tile_of(runs[r], part, n_parts) + round;
            if (tile < runs[r].n_tiles) attend_tile(scratch, runs[r], tile, &keys, &values);
        }
    }
    for (int r = 0; r < n_runs; r++)
        for (int kh = 0; kh < g->key_heads; kh++)
            for (int t = runs[r].token; t < runs[r].token + runs[r].n_tokens; t++)
                for (int h = 0; h < g->heads; h++)
                    finish_row_sum(scratch, (kh * g->n_tokens + t) * g->heads + h, scratch->first_seen[t]);
}
