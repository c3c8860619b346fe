/* The scratch buffers of a thread that computes attention. An operation takes the address of its thread's once. */
#pragma once
#include "amx.h"

#define TILE_CELLS     64                 /* cells that are computed together */
#define MAX_ROWS       192                /* of a query group, in a key head */
#define WINDOW_CELLS   4096               /* cells whose mask is read at once */
#define LIST_CAPACITY  (4 * WINDOW_CELLS) /* cells of all runs of a window */
#define MASK_WORDS     (WINDOW_CELLS / 64)
#define MAX_HEAD_DIM   256
#define MIN_HEAD_DIM   64
#define STATE_FLOATS   (MAX_ROWS * MAX_HEAD_DIM) /* of queries, and of their accumulators */
#define MAX_FEW_ROWS   32 /* of a run that is computed in AVX-512, unless a token alone has more */
#define MAX_STATE_ROWS (STATE_FLOATS / MIN_HEAD_DIM)

#if HAS_AMX
#define BLOCK_ROWS      16        /* rows that are the lanes of a vector */
#define STEP_CELLS      32        /* cells between two updates of the softmax */
#define OPERAND_NUMBERS (1 << 17) /* of keys and values in bf16: 256 KB, which the second-level cache holds */
#define MAX_TILES       (OPERAND_NUMBERS / (2 * MIN_HEAD_DIM * TILE_CELLS))
#endif

struct scratch {
    /* mask_runs.h: bit sets and lists of cells */
    uint64_t visible[MAX_ROWS][MASK_WORDS];         /* the window's cells that each token sees */
    uint32_t list[LIST_CAPACITY + 2 * TILE_CELLS];  /* the cells that a run's tokens see */
    uint32_t prefetch_list[MAX_ROWS * TILE_CELLS];  /* those of one tile of each run, as they lie in memory */
    uint64_t run_visible[MAX_ROWS][MASK_WORDS + 1]; /* which of the listed cells each token of the run sees */

    /* query_state.h: queries, and the online softmax of each row. acc and row_sum are relative to 2^row_max. */
    float query[STATE_FLOATS] __attribute__((aligned(64)));
    float acc[STATE_FLOATS] __attribute__((aligned(64))); /* values times probabilities */
    float row_max[MAX_STATE_ROWS], row_sum[MAX_STATE_ROWS];

    /* run_avx512.h */
    float partial_dots[MAX_ROWS * 64] __attribute__((aligned(64)));
    float probs[MAX_ROWS * TILE_CELLS] __attribute__((aligned(64))); /* scores, then probabilities */

#if HAS_AMX
    /* run_amx.h: `_t` is transposed, [head_dim][row] of each block of 16 rows */
    uint16_t query_tiles[STATE_FLOATS] __attribute__((aligned(64))); /* for each block and 32 of head_dim */
    float acc_t[STATE_FLOATS];
    float neg_max[MAX_STATE_ROWS],
        row_sum_t[MAX_STATE_ROWS];               /* neg_max: -row_max, and 0 for rows without a cell so far */
    uint16_t cells[OPERAND_NUMBERS];             /* of each 32 cells: keys, values */
    float scores[2][2][STEP_CELLS * BLOCK_ROWS]; /* of two steps, of two blocks; then probabilities */
    uint8_t n_hidden[MAX_TILES][TILE_CELLS];     /* how many of the run's first tokens don't see each cell */
    uint8_t min_hidden[MAX_TILES][TILE_CELLS / STEP_CELLS];         /* the minimum over a step's cells */
    bool all_visible[MAX_TILES];                                    /* all tokens see all cells of the tile */
    uint16_t no_cell_yet[STATE_FLOATS / MIN_HEAD_DIM / BLOCK_ROWS]; /* rows of a block that have seen no cell so far */
#endif
};
