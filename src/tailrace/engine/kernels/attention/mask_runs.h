/* Which cells a query group's tokens see: runs of tokens that are computed together, and the list of the cells of each
 * run. */
#pragma once
#include "attention/query_state.h"

#define MASK_HIDDEN 0xfc00 /* minus infinity in 16 bits. A mask holds this or 0: attention.c takes no others. */

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

INLINE const uint16_t *mask_of(const struct query_group *g, int64_t token) {
    const struct ggml_tensor *m = g->mask;
    if (!m) return 0;
    return (const uint16_t *)((const char *)m->data + token * m->nb[1] + g->stream % m->ne[3] * m->nb[3]);
}

/* Read which cells a token sees in the window that begins with cell `first`. Whether there are any. */
INLINE bool read_mask(struct scratch *scratch, const struct query_group *g, int token, int64_t first, int n_cells) {
    const uint16_t *mask = mask_of(g, g->token + token);
    uint64_t any = 0;
    for (int w = 0; w * 64 < n_cells; w++) {
        uint64_t bits = 0;
        for (int i = 0; i < 64 && 64 * w + i < n_cells; i += 16) {
            uint64_t sixteen = 0xffff;
            if (mask) {
                const __m256i m = _mm256_loadu_si256((const __m256i *)(mask + first + 64 * w + i));
                sixteen = _mm256_cmpneq_epi16_mask(m, _mm256_set1_epi16((short)MASK_HIDDEN));
            }
            bits |= sixteen << i;
        }
        any |= scratch->visible[token][w] = bits;
    }
    return any;
}

/* How many tokens, from `token` on, are computed together. Each token of a run sees what the token before sees and
 * more, as those of a prompt do. Sequences with a common prefix have separate runs: a joint run would read the prefix
 * once, but rounding would depend on the other sequences. */
INLINE int run_length(const struct scratch *scratch, int token, int n_tokens, const bool *sees_any, int n_words) {
    int end = token + 1;
    for (; end < n_tokens && sees_any[end]; end++) {
        uint64_t lost = 0;
        for (int w = 0; w < n_words; w++) lost |= scratch->visible[end - 1][w] & ~scratch->visible[end][w];
        if (lost) break;
    }
    return end - token;
}

/* How many of the window's cells a token sees. */
INLINE int count_cells(const struct scratch *scratch, int token, int n_words) {
    int count = 0;
    for (int w = 0; w < n_words; w++) count += __builtin_popcountll(scratch->visible[token][w]);
    return count;
}

/* List the cells that a run sees (its last token sees all of them), and mark which of the listed cells each token sees.
 * The number of cells. */
INLINE int list_cells(struct scratch *scratch, uint32_t *list, int token, int n_tokens, int64_t first, int n_words) {
    const uint64_t *all = scratch->visible[token + n_tokens - 1];
    for (int t = token; t < token + n_tokens; t++)
        memset(scratch->run_visible[t], 0, (size_t)(n_words + 1) * sizeof **scratch->run_visible);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int count = 0;
    for (int w = 0; w < n_words; w++) {
        if (!all[w]) continue;
        const int word = count / 64, shift = count % 64;
        for (int t = token; t < token + n_tokens; t++) {
            const uint64_t bits = _pext_u64(scratch->visible[t][w], all[w]);
            scratch->run_visible[t][word] |= bits << shift;
            if (shift) scratch->run_visible[t][word + 1] |= bits >> (64 - shift);
        }
        for (int i = 0; i < 64; i += 16) {
            const __mmask16 here = (__mmask16)(all[w] >> i);
            const __m512i cells = _mm512_add_epi32(_mm512_set1_epi32((int)(first + 64 * w + i)), lanes);
            _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(here, cells));
            count += __builtin_popcount(here);
        }
    }
    /* Fill the last tile with a cell that is read and not marked. */
    for (int i = 0; i < TILE_CELLS; i++) list[count + i] = list[count - 1];
    return count;
}
