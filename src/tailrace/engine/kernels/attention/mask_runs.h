/* Which cells a query group's tokens see: runs of tokens that are computed together, and the list of the cells of each
 * run. */
#pragma once
#include "attention/query_state.h"

#define MASK_HIDDEN 0xfc00 /* minus infinity in 16 bits. A mask without ALiBi holds this or 0. */

/* Tokens of a group that are computed together, and the cells of a window that they see. */
struct mask_run {
    const struct query_group *g;
    int token, n_tokens; /* of the group */
    const uint32_t *list;
    int n_cells, n_tiles;
    int first_part; /* which part has the first tile */
};

/* A group's tiles are shared out to `n_parts` threads. The first tile of a run that belongs to `part`; every n_parts-th
 * follows. */
INLINE int first_tile_of(struct mask_run run, int part, int n_parts) {
    return (part - run.first_part + n_parts) % n_parts;
}

INLINE int n_tiles_of(int n_cells) { return (n_cells + TILE_CELLS - 1) / TILE_CELLS; }

INLINE const uint16_t *mask_of(const struct query_group *g, int64_t token) {
    const struct ggml_tensor *m = g->mask;
    if (!m) return 0;
    return (const uint16_t *)((const char *)m->data + token * m->nb[1] + g->stream % m->ne[3] * m->nb[3]);
}

/* Read which cells a token sees in the window that begins with cell `first`. Whether there are any. */
INLINE bool read_mask(struct scratch *scratch, const struct query_group *g, int token, int64_t first, int n_cells) {
    const uint16_t *mask = mask_of(g, g->token + token);
    uint64_t any = 0;
    for (int i = 0; i < n_cells; i += 64) {
        const int n = n_cells - i < 64 ? n_cells - i : 64;
        uint64_t bits = n < 64 ? (1ull << n) - 1 : ~0ull;
        if (mask && n == 64) bits = differing_u16x64(mask + first + i, MASK_HIDDEN);
        else if (mask)
            for (int j = 0; j < n; j++) bits &= ~((uint64_t)(mask[first + i + j] == MASK_HIDDEN) << j);
        any |= scratch->visible[token][i / 64] = bits;
    }
    return any;
}

/* Whether token b sees what token a sees and more, as those of a prompt do. With a sliding window, cells before all
 * others of token a may be missing. */
INLINE bool continues(const struct scratch *scratch, int a, int b, int n_words, bool sliding) {
    const uint64_t *before = scratch->visible[a], *after = scratch->visible[b];
    int lost = -1;
    bool common = false;
    for (int w = 0; w < n_words; w++) {
        const uint64_t gone = before[w] & ~after[w], both = before[w] & after[w];
        if (gone) {
            if (!sliding || common || (both && __builtin_ctzll(both) < 63 - __builtin_clzll(gone))) return false;
            lost = w;
        }
        common |= both != 0;
    }
    return lost < 0 || common;
}

/* How many tokens, from `token` on, are computed together. Sequences with a common prefix have separate runs: a joint
 * run would read the prefix once, but rounding would depend on the other sequences. */
INLINE int run_length(const struct scratch *scratch, int token, int n_tokens, const bool *sees_any, int n_words,
                      bool sliding) {
    int end = token + 1;
    while (end < n_tokens && sees_any[end] && continues(scratch, end - 1, end, n_words, sliding)) end++;
    return end - token;
}

/* How many of the window's cells a token sees. */
INLINE int count_cells(const struct scratch *scratch, int token, int n_words) {
    int count = 0;
    for (int w = 0; w < n_words; w++) count += __builtin_popcountll(scratch->visible[token][w]);
    return count;
}

/* List the cells that the tokens of a run see, and mark which of the listed cells each token sees. The number of cells.
 */
INLINE int list_cells(struct scratch *scratch, uint32_t *list, int token, int n_tokens, int64_t first, int n_words) {
    for (int t = token; t < token + n_tokens; t++) {
        memset(scratch->run_visible[t], 0, (size_t)(n_words + 1) * sizeof **scratch->run_visible);
        scratch->first_seen[t] = UINT16_MAX;
    }
    int count = 0;
    for (int w = 0; w < n_words; w++) {
        uint64_t all = 0;
        for (int t = token; t < token + n_tokens; t++) all |= scratch->visible[t][w];
        if (!all) continue;
        const int word = count / 64, shift = count % 64, n = __builtin_popcountll(all);
        for (int t = token; t < token + n_tokens; t++) {
            const uint64_t seen = scratch->visible[t][w];
            const uint64_t bits = seen == all ? ~0ull >> (64 - n) : bits_where(seen, all);
            scratch->run_visible[t][word] |= bits << shift;
            if (shift) scratch->run_visible[t][word + 1] |= bits >> (64 - shift);
            if (bits && scratch->first_seen[t] == UINT16_MAX)
                scratch->first_seen[t] = (uint16_t)(count + __builtin_ctzll(bits));
        }
        store_bit_places(list + count, all, (uint32_t)(first + 64 * w));
        count += n;
    }
    /* Fill the last tile with a cell that is read and not marked. */
    for (int i = 0; i < TILE_CELLS; i++) list[count + i] = list[count - 1];
    return count;
}
