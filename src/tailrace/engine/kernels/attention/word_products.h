/* The two products of a tile of quantised cells (q8_0, q4_0) with query rows, in integers: scores, and values by
 * probabilities.
 *
 * Queries and probabilities are rounded to 16-bit words, and quantised numbers are widened to words. Sums of a block are
 * exact in 32 bits. Converting quantised numbers to single precision takes longer than multiplying them, and queries of
 * 8 bits, as upstream has them, would lose more than the cache's type does. */
#pragma once
#include "attention/tile_products.h"

#define WORD_ROW_TILE 4 /* rows that have two vectors of sums each in 16 registers */

/* Numbers of a block whose words stay in registers for all rows, of VF_LANES cells at a time. */
#if VF_REGISTERS == 32
#define KEY_STEP QUANT_BLOCK
#else
#define KEY_STEP (QUANT_BLOCK / 2)
#endif

/* The scales of VF_LANES cells' blocks, which are `at` bytes behind the cells' beginnings. */
INLINE vf load_scales(const uint8_t *const *cells, int at) { return nan_unless_finite(load_f16_of_cells(cells, at)); }

/* Words of VF_LANES cells' numbers from number i of a block on: pair n of KEY_STEP / 2 in vector n, a cell in a lane. */
INLINE void load_key_pairs(enum cache_type type, const uint8_t *const *cells, int at, int i, vi to[KEY_STEP / 2]) {
    UNROLLED for (int half = 0; half < KEY_STEP / 16; half++) {
        const int number = i + 16 * half;
        vi columns[4];
        load_columns(cells, at + 2 + (type == CACHE_Q8_0 ? number : 0), columns);
        UNROLLED for (int j = 0; j < 4; j++) {
            vi *pairs = to + 8 * half + 2 * j;
            if (type == CACHE_Q8_0) pairs[0] = even_bytes(columns[j]), pairs[1] = odd_bytes(columns[j]);
            else {
                pairs[0] = nibbles_at(columns[j], number ? 4 : 0);
                pairs[1] = nibbles_at(columns[j], number ? 12 : 8);
            }
        }
    }
}

/* probs[row][cell] = query . key, for any number of rows. A cell is a lane, so no sum goes across lanes. */
INLINE void score_words(enum cache_type type, int n_rows, const int16_t *query, int query_row,
                        const float *query_scales, struct tile_cells keys, const uint8_t *const *cells, float *probs,
                        struct prefetcher *prefetcher) {
    const int prefetches = (VF_LANES * QUANT_BLOCK + keys.dim - 1) / keys.dim; /* a tile of cells, in small portions */
    for (int d = 0; d < keys.dim; d += QUANT_BLOCK) {
        const int at = cache_bytes(type, d);
        for (int j = 0; j < keys.n; j += VF_LANES) {
            for (int n = 0; n < prefetches; n++) prefetch_next(prefetcher);
            const vf scales = load_scales(cells + j, at);
            for (int i = 0; i < QUANT_BLOCK; i += KEY_STEP) {
                vi pairs[KEY_STEP / 2];
                load_key_pairs(type, cells + j, at, i, pairs);
                for (int r = 0; r < n_rows; r++) {
                    const int16_t *words = query + r * query_row + d + i;
                    vi sums = vi_zero(), others = vi_zero(); /* two, because each addition waits for the one before */
#pragma GCC unroll 8
                    for (int n = 0; n < KEY_STEP / 2; n += 2) {
                        sums = vi_dot_pair(sums, pairs[n], words + 2 * n);
                        others = vi_dot_pair(others, pairs[n + 1], words + 2 * n + 2);
                    }
                    sums = vi_add(sums, others);
                    const vf by = vf_mul(scales, vf_set1(query_scales[r * MAX_HEAD_BLOCKS + d / QUANT_BLOCK]));
                    float *to = probs + r * TILE_CELLS + j;
                    vf_store(to, vf_fma(vf_from_vi(sums), by, d + i ? vf_load(to) : vf_zero()));
                }
            }
        }
    }
}

