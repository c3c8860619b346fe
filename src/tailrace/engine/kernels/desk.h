/* What a thread has on the way while it computes attention. */
#pragma once
#include "amx.h"

#define TILE 64                 /* cells that are computed together */
#define MOST_ROWS 192           /* of a group, in a key head */
#define WINDOW 4096             /* cells that are listed at once */
#define LISTED (4 * WINDOW)     /* of all runs */
#define WORDS (WINDOW / 64)
#define STATE (MOST_ROWS * 256) /* floats of queries, and of their sums */
#define NARROW 64               /* the least width */
#define FEW_ROWS 32             /* of a run that is computed in AVX-512, unless a token alone has more */

#if HAS_AMX && defined(__AVX512FP16__)
#define HAS_AMX_ATTENTION 1
#define LANES 16                /* rows of a block */
#define STEP 32                 /* cells */
#define CHUNK (1 << 17)         /* numbers of operands of cells: 256 KB */
#define MOST_TILES (CHUNK / (2 * NARROW * TILE))
#else
#define HAS_AMX_ATTENTION 0
#endif

/* An operation asks for its thread's once and hands it on. */
struct desk {
    /* runs.h */
    uint64_t seen[MOST_ROWS][WORDS];      /* the window's cells that each token sees */
    uint32_t list[LISTED + 2 * TILE];     /* the cells that a run's tokens see */
    uint32_t together[MOST_ROWS * TILE];  /* a tile's of each run, as they lie in memory */
    uint64_t marks[MOST_ROWS][WORDS + 1]; /* those of them that each token of the run sees */

    /* rows.h: queries, and of each the sums of softmax so far */
    float query[STATE] __attribute__((aligned(64)));
    float sums[STATE] __attribute__((aligned(64)));
    float highest[STATE / NARROW], total[STATE / NARROW]; /* what weights, total and sums are relative to (2 to its power), and the weights' sum */

    /* attend_avx512.h */
    float shares[MOST_ROWS * 64] __attribute__((aligned(64)));
    float weights[MOST_ROWS * TILE] __attribute__((aligned(64)));

#if HAS_AMX_ATTENTION
    /* attend_amx.h */
    uint16_t operands[STATE] __attribute__((aligned(64))); /* queries, for each block and 32 of the width */
    float gathered[STATE];                                /* sums: [of the width][row] of each block */
    float base[STATE / NARROW], weighed[STATE / NARROW];  /* as highest, but negated and 0 for rows that have seen nothing; as total */
    uint16_t cells[CHUNK];                                /* for each 32: keys, values */
    float scores[2][2][STEP * LANES];                     /* of one step and the next, of two blocks; then weights */
    uint8_t hidden[MOST_TILES][TILE];                     /* how many of the run's tokens, the first ones, don't see each cell */
    uint8_t least[MOST_TILES][TILE / STEP];               /* and each cell of a step */
    bool whole[MOST_TILES];                               /* all see all of the tile */
    uint16_t fresh[STATE / NARROW / LANES];               /* which rows of a block have seen nothing */
#endif
};
