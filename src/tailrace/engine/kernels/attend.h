/* Attention of one group of queries: tiles of the cells that they see, one after the other. attention.c says what for,
 * and who does which.
 *
 * A cell that the mask hides costs nothing but the look at the mask. So sequences that share one pool of cells don't pay
 * for each other's, however their cells are mixed: the tokens of a group are cut into runs, those of a prompt and each
 * other one, the cells that a run sees are listed, and a tile is 64 of the list. */
#pragma once
#include "attend_amx.h"
#include "attend_avx512.h"
#include "rows.h"
#include "runs.h"

#define TILES_FROM 12 /* rows of a run: with fewer, making operands of cells takes longer than they save */

/* Rows of a group, at most, where tiles are used and where they aren't. */
INLINE int most_rows(void) { return HAS_AMX_ATTENTION && amx_allowed() ? MOST_ROWS : FEW_ROWS; }

/* Every `step`-th tile of what the group sees, from the `first` on. What comes out stands on the desk, in sums, highest and total. */
INLINE void attend(struct desk *own, int width, const struct group *g, int first, int step) {
    uint64_t all[WORDS];
    bool sees[MOST_ROWS];
    int turn = 0; /* of the tiles of all runs, so that short ones are shared out, too */
    begin(own, width, g);
    for (int64_t from = 0; from < g->k->sizes[1]; from += WINDOW) {
        const int cells = g->k->sizes[1] - from < WINDOW ? (int)(g->k->sizes[1] - from) : WINDOW;
        const int words = (cells + 63) / 64;
        for (int t = 0; t < g->tokens; t++) sees[t] = look(own, g, t, from, cells);
        for (int t = 0, run; t < g->tokens; t += run) {
            run = 1;
            if (!sees[t]) continue;
            run = run_of(own, t, g->tokens, sees, words, all);
            const int count = enlist(own, t, run, from, words, all), tiles = (count + TILE - 1) / TILE;
#if HAS_AMX_ATTENTION
            if (run * g->heads >= TILES_FROM && amx_allowed()) {
                attend_run(own, width, (struct run){g, t, run}, tiles, first, step, &turn);
                continue;
            }
#endif
            for (int tile = 0; tile < tiles; tile++, turn = turn + 1 == step ? 0 : turn + 1) {
                if (turn != first) continue;
                const int here = count - tile * TILE < TILE ? (count - tile * TILE + 15) / 16 * 16 : TILE;
                attend_tile(own, width, g, t, run, tile, here, own->list + (tile + step < tiles ? tile + step : tile) * TILE);
            }
        }
    }
}