/* acc[row] += probs[row] . values, for up to WORD_ROW_TILE rows. */
INLINE void accumulate_words(enum cache_type type, int n_rows, const float *probs, float *acc, int acc_row,
                             struct tile_cells values, const uint8_t *const *cells, struct prefetcher *prefetcher) {
    /* Cells between two prefetches, as the bits of a mask: a tile's cells are spread over all blocks. */
    const int skipped = values.dim >= 8 * WORD_LANES ? 6 : values.dim >= 4 * WORD_LANES ? 2 : 0;
    for (int d = 0; d < values.dim; d += QUANT_BLOCK) {
        float scales[TILE_CELLS] __attribute__((aligned(64))), word_scales[WORD_ROW_TILE];
        int16_t weights[WORD_ROW_TILE][TILE_CELLS] __attribute__((aligned(64)));
        vm damaged = vf_is_nan(vf_zero());
        for (int j = 0; j < values.n; j += VF_LANES) {
            const vf some = load_scales(cells + j, cache_bytes(type, d));
            damaged = vm_or(damaged, vf_is_nan(some));
            vf_store(scales + j, some);
        }
        for (int r = 0; r < n_rows; r++)
            word_scales[r] = round_weights(probs + r * TILE_CELLS, scales, values.n, vm_any(damaged), weights[r]);
        for (int i = 0; i < QUANT_BLOCK; i += WORD_LANES) {
            const int at = cache_bytes(type, d) + 2;
            vi sums[WORD_ROW_TILE][2];
            UNROLLED for (int r = 0; r < n_rows; r++) sums[r][0] = sums[r][1] = vi_zero();
            for (int j = 0; j < values.n; j += 2) {
                vi value[2], pairs[2];
                UNROLLED for (int n = 0; n < 2; n++) {
                    const uint8_t *block = cells[j + n] + at;
                    value[n] = type == CACHE_Q8_0 ? vi_load_i8(block + i) : vi_load_i4(block, i);
                }
                if (prefetcher && !(j & skipped)) prefetch_next(prefetcher);
                make_pairs(value[0], value[1], pairs);
                UNROLLED for (int r = 0; r < n_rows; r++) {
                    sums[r][0] = vi_dot_pair(sums[r][0], pairs[0], weights[r] + j);
                    sums[r][1] = vi_dot_pair(sums[r][1], pairs[1], weights[r] + j);
                }
            }
            UNROLLED for (int r = 0; r < n_rows; r++) {
                float *to = acc + r * acc_row + d + i;
                vi in_order[2];
                unpair_sums(sums[r], in_order);
                for (int n = 0; n < 2; n++, to += VF_LANES)
                    vf_store(to, vf_fma(vf_from_vi(in_order[n]), vf_set1(word_scales[r]), vf_load(to)));
            }
        }
    }
}

/* ---- Rows of a run ----------------------------------------------------------------------------------------------- */

/* Where a tile's cells are. */
INLINE void find_cells(enum cache_type type, struct tile_cells cells, const uint8_t *to[TILE_CELLS]) {
    for (int j = 0; j < cells.n; j++) to[j] = cell_at(type, cells, j);
}

/* Scores of a run's rows in one key head, from row `row` of the scratch buffers on. */
OUT_OF_LINE void score_quantised_rows(struct scratch *scratch, const struct query_group *g, int n_rows, int row,
                                      struct tile_cells keys, struct prefetcher *prefetcher) {
    const uint8_t *cells[TILE_CELLS];
    const int16_t *query = scratch->query_words + row * g->k_row;
    const float *scales = scratch->query_scales + row * MAX_HEAD_BLOCKS;
    find_cells(g->k_type, keys, cells);
    if (g->k_type == CACHE_Q8_0)
        score_words(CACHE_Q8_0, n_rows, query, g->k_row, scales, keys, cells, scratch->probs, prefetcher);
    else score_words(CACHE_Q4_0, n_rows, query, g->k_row, scales, keys, cells, scratch->probs, prefetcher);
}

/* Values of one key head by the probabilities of a run's rows. */
OUT_OF_LINE void accumulate_quantised_rows(struct scratch *scratch, const struct query_group *g, int n_rows, int row,
                                           struct tile_cells values, struct prefetcher *prefetcher) {
    const uint8_t *cells[TILE_CELLS];
    find_cells(g->v_type, values, cells);
    for (int r = 0, n; r < n_rows; r += n) {
        n = next_rows(n_rows - r, WORD_ROW_TILE);
        const float *probs = scratch->probs + r * TILE_CELLS;
        float *acc = scratch->acc + (row + r) * g->v_row;
        struct prefetcher *first = r ? 0 : prefetcher;
#define ACCUMULATE(TYPE, ROWS) accumulate_words(TYPE, ROWS, probs, acc, g->v_row, values, cells, first)
#define ACCUMULATE_ROWS(TYPE)                                                                                          \
    switch (n) {                                                                                                       \
        case 1: ACCUMULATE(TYPE, 1); break;                                                                            \
        case 2: ACCUMULATE(TYPE, 2); break;                                                                            \
        case 3: ACCUMULATE(TYPE, 3); break;                                                                            \
        default: ACCUMULATE(TYPE, WORD_ROW_TILE); break;                                                               \
    }
        if (g->v_type == CACHE_Q8_0) ACCUMULATE_ROWS(CACHE_Q8_0)
        else ACCUMULATE_ROWS(CACHE_Q4_0)
#undef ACCUMULATE_ROWS
#undef ACCUMULATE
    }
}
