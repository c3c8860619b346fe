/* Scores where registers hold 64 numbers of four keys: all query rows go by, and a number of a key is converted once.
 * It is faster than tiles of four rows for head dimensions up to MAX_BLOCK_DIM, and needs 32 registers of 16 lanes. */
#pragma once
#include "attention/tile_products.h"

#if VF_LANES == 16
#define MAX_BLOCK_DIM 256 /* beyond, sums across lanes take longer than conversions save */

/* `n_vectors` vectors of four keys from number d on by all rows: partial sums of the cells j to j + 3. */
INLINE void score_key_block(enum cache_type type, int n_vectors, int n_rows, int d, const float *query, int query_row,
                            struct tile_cells keys, int j, float *parts) {
    vf k[4][4];
    UNROLLED
    for (int n = 0; n < 4; n++) {
        const uint8_t *key = cell_at(type, keys, j + n) + cache_bytes(type, d);
        UNROLLED
        for (int i = 0; i < n_vectors; i++) {
            k[n][i] =
                n_vectors > 1 ? load_numbers(type, key, i * VF_LANES) : load_last_numbers(type, key, 0, keys.dim - d);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        UNROLLED
        for (int i = 0; i < n_vectors; i++) {
            const vf part = vf_load(query + r * query_row + d + i * VF_LANES);
            UNROLLED
            for (int n = 0; n < 4; n++) s[n] = vf_fma(k[n][i], part, s[n]);
        }
        vf four = partial_sums_x4(s[0], s[1], s[2], s[3]);
        float *to = parts + r * 64 + j % 16 * 4;
        if (d) four = vf_add(four, vf_load(to));
        vf_store(to, four);
    }
}

/* probs[row][cell] = query . key for any number of rows. `parts` holds 64 numbers a row meanwhile. */
INLINE void score_by_blocks(enum cache_type type, int n_rows, const float *query, int query_row, struct tile_cells keys,
                            float *parts, float *probs, struct prefetcher *prefetcher) {
    for (int j = 0; j < keys.n; j += 16) {
        for (int i = j; i < j + 16; i += 4) {
            for (int n = 0; n < 4; n++) prefetch_next(prefetcher);
            int d = 0;
#define KEY_BLOCK(N) score_key_block(type, N, n_rows, d, query, query_row, keys, i, parts), d += N * VF_LANES
            while (d + 4 * VF_LANES <= keys.dim) KEY_BLOCK(4);
            if (d + 2 * VF_LANES <= keys.dim) KEY_BLOCK(2);
            while (d < keys.dim) KEY_BLOCK(1);
#undef KEY_BLOCK
        }
        for (int r = 0; r < n_rows; r++) vf_store(probs + r * TILE_CELLS + j, finish_sums_x16(parts + r * 64));
    }
}
#else
#define MAX_BLOCK_DIM 0
#endif
