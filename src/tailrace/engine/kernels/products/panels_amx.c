/* Panels in AMX tiles: see panels_amx.h.
 *
 * Upstream multiplies bytes in tiles, which have to be scaled every 32 numbers outside of the tiles. That takes longer
 * than the products. Here weights are converted to bf16 with their scales applied, 32 rows at a time. Activations are
 * converted to bf16, too, which is more exact than 8 bits and a scale for 32 numbers. Then a sum stays in its tile for
 * up to 640 numbers, in single precision. */
#include "products/panels_amx.h"

#include <string.h>

#if HAS_AMX
#include "products/weight_tiles_amx.h"

/* Bypass the first-level cache, which holds the panel: 4.5 ns a product of two tiles instead of 5.9. */
#define TILE_STREAM(tile, from)                                                                                        \
    __asm__ volatile("tileloaddt1\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"(64L) : "memory")

static _Thread_local struct tile_memory tile_memory;

struct tile_memory *thread_tile_memory(void) {
    return &tile_memory;
}

/* The block that a part begins with. */
INLINE int64_t part_begin(int64_t n_blocks, int64_t n_parts, int64_t part) { return n_blocks * part / n_parts; }

void pack_token(const float *x, int64_t token, int64_t n_groups, int64_t n_blocks, uint8_t *tiles) {
    const int64_t n_parts = n_row_parts(n_blocks);
    for (int64_t part = 0; part < n_parts; part++) {
        const int64_t first = part_begin(n_blocks, n_parts, part), till = part_begin(n_blocks, n_parts, part + 1);
        uint8_t *to =
            tiles + (first * n_groups + token / TILE_SIDE * (till - first)) * TILE_BYTES + token % TILE_SIDE * 64;
        for (int64_t i = first; i < till; i++, to += TILE_BYTES) {
            __m512i pair = _mm512_setzero_si512();
            if (x) pair = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 32 * i + 16), _mm512_loadu_ps(x + 32 * i));
            _mm512_store_si512(to, pair);
        }
    }
}

/* Where up to four tiles of sums go: floats from a token to the next, to the tile of the next rows, and to that of the
 * next tokens. */
struct destination {
    float *data;
    int64_t token, rows, tokens;
};

/* One or two times 16 tokens by one or two times 16 rows, added to the tiles `before` (0: to nothing). */
INLINE void multiply_tiles(int tokens, int rows, int64_t n_blocks, const uint8_t *a, const uint8_t *b,
                           const float *before, struct destination to) {
    const int64_t next = n_blocks * TILE_BYTES, stride = to.token * (int64_t)sizeof(float);
    if (before) {
        TILE_LOAD(0, before, 64);
        if (rows > 1) TILE_LOAD(1, before + TILE_SUMS, 64);
        if (tokens > 1) TILE_LOAD(2, before + 2 * TILE_SUMS, 64);
        if (tokens > 1 && rows > 1) TILE_LOAD(3, before + 3 * TILE_SUMS, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < n_blocks; i++, a += TILE_BYTES, b += TILE_BYTES) {
        TILE_STREAM(4, a);
        TILE_LOAD(6, b, 64);
        /* The result's lines are prefetched while the tiles are computed: 15 ms of 150. */
        if (i < TILE_SIDE)
            for (int c = 0; c < tokens; c++)
                for (int r = 0; r < rows; r++)
                    __builtin_prefetch(to.data + c * to.tokens + i * to.token + r * to.rows, 1);
        if (rows > 1) TILE_LOAD(7, b + next, 64);
        if (tokens > 1) TILE_STREAM(5, a + next);
        _tile_dpbf16ps(0, 4, 6);
        if (rows > 1) _tile_dpbf16ps(1, 4, 7);
        if (tokens > 1) _tile_dpbf16ps(2, 5, 6);
        if (tokens > 1 && rows > 1) _tile_dpbf16ps(3, 5, 7);
    }
    TILE_STORE(0, to.data, stride);
    if (rows > 1) TILE_STORE(1, to.data + to.rows, stride);
    if (tokens > 1) TILE_STORE(2, to.data + to.tokens, stride);
    if (tokens > 1 && rows > 1) TILE_STORE(3, to.data + to.tokens + to.rows, stride);
}

void multiply_tile_panel(const struct tile_product *p, int64_t row, int64_t n_rows, int64_t part, int64_t begin,
                         int64_t end, float *out, int64_t out_stride, float *sums) {
    const int64_t first = part_begin(p->n_blocks, p->n_parts, part);
    const int64_t n_blocks = part_begin(p->n_blocks, p->n_parts, part + 1) - first;
    const int rows = n_rows > TILE_SIDE ? 2 : 1;
    uint8_t *panel = p->memory->panel;
    float *rest = p->memory->rest;
    unpack_rows(p->weights, row, rows, first, n_blocks, panel);
    for (int64_t j = begin; j < end; j += TILE_PANEL, sums += 4 * TILE_SUMS, out += TILE_PANEL * out_stride) {
        const int64_t left = p->n_tokens - j < TILE_PANEL ? p->n_tokens - j : TILE_PANEL;
        const uint8_t *a = p->activations + (first * p->n_groups + j / TILE_SIDE * n_blocks) * TILE_BYTES;
        const int tokens = left > TILE_SIDE ? 2 : 1;
        const bool last = part + 1 == p->n_parts;
        const bool fits = left == tokens * TILE_SIDE && n_rows == rows * TILE_SIDE;
        struct destination to = {sums, TILE_SIDE, TILE_SUMS, 2 * TILE_SUMS};
        if (last && fits) to = (struct destination){out, out_stride, TILE_SIDE, TILE_SIDE * out_stride};
        else if (last) to = (struct destination){rest, TILE_PANEL, TILE_SIDE, TILE_SIDE * TILE_PANEL};
        const float *before = part ? sums : 0;
        if (tokens == 2 && rows == 2) multiply_tiles(2, 2, n_blocks, a, panel, before, to);
        else if (tokens == 2) multiply_tiles(2, 1, n_blocks, a, panel, before, to);
        else if (rows == 2) multiply_tiles(1, 2, n_blocks, a, panel, before, to);
        else multiply_tiles(1, 1, n_blocks, a, panel, before, to);
        if (last && !fits)
            for (int64_t i = 0; i < left; i++)
                memcpy(out + i * out_stride, rest + i * TILE_PANEL, (size_t)n_rows * sizeof(float));
    }
}
#endif
