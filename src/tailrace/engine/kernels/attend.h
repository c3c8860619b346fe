/* Attention of one group of queries: tiles of the cells that they see, one after the other. attention.c says what for,
 * and who does which.
 *
 * A cell that the mask hides costs nothing but the look at the mask. So sequences that share one pool of cells don't pay
 * for each other's, however their cells are mixed: the tokens of a group are cut into runs, those of a prompt and each
 * other one, the cells that a run sees are listed, and a tile is 64 of the list. */
#pragma once
#include "attend_amx.h"
#include "attend_avx512.h"
#include "prompt_amx.h"
#include "rows.h"
#include "runs.h"

#define TILES_FROM 12 /* rows of a run: with fewer, making operands of cells takes longer than they save */
/* Of a run's first window, in a pass that is too short for its products to be rounded as well. With fewer, tiles save next to
 * nothing, and without them a short prompt's reply is the same whether all its tokens are computed or come from a cache but for
 * the last. */
#define MANY_CELLS 512

/* Rows of a group, at most, where tiles are used and where they aren't. */
INLINE int most_rows(void) { return HAS_AMX_ATTENTION && amx_allowed() ? MOST_ROWS : FEW_ROWS; }

/* Every `step`-th tile of what the group sees, from the `first` on. What comes out stands on the desk, in sums, highest and
 * total. The first `replies` tokens of the operation don't go through tiles. */
INLINE void attend(struct desk *own, int width, const struct group *g, int first, int step, int64_t replies) {
    const int few = FEW_ROWS / g->heads > 1 ? FEW_ROWS / g->heads : 1; /* tokens */
    const int64_t here = replies - g->token;
    const int end = here < 0 ? 0 : here < g->tokens ? (int)here : g->tokens; /* of replies' tokens */
    bool sees[MOST_ROWS];
    enum way { UNKNOWN, PLAIN, TILES } way[MOST_ROWS]; /* of each token, in all windows alike */
    struct run runs[MOST_ROWS];
    int turn = 0; /* of the tiles of all runs, so that short ones are shared out, too */
    begin(own, width, g);
    memset(way, 0, sizeof way);
    for (int64_t from = 0; from < g->k->sizes[1]; from += WINDOW) {
        const int cells = g->k->sizes[1] - from < WINDOW ? (int)(g->k->sizes[1] - from) : WINDOW;
        const int words = (cells + 63) / 64;
        uint32_t *list = own->list;
        int count = 0;
        for (int t = 0; t < g->tokens; t++) sees[t] = look(own, g, t, from, cells);
        for (int t = 0, tokens; t < g->tokens; t += tokens) {
            tokens = 1;
            if (!sees[t]) continue;
            tokens = run_of(own, t, t < end ? end : g->tokens, sees, words);
            if (way[t] == UNKNOWN) {
                const bool pays = g->q->sizes[1] >= WIDE_FROM || cells_of(own, t + tokens - 1, words) >= MANY_CELLS;
                const bool tiles = HAS_AMX_ATTENTION && t >= end && tokens * g->heads >= TILES_FROM && pays && amx_allowed();
                for (int i = t; i < t + tokens; i++) way[i] = tiles ? TILES : PLAIN;
            }
            const bool tiles = way[t] == TILES;
            const int most = tiles ? tokens : few, from_turn = turn;
            /* Parts of a run have the same turn: then each token's sums end as they do alone. */
            for (int part = t; part < t + tokens; part += most) {
                const int left = t + tokens - part;
                struct run run = {.g = g, .token = part, .tokens = left < most ? left : most, .list = list, .turn = from_turn};
                run.cells = enlist(own, list, part, run.tokens, from, words);
                run.tiles = (run.cells + TILE - 1) / TILE;
                turn = (from_turn + run.tiles) % step;
#if HAS_AMX_ATTENTION
                if (tiles) {
                    attend_run(own, width, run, first, step);
                    continue;
                }
#endif
                runs[count++] = run;
                list += run.tiles * TILE;
                if (list - own->list <= LISTED - WINDOW) continue;
                attend_runs(own, width, runs, count, first, step);
                list = own->list;
                count = 0;
            }
        }
        attend_runs(own, width, runs, count, first, step);
    }
}
