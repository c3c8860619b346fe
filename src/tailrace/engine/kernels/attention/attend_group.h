/* Attention of one query group: the cells that its tokens see, in tiles of 64. attention.c decides which thread
 * computes which.
 *
 * A cell that the mask hides costs only the check of its mask. So sequences whose cells lie mixed in one KV cache don't
 * pay for each other's: the tokens of a group are cut into runs (those of a prompt, and each other one), and a tile is
 * 64 of the cells that the run sees. */
#pragma once
#include "attention/run_amx.h"
#include "attention/run_avx512.h"
#include "products/prefill_amx.h"

#define MIN_TILE_ROWS 12 /* rows of a run: with fewer, packing cells into AMX tiles takes longer than the tiles save */
/* Cells of a run's first window, in a pass that is too short for prompt_product. With fewer cells, tiles save next to
 * nothing. And without tiles, the reply to a short prompt is the same whether its tokens are computed together or come
 * from the prefix cache. */
#define MIN_TILE_RUN_CELLS 512

/* Whether AMX tiles can have cells of these types: packing reads 16-bit floats. */
INLINE bool tiles_possible(enum cache_type k_type, enum cache_type v_type) {
    return HAS_AMX && k_type == CACHE_F16 && v_type == CACHE_F16 && tailrace_kernels_amx_usable();
}

/* The maximum number of rows of a group. */
INLINE int max_rows(enum cache_type k_type, enum cache_type v_type) {
    return tiles_possible(k_type, v_type) ? MAX_ROWS : MAX_FEW_ROWS;
}

/* Whether a run's cells go through AMX tiles. It is decided in the run's first window. */
INLINE bool uses_tiles(const struct scratch *scratch, const struct query_group *g, int token, int n_tokens,
                       int n_words) {
    if (!HAS_AMX || n_tokens * g->heads < MIN_TILE_ROWS) return false;
    const bool prompt = g->q->ne[1] >= MIN_PROMPT_TOKENS;
    if (!prompt && count_cells(scratch, token + n_tokens - 1, n_words) < MIN_TILE_RUN_CELLS) return false;
    return tiles_possible(g->k_type, g->v_type);
}

/* Every n_parts-th tile of the cells that the group sees, from tile `part` on. The results are in the scratch buffers'
 * acc, row_max and row_sum. The first `exact_tokens` tokens of the operation don't use AMX tiles. */
INLINE void attend_group(struct scratch *scratch, int head_dim, const struct query_group *g, int part, int n_parts,
                         int64_t exact_tokens) {
    const int few_tokens = MAX_FEW_ROWS / g->heads > 1 ? MAX_FEW_ROWS / g->heads : 1;
    const int64_t left = exact_tokens - g->token;
    const int exact_end = left < 0 ? 0 : left < g->n_tokens ? (int)left : g->n_tokens;
    bool sees_any[MAX_ROWS];
    enum { UNKNOWN, VECTORS, TILES } way[MAX_ROWS]; /* of each token, the same in all windows */
    struct mask_run runs[MAX_ROWS];
    int next_part = 0; /* across all runs, so that tiles of short runs are shared out, too */
    load_queries(scratch, head_dim, g);
    memset(way, 0, sizeof way);
    for (int64_t first = 0; first < g->k->ne[1]; first += WINDOW_CELLS) {
        const int n_cells = g->k->ne[1] - first < WINDOW_CELLS ? (int)(g->k->ne[1] - first) : WINDOW_CELLS;
        const int n_words = (n_cells + 63) / 64;
        uint32_t *list = scratch->list;
        int n_runs = 0;
        for (int t = 0; t < g->n_tokens; t++) sees_any[t] = read_mask(scratch, g, t, first, n_cells);
        for (int t = 0, n_tokens; t < g->n_tokens; t += n_tokens) {
            n_tokens = 1;
            if (!sees_any[t]) continue;
            n_tokens = run_length(scratch, t, t < exact_end ? exact_end : g->n_tokens, sees_any, n_words);
            if (way[t] == UNKNOWN) {
                const bool tiles = t >= exact_end && uses_tiles(scratch, g, t, n_tokens, n_words);
                for (int i = t; i < t + n_tokens; i++) way[i] = tiles ? TILES : VECTORS;
            }
            const bool tiles = way[t] == TILES;
            const int max_tokens = tiles ? n_tokens : few_tokens, first_part = next_part;
            /* Pieces of a run begin with the same part: then each token's sums have the order that they have in a
             * single pass. */
            for (int piece = t; piece < t + n_tokens; piece += max_tokens) {
                const int rest = t + n_tokens - piece;
                struct mask_run run = {.g = g,
                                       .token = piece,
                                       .n_tokens = rest < max_tokens ? rest : max_tokens,
                                       .list = list,
                                       .first_part = first_part};
                run.n_cells = list_cells(scratch, list, piece, run.n_tokens, first, n_words);
                run.n_tiles = (run.n_cells + TILE_CELLS - 1) / TILE_CELLS;
                next_part = (first_part + run.n_tiles) % n_parts;
#if HAS_AMX
                if (tiles) {
                    attend_run_amx(scratch, head_dim, run, part, n_parts);
                    continue;
                }
#endif
                runs[n_runs++] = run;
                list += run.n_tiles * TILE_CELLS;
                if (list - scratch->list <= LIST_CAPACITY - WINDOW_CELLS) continue;
                attend_runs(scratch, head_dim, runs, n_runs, part, n_parts);
                list = scratch->list;
                n_runs = 0;
            }
        }
        attend_runs(scratch, head_dim, runs, n_runs, part, n_parts);
    }
}
