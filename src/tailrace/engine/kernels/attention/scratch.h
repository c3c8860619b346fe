/* The scratch buffers of a thread that computes attention. An operation takes the address of its thread's once. */
#pragma once
#include "amx.h"

#define TILE_CELLS      64                 /* cells that are computed together */
#define MAX_ROWS        192                /* of a query group, in a key head */
#define WINDOW_CELLS    4096               /* cells whose mask is read at once */
#define LIST_CAPACITY   (4 * WINDOW_CELLS) /* cells of all runs of a window */
#define MASK_WORDS      (WINDOW_CELLS / 64)
#define MAX_HEAD_DIM    576         /* of keys, and of values */
#define DIM_PADDING     16          /* rows of the state have a multiple of so many numbers */
#define STATE_FLOATS    (128 * 576) /* of queries, and of their accumulators */
#define MAX_STATE_ROWS  768         /* of a query group, in all its key heads */
#define MAX_FEW_ROWS    32          /* of a run that is computed in float vectors, unless a token alone has more */
#define QUANT_BLOCK     32          /* numbers of a block of q8_0 and q4_0: a 16-bit scale and the quantised numbers */
#define MAX_HEAD_BLOCKS (MAX_HEAD_DIM / QUANT_BLOCK)
#define TILE_FLOATS     (TILE_CELLS * MAX_HEAD_DIM)

#if HAS_AMX
#define BLOCK_ROWS       16        /* rows that are the lanes of a vector */
#define STEP_CELLS       32        /* cells between two updates of the softmax */
#define OPERAND_NUMBERS  (1 << 17) /* of keys and values in bf16: 256 KB, which the second-level cache holds */
#define MIN_AMX_HEAD_DIM 64
#define MAX_AMX_HEAD_DIM 512 /* of values */
#define AMX_STATE_FLOATS STATE_FLOATS
#define MAX_TILES        (OPERAND_NUMBERS / (2 * MIN_AMX_HEAD_DIM * TILE_CELLS))
#endif

struct scratch {
    /* mask_runs.h: bit sets and lists of cells */
    uint64_t visible[MAX_ROWS][MASK_WORDS];         /* the window's cells that each token sees */
    uint32_t list[LIST_CAPACITY + 2 * TILE_CELLS];  /* the cells that a run's tokens see */
    uint32_t prefetch_list[MAX_ROWS * TILE_CELLS];  /* those of one tile of each run, as they lie in memory */
    uint64_t run_visible[MAX_ROWS][MASK_WORDS + 1]; /* which of the listed cells each token of the run sees */
    uint16_t first_seen[MAX_ROWS];                  /* the first of the listed cells that each token sees */

    /* query_state.h: queries, and the online softmax of each row. acc and row_sum are relative to 2^row_max. */
    float query[STATE_FLOATS] __attribute__((aligned(64)));
    float acc[STATE_FLOATS] __attribute__((aligned(64))); /* values times probabilities */
    float row_max[MAX_STATE_ROWS], row_sum[MAX_STATE_ROWS];
    int16_t query_words[STATE_FLOATS]; /* the query as words, over keys in blocks, with a scale for each block */
    float query_scales[MAX_STATE_ROWS * MAX_HEAD_BLOCKS];
    float slope[MAX_STATE_ROWS];   /* of ALiBi, to base 2 */
    uint16_t first_part[MAX_ROWS]; /* which part has each token's first tile */

    /* run_vectors.h */
    float lane_sums[MAX_STATE_ROWS * VF_LANES] __attribute__((aligned(64))); /* the window's part of row_sum */
    float probs[MAX_ROWS * TILE_CELLS] __attribute__((aligned(64)));         /* scores, then probabilities */
    float partial_dots[MAX_ROWS * 64] __attribute__((aligned(64)));
    float distances[MAX_ROWS * TILE_CELLS] __attribute__((aligned(64))); /* what the mask holds, with ALiBi */
    float keys[TILE_FLOATS] __attribute__((aligned(64)));                /* a tile in single precision */
    float values[TILE_FLOATS] __attribute__((aligned(64)));

#if HAS_AMX
    /* run_amx.h: `_t` is transposed, [head_dim][row] of each block of 16 rows */
    uint16_t query_tiles[AMX_STATE_FLOATS] __attribute__((aligned(64))); /* for each block and 32 of head_dim */
    float acc_t[AMX_STATE_FLOATS];
    float neg_max[MAX_STATE_ROWS],
        row_sum_t[MAX_STATE_ROWS];               /* neg_max: -row_max, and 0 for rows without a cell so far */
    uint16_t cells[OPERAND_NUMBERS];             /* of each 32 cells: keys, values */
    float scores[2][2][STEP_CELLS * BLOCK_ROWS]; /* of two steps, of two blocks; then probabilities */
    uint8_t n_hidden[MAX_TILES][TILE_CELLS];     /* how many of the run's first tokens don't see each cell */
    uint8_t min_hidden[MAX_TILES][TILE_CELLS / STEP_CELLS]; /* the minimum over a step's cells */
    bool all_visible[MAX_TILES];                            /* all tokens see all cells of the tile */
    uint16_t no_cell_yet[MAX_STATE_ROWS / BLOCK_ROWS];      /* rows of a block that have seen no cell so far */
#endif
};
