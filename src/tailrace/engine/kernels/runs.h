/* Which cells a group's tokens see: runs of tokens that are computed together, and the list of the cells of each. */
#pragma once
#include <immintrin.h>
#include <string.h>

#include "abi.h"
#include "desk.h"

#define HIDDEN 0xfc00 /* minus infinity in 16 bits; whatever else a mask has is 0, as attention.c makes sure */

/* One group of queries of one stream: `tokens` tokens from `token` on, in `heads` heads of each of `key_heads` key heads,
 * of which `head` and `key_head` are the first. Rows of what comes out go key head by key head, in those token by token,
 * in those head by head. */
struct group {
    const struct tensor *q, *k, *v, *mask;
    float scale;
    int64_t stream, token, head, key_head;
    int tokens, heads, key_heads;
};

/* Tokens of a group that are computed together, and the cells of a window that they see. */
struct run {
    const struct group *g;
    int token, tokens; /* of the group */
    const uint32_t *list;
    int cells, tiles, turn; /* `turn`: which thread has the first tile */
};

/* The first of its tiles that the thread `first` of `step` has; then comes every `step`-th. */
INLINE int tile_of_thread(struct run run, int first, int step) { return (first - run.turn + step) % step; }

/* Keys or values of the group's first key head, from the first cell on. */
INLINE const uint8_t *cells_from(const struct tensor *t, const struct group *g) {
    const int64_t stream = g->stream / (g->q->sizes[3] / g->k->sizes[3]);
    return (const uint8_t *)t->data + g->key_head * t->strides[2] + stream * t->strides[3];
}

INLINE const uint16_t *mask_of(const struct group *g, int64_t token) {
    const struct tensor *m = g->mask;
    if (!m) return 0;
    return (const uint16_t *)((const char *)m->data + token * m->strides[1] + g->stream % m->sizes[3] * m->strides[3]);
}

/* The cells that a token sees, of those of the window from `from` on. */
INLINE bool look(struct desk *own, const struct group *g, int token, int64_t from, int cells) {
    const uint16_t *mask = mask_of(g, g->token + token);
    uint64_t any = 0;
    for (int w = 0; w * 64 < cells; w++) {
        uint64_t bits = 0;
        for (int i = 0; i < 64 && 64 * w + i < cells; i += 16) {
            uint64_t sixteen = 0xffff;
            if (mask) {
                const __m256i m = _mm256_loadu_si256((const __m256i *)(mask + from + 64 * w + i));
                sixteen = _mm256_cmpneq_epi16_mask(m, _mm256_set1_epi16((short)HIDDEN));
            }
            bits |= sixteen << i;
        }
        any |= own->seen[token][w] = bits;
    }
    return any;
}

/* How many tokens from `token` on are computed together: each of a run sees what the one before sees and more, as those of a
 * prompt do. Sequences with a common beginning have runs of their own: joined, they would read it once, but what a token's
 * sums are rounded to would depend on who else is there. */
INLINE int run_of(const struct desk *own, int token, int tokens, const bool *sees, int words) {
    int end = token + 1;
    for (; end < tokens && sees[end]; end++) {
        uint64_t lost = 0;
        for (int w = 0; w < words; w++) lost |= own->seen[end - 1][w] & ~own->seen[end][w];
        if (lost) break;
    }
    return end - token;
}

/* How many of the window's cells a token sees. */
INLINE int cells_of(const struct desk *own, int token, int words) {
    int cells = 0;
    for (int w = 0; w < words; w++) cells += __builtin_popcountll(own->seen[token][w]);
    return cells;
}

/* To `list` the cells that a run sees, its last token that is, from `from` on, and the marks of its tokens in it. How many. */
INLINE int enlist(struct desk *own, uint32_t *list, int token, int tokens, int64_t from, int words) {
    const uint64_t *all = own->seen[token + tokens - 1];
    for (int t = token; t < token + tokens; t++) memset(own->marks[t], 0, (size_t)(words + 1) * sizeof **own->marks);
    const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int count = 0;
    for (int w = 0; w < words; w++) {
        if (!all[w]) continue;
        const int word = count / 64, place = count % 64;
        for (int t = token; t < token + tokens; t++) {
            const uint64_t bits = _pext_u64(own->seen[t][w], all[w]);
            own->marks[t][word] |= bits << place;
            if (place) own->marks[t][word + 1] |= bits >> (64 - place);
        }
        for (int i = 0; i < 64; i += 16) {
            const __mmask16 here = (__mmask16)(all[w] >> i);
            const __m512i cells = _mm512_add_epi32(_mm512_set1_epi32((int)(from + 64 * w + i)), places);
            _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(here, cells));
            count += __builtin_popcount(here);
        }
    }
    /* The rest of the last tile: unmarked, but read. */
    for (int i = 0; i < TILE; i++) list[count + i] = list[count - 1];
    return count;
}
