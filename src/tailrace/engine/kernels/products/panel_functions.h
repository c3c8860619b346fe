/* The panel functions of each format, from the tiles of this tier. They take a compiler the longest of all code, so each
 * kind of formats has a C file, and the files are compiled side by side. */
#pragma once
#include "products/panels.h"
#include "products/repacked_floats.h"
#include "products/repacked_tiles.h"

INLINE int64_t act_bytes(enum format format) {
    return has_floats(format) ? FLOAT_ACT_BYTES : is_super_block(format) ? super_act_bytes(format) : BLOCK_ACT_BYTES;
}

INLINE void quantise_blocks(enum format format, const float *x, int64_t begin, int64_t end, uint8_t *tile, int n_tokens,
                            int j) {
    for (int64_t i = begin; i < end; i++) {
        uint8_t *block = tile + i * n_tokens * act_bytes(format);
        if (has_floats(format)) round_block(format, x + 32 * i, block, j);
        else if (is_super_block(format)) quantise_super_block(format, x + 256 * i, block, n_tokens, j);
        else quantise_block(format, x + 32 * i, block, n_tokens, j);
    }
}

INLINE void compute_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                         const uint8_t *panel, const uint8_t *activations, float *out, int64_t out_stride) {
    if (has_floats(format)) repacked_float_tile(format, from, n_tokens, n_blocks, panel, activations, out, out_stride);
    else if (is_super_block(format))
        repacked_super_tile(format, from, n_tokens, n_blocks, panel, activations, out, out_stride);
    else repacked_block_tile(format, from, n_tokens, n_blocks, panel, activations, out, out_stride);
}

INLINE void compute_panel(enum format format, enum weights_from from, int64_t n_blocks, const uint8_t *panel,
                          const uint8_t *activations, int64_t n_tokens, float *out, int64_t out_stride) {
    const int64_t bytes = act_bytes(format);
    for (; n_tokens > 0;
         n_tokens -= TILE_TOKENS, activations += TILE_TOKENS * n_blocks * bytes, out += TILE_TOKENS * out_stride) {
        /* A number of tokens that is a constant for the compiler keeps sums in registers. */
#define TILE(N)                                                                                                        \
    case N: compute_tile(format, from, N, n_blocks, panel, activations, out, out_stride); break;
        const int tile_tokens = n_tokens < TILE_TOKENS ? (int)n_tokens : TILE_TOKENS;
        switch (tile_tokens) {
            CONSTANT_TOKENS(TILE)
            default:
                compute_tile(format, from, OTHER_TOKENS(tile_tokens), n_blocks, panel, activations, out, out_stride);
        }
#undef TILE
    }
}

/* Whether AMD's CPUs multiply so many tokens faster where weights from memory are not prefetched. A core of a Zen 4 reads
 * Q4_0 at 31 GB/s then (20 with it) at one token, and at 8.5 (10.3) at eight. docs/kernels.md has other formats. */
INLINE bool is_faster_unprefetched(enum format format, int64_t n_tokens) {
    return n_tokens <= 4 && (format == Q4_K || (!is_super_block(format) && !has_floats(format)));
}

#define PANEL_FUNCTION(name, from)                                                                                     \
    static void panel_##name##_##from(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations,              \
                                      int64_t n_tokens, float *out, int64_t out_stride) {                              \
        panel_##name(from, n_blocks, panel, activations, n_tokens, out, out_stride);                                   \
    }
#define UNPREFETCHED_FUNCTION(name)                                                                                    \
    static void panel_##name##_UNPREFETCHED_MEMORY(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations, \
                                                   int64_t n_tokens, float *out, int64_t out_stride) {                 \
        if (is_faster_unprefetched(name, n_tokens))                                                                    \
            panel_##name(UNPREFETCHED_MEMORY, n_blocks, panel, activations, n_tokens, out, out_stride);                \
        else panel_##name##_MEMORY(n_blocks, panel, activations, n_tokens, out, out_stride);                           \
    }
#define PANEL_FUNCTIONS(name, ...)                                                                                     \
    PANEL_CODE void panel_##name(enum weights_from from, int64_t n_blocks, const uint8_t *panel,                       \
                                 const uint8_t *activations, int64_t n_tokens, float *out, int64_t out_stride) {       \
        compute_panel(name, from, n_blocks, panel, activations, n_tokens, out, out_stride);                            \
    }                                                                                                                  \
    static void quantise_##name(const float *x, int64_t begin, int64_t end, uint8_t *tile, int n_tokens, int j) {      \
        quantise_blocks(name, x, begin, end, tile, n_tokens, j);                                                       \
    }                                                                                                                  \
    PANEL_FUNCTION(name, CACHE)                                                                                        \
    PANEL_FUNCTION(name, MEMORY)                                                                                       \
    UNPREFETCHED_FUNCTION(name)                                                                                        \
    const struct panel_functions functions_##name = {                                                                  \
        quantise_##name, {panel_##name##_CACHE, panel_##name##_MEMORY, panel_##name##_UNPREFETCHED_MEMORY}};
