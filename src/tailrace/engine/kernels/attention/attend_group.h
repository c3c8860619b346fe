/* Attention of one query group: the cells that its tokens see, in tiles of 64. attention.c decides which thread
 * computes which.
 *
 * A cell that the mask hides costs only the check of its mask. So sequences whose cells lie mixed in one KV cache don't
 * pay for each other's, and cells outside of a sliding window aren't read: the tokens of a group are cut into runs
 * (those of a prompt, and each other one), and a tile is 64 of the cells that the run sees. */
#pragma once
#include "attention/run_amx.h"
#include "attention/run_vectors.h"
#include "products/prefill_amx.h"

#define MIN_TILE_ROWS 12 /* rows of a run: with fewer, packing cells into AMX tiles takes longer than the tiles save */
/* Cells of a run's first window, in a pass that is too short for prompt_product. With fewer cells, tiles save next to
 * nothing. And without tiles, the reply to a short prompt is the same whether its tokens are computed together or come
 * from the prefix cache. */
#define MIN_TILE_RUN_CELLS 512

/* Whether AMX tiles can have a group's cells: packing is written for some head dimensions. */
INLINE bool tiles_possible(const struct query_group *g) {
#if HAS_AMX
    return has_amx_code(g->k_dim, g->v_dim) && g->softcap == 0 && g->alibi_bias == 0 && tailrace_kernels_amx_usable();
#else
    (void)g;
    return false;
#endif
}

/* The maximum number of rows of a group in a key head: what a run in float vectors has, or the heads of a token. */
INLINE int max_rows(const struct query_group *g) {
    const int row = g->k_row > g->v_row ? g->k_row : g->v_row, fit = STATE_FLOATS / row;
    if (tiles_possible(g)) return MAX_ROWS < fit ? MAX_ROWS : fit;
    const int rows = g->heads < MAX_FEW_ROWS ? MAX_FEW_ROWS : g->heads;
    return rows < fit ? (rows < MAX_ROWS ? rows : MAX_ROWS) : (fit < MAX_ROWS ? fit : MAX_ROWS);
}

/* How many key heads' rows the scratch buffers hold, with so many rows in each. */
INLINE int fitting_key_heads(const struct query_group *g, int n_rows) {
    const int row = g->k_row > g->v_row ? g->k_row : g->v_row;
    int fit = STATE_FLOATS / (n_rows * row);
    if (MAX_STATE_ROWS / n_rows < fit) fit = MAX_STATE_ROWS / n_rows;
#if HAS_AMX
    if (tiles_possible(g)) { /* in blocks */
        const int rows = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
        if (AMX_STATE_FLOATS / (rows * row) < fit) fit = AMX_STATE_FLOATS / (rows * row);
        if (MAX_STATE_ROWS / rows < fit) fit = MAX_STATE_ROWS / rows;
    }
#endif
    return fit > 1 ? fit : 1;
}

/* Whether a run's cells go through AMX tiles. It is decided in the run's first window. */
INLINE bool uses_tiles(const struct scratch *scratch, const struct query_group *g, int token, int n_tokens,
                       int n_words) {
    if (!HAS_AMX || n_tokens * g->heads < MIN_TILE_ROWS) return false;
    const bool prompt = g->q->ne[1] >= MIN_PROMPT_TOKENS;
    if (!prompt && count_cells(scratch, token + n_tokens - 1, n_words) < MIN_TILE_RUN_CELLS) return false;
    return tiles_possible(g);
}

/* Every n_parts-th tile of the cells that the group sees. The results are in the scratch buffers' acc, row_max and
 * row_sum; first_part is the part that has a row's first tile. The first `exact_tokens` tokens of the operation don't
 * use AMX tiles and have no part in runs of sliding windows. */
OUT_OF_LINE void attend_group(struct scratch *scratch, const struct query_group *g, int part, int n_parts,
                              int64_t exact_tokens) {
    const int few_tokens = MAX_FEW_ROWS / g->heads > 1 ? MAX_FEW_ROWS / g->heads : 1;
    const int64_t left = exact_tokens - g->token;
    const int exact_end = left < 0 ? 0 : left < g->n_tokens ? (int)left : g->n_tokens;
    bool sees_any[MAX_ROWS];
    enum { UNKNOWN, VECTORS, TILES } way[MAX_ROWS]; /* of each token, the same in all windows */
    int token_part[MAX_ROWS];                       /* which part has each token's next tile */
    struct mask_run runs[MAX_ROWS];
    int next_part = 0; /* across all runs, so that tiles of short runs are shared out, too */
    load_queries(scratch, g);
    memset(way, 0, sizeof way);
    memset(scratch->first_part, 0, sizeof scratch->first_part);
    for (int64_t first = 0; first < g->k->ne[1]; first += WINDOW_CELLS) {
        const int n_cells = g->k->ne[1] - first < WINDOW_CELLS ? (int)(g->k->ne[1] - first) : WINDOW_CELLS;
        const int n_words = (n_cells + 63) / 64;
        uint32_t *list = scratch->list;
        int n_runs = 0;
        for (int t = 0; t < g->n_tokens; t++) sees_any[t] = read_mask(scratch, g, t, first, n_cells);
        for (int t = 0, n_tokens; t < g->n_tokens; t += n_tokens) {
            n_tokens = 1;
            if (!sees_any[t]) continue;
            const int end = t < exact_end ? exact_end : g->n_tokens;
            n_tokens = run_length(scratch, t, end, sees_any, n_words, false);
            const bool known = way[t] != UNKNOWN;
            const bool tiles = known ? way[t] == TILES : t >= exact_end && uses_tiles(scratch, g, t, n_tokens, n_words);
            if (!tiles && t >= exact_end) n_tokens = run_length(scratch, t, end, sees_any, n_words, true);
            /* The parts of a token's tiles follow each other through all windows, whatever runs beside it. */
            const int run_part = known ? token_part[t] : next_part;
            for (int i = t; i < t + n_tokens; i++) {
                if (way[i] == UNKNOWN) way[i] = tiles ? TILES : VECTORS, scratch->first_part[i] = (uint16_t)run_part;
                token_part[i] = (run_part + n_tiles_of(count_cells(scratch, i, n_words))) % n_parts;
            }
            const int max_tokens = tiles ? n_tokens : few_tokens;
            for (int piece = t; piece < t + n_tokens; piece += max_tokens) {
                const int rest = t + n_tokens - piece;
                struct mask_run run = {.g = g,
                                       .token = piece,
                                       .n_tokens = rest < max_tokens ? rest : max_tokens,
                                       .list = list,
                                       .first_part = run_part};
                run.n_cells = list_cells(scratch, list, piece, run.n_tokens, first, n_words);
                run.n_tiles = n_tiles_of(run.n_cells);
                if (!known) next_part = (run_part + run.n_tiles) % n_parts;
#if HAS_AMX
                if (tiles) {
                    attend_run_amx(scratch, run, part, n_parts);
                    continue;
                }
#endif
                runs[n_runs++] = run;
                list += run.n_tiles * TILE_CELLS;
                if (list - scratch->list <= LIST_CAPACITY - WINDOW_CELLS) continue;
                attend_runs(scratch, runs, n_runs, part, n_parts);
                list = scratch->list;
                n_runs = 0;
            }
        }
        attend_runs(scratch, runs, n_runs, part, n_parts);
    }
}
