/* Products of repacked weights with many tokens in AMX tiles of bf16: a panel of 32 rows by tokens whose activations
 * have been packed into tiles. prefill_amx.c and experts/expert_tiles.c cut their products into such panels.
 *
 *   panel        32 rows of weights by up to 640 numbers (a part), which a thread converts for itself. It fits into the
 *                first-level cache, and activations bypass that cache.
 *   activations  one tile after the other, so no stride is a power of two. Caches hold few lines at such strides.
 *   sums         of rows that are longer than a part. They are in tiles of the thread's own, for the same reason. */
#pragma once
#include "amx.h"
#include "loading/repack_layout.h"

#if HAS_AMX
enum {
    TILE_BYTES = 1024,          /* 16 by 32 numbers of bf16, or 16 by 16 of single precision */
    TILE_SIDE = 16,             /* rows, or tokens, of a tile */
    TILE_PANEL = 2 * TILE_SIDE, /* rows of a panel, and tokens that are computed together */
    TILE_SUMS = TILE_SIDE * TILE_SIDE,
    MAX_PART_BLOCKS = 20 /* blocks of 32 numbers of a part */
};

/* Memory of a thread for a panel, and for tiles that have fewer than 16 tokens or rows. */
struct tile_memory {
    uint8_t panel[2 * MAX_PART_BLOCKS * TILE_BYTES] __attribute__((aligned(64)));
    float rest[4 * TILE_SUMS] __attribute__((aligned(64)));
};

/* That of the calling thread. In a library that is loaded at run time, its address is a function call. */
struct tile_memory *thread_tile_memory(void);

/* Tokens by rows of repacked weights. */
struct tile_product {
    const struct repacked *weights;
    const uint8_t *activations; /* tiles: part by part, in a part 16 tokens after 16 tokens, in those block by block */
    struct tile_memory *memory;
    int64_t n_tokens, n_groups; /* groups of 16 tokens */
    int64_t n_blocks, n_parts;  /* blocks of 32 numbers in a row; parts that a row is cut into */
};

INLINE int64_t n_token_groups(int64_t n_tokens) { return (n_tokens + TILE_SIDE - 1) / TILE_SIDE; }
INLINE int64_t n_row_parts(int64_t n_blocks) { return (n_blocks + MAX_PART_BLOCKS - 1) / MAX_PART_BLOCKS; }

/* The numbers of one token into its tiles, of `n_groups` groups of tokens. Where x is 0, its numbers are. */
void pack_token(const float *x, int64_t token, int64_t n_groups, int64_t n_blocks, uint8_t *tiles);

/* The rows `row` to `row` + `n_rows`, at most a panel, by a part of the tokens `begin` to `end`. `begin` is a multiple of
 * 32. With the last part, the results of token `begin` go to `out`, and those of the next token `out_stride` floats
 * behind. Between parts the sums are in `sums`, a tile for each 16 tokens and rows. Tiles have been configured. */
void multiply_tile_panel(const struct tile_product *p, int64_t row, int64_t n_rows, int64_t part, int64_t begin,
                         int64_t end, float *out, int64_t out_stride, float *sums);
#endif
