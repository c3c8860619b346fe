/* The two products of a tile of cells in floats with a few query rows: scores, and values by probabilities. Both are
 * compiled for each cache type and number of rows; head dimensions are known at run time.
 *
 * A register tile is ROW_TILE rows by four cells, or by four vectors of a value. More rows than that read the tile's
 * cells converted to single precision: then a cell is converted once for all of them. */
#pragma once
#include "attention/mask_runs.h"

/* AVX2 has 16 registers, the others 32. */
#if VF_LANES == 8
#define ROW_TILE 3
#else
#define ROW_TILE 4
#endif

/* Rows of the next row tile of `left`: tiles of nearly the same size, because one row alone uses few registers. */
INLINE int next_rows(int left, int row_tile) {
    const int tiles = (left + row_tile - 1) / row_tile;
    return (left + tiles - 1) / tiles;
}

/* Loops over a register tile. A loop that isn't unrolled keeps the tile in memory. */
#define UNROLLED _Pragma("GCC unroll 4")

/* Prefetches keys or values of the cells that follow: all heads of one cell, then of the next. Heads lie apart from
 * each other, and the hardware doesn't follow such strides. */
struct prefetcher {
    const uint8_t *base;
    size_t cell_stride, head_stride; /* bytes */
    const uint32_t *next, *end;
    const uint8_t *cell;    /* what was prefetched last */
    int head, heads, bytes; /* bytes of a cell in one head */
};

INLINE struct prefetcher prefetcher_of(const struct ggml_tensor *t, enum cache_type type, const struct query_group *g) {
    return (struct prefetcher){.base = cells_of(t, g),
                               .cell_stride = t->nb[1],
                               .head_stride = t->nb[2],
                               .heads = g->key_heads,
                               .bytes = cache_bytes(type, (int)t->ne[0])};
}

INLINE void prefetch_next(struct prefetcher *p) {
    if (p->next == p->end) return;
    const uint8_t *cell = p->head ? p->cell + p->head_stride : p->base + *p->next * p->cell_stride;
    p->cell = cell;
    prefetch_l2(cell, p->bytes);
    if (++p->head < p->heads) return;
    p->head = 0;
    p->next++;
}

/* probs[row][cell] = query . key, for up to ROW_TILE rows. */
INLINE void score_row_tile(enum cache_type type, int n_rows, const float *query, int query_row, struct tile_cells keys,
                           float *probs, struct prefetcher *prefetcher) {
    for (int j = 0; j < keys.n; j += 4) {
        const uint8_t *key[4];
        vf sums[ROW_TILE][4];
        for (int n = 0; n < 4; n++) {
            key[n] = cell_at(type, keys, j + n);
            if (prefetcher) prefetch_next(prefetcher);
        }
        UNROLLED for (int r = 0; r < n_rows; r++) UNROLLED for (int n = 0; n < 4; n++) sums[r][n] = vf_zero();
        int d = 0;
        for (; d + VF_LANES <= keys.dim; d += VF_LANES) {
            vf part[ROW_TILE];
            UNROLLED for (int r = 0; r < n_rows; r++) part[r] = vf_load(query + r * query_row + d);
            UNROLLED for (int n = 0; n < 4; n++) {
                const vf k = load_numbers(type, key[n], d);
                UNROLLED for (int r = 0; r < n_rows; r++) sums[r][n] = vf_fma(k, part[r], sums[r][n]);
            }
        }
        for (; d < keys.dim; d += VF_LANES) UNROLLED for (int n = 0; n < 4; n++) {
                const vf k = load_last_numbers(type, key[n], d, keys.dim - d);
                UNROLLED for (int r = 0; r < n_rows; r++) sums[r][n] =
                    vf_fma(k, vf_load(query + r * query_row + d), sums[r][n]);
            }
        UNROLLED for (int r = 0; r < n_rows; r++)
            vf_store_sums_x4(probs + r * TILE_CELLS + j, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    }
}

/* acc[row][d ...] += probs[row] . values, for up to ROW_TILE rows and `n_vectors` vectors of a value from number d on.
 */
INLINE void accumulate_part(enum cache_type type, int n_rows, int n_vectors, int d, const float *probs, float *acc,
                            int acc_row, struct tile_cells values, struct prefetcher *prefetcher) {
    vf a[ROW_TILE][4];
    UNROLLED for (int r = 0; r < n_rows; r++) UNROLLED for (int i = 0; i < n_vectors; i++) a[r][i] =
        vf_load(acc + r * acc_row + d + i * VF_LANES);
    for (int j = 0; j < values.n; j++) {
        const uint8_t *value = cell_at(type, values, j) + cache_bytes(type, d);
        if (prefetcher) prefetch_next(prefetcher);
        UNROLLED for (int i = 0; i < n_vectors; i++) {
            const vf v = n_vectors > 1 ? load_numbers(type, value, i * VF_LANES)
                                       : load_last_numbers(type, value, 0, values.dim - d);
            UNROLLED for (int r = 0; r < n_rows; r++) a[r][i] = vf_fma(v, vf_set1(probs[r * TILE_CELLS + j]), a[r][i]);
        }
    }
    UNROLLED for (int r = 0; r < n_rows; r++) UNROLLED for (int i = 0; i < n_vectors; i++)
        vf_store(acc + r * acc_row + d + i * VF_LANES, a[r][i]);
}

/* acc[row] += probs[row] . values, for up to ROW_TILE rows. */
INLINE void accumulate_row_tile(enum cache_type type, int n_rows, const float *probs, float *acc, int acc_row,
                                struct tile_cells values, struct prefetcher *prefetcher) {
    int d = 0;
#define PARTS(N)                                                                                                       \
    for (; d + N * VF_LANES <= values.dim; d += N * VF_LANES)                                                          \
        accumulate_part(type, n_rows, N, d, probs, acc, acc_row, values, d ? 0 : prefetcher);
    PARTS(4)
    PARTS(2)
#undef PARTS
    for (; d < values.dim; d += VF_LANES)
        accumulate_part(type, n_rows, 1, d, probs, acc, acc_row, values, d ? 0 : prefetcher);
}

/* The listed cells in single precision, side by side. */
INLINE void expand_cells(enum cache_type type, struct tile_cells cells, float *to, int to_row) {
    for (int j = 0; j < cells.n; j++, to += to_row) {
        const uint8_t *cell = cell_at(type, cells, j);
        int d = 0;
        for (; d < cells.dim; d += VF_LANES) vf_store(to + d, load_last_numbers(type, cell, d, cells.dim - d));
    }
}
