/* Products of repacked BF16 in the instruction that multiplies pairs of bf16. AVX-512 VNNI doesn't include it, so the
 * functions are compiled for it beside the tier's flags, and panels.c chooses them where the CPU has it.
 *
 * Activations are pairs of bf16. Even and odd pairs have sums of their own, as in repacked_floats.h. */
#pragma once
#include "products/repacked_floats.h"

#if HAS_AVX512
#define WITH_DOTS __attribute__((target("avx512bf16")))

/* Blocks `begin` to `end` of token j's numbers, rounded. A token's pairs fill the first half of its place. */
static void round_to_pairs(const float *x, int64_t begin, int64_t end, uint8_t *tile, int n_tokens, int j) {
    for (int64_t i = begin; i < end; i++) {
        uint8_t *to = tile + (i * n_tokens + j) * FLOAT_ACT_BYTES;
        for (int n = 0; n < 32; n += 8) {
            const __m256i bits = _mm256_castps_si256(round_floats_x8(BF16, x + 32 * i + n));
            _mm_storeu_si128((__m128i *)(to + 2 * n), _mm256_cvtepi32_epi16(_mm256_srli_epi32(bits, 16)));
        }
    }
}

INLINE __m512bh broadcast_pair(const uint8_t *p) { return (__m512bh)_mm512_set1_epi32((int)load_u32(p)); }

/* out[j * out_stride + r]: 16 rows by up to eight tokens. A token's results don't depend on how many tokens there are. */
INLINE WITH_DOTS void dots_tile(enum weights_from from, int n_tokens, int64_t n_blocks, const uint8_t *group,
                                const uint8_t *activations, float *out, int64_t out_stride) {
    __m512 sums[TILE_TOKENS][2];
    for (int j = 0; j < n_tokens; j++) sums[j][0] = sums[j][1] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += 1024, activations += n_tokens * FLOAT_ACT_BYTES) {
#pragma GCC unroll 8
        for (int pair = 0; pair < 16; pair += 2) {
            prefetch_floats(from, n_tokens, group + 64 * pair);
            prefetch_floats(from, n_tokens, group + 64 * pair + 64);
            const __m512bh even = (__m512bh)_mm512_loadu_si512(group + 64 * pair);
            const __m512bh odd = (__m512bh)_mm512_loadu_si512(group + 64 * pair + 64);
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *x = activations + FLOAT_ACT_BYTES * j + 4 * pair;
                sums[j][0] = _mm512_dpbf16_ps(sums[j][0], even, broadcast_pair(x));
                sums[j][1] = _mm512_dpbf16_ps(sums[j][1], odd, broadcast_pair(x + 4));
            }
        }
    }
    for (int j = 0; j < n_tokens; j++) _mm512_storeu_ps(out + j * out_stride, _mm512_add_ps(sums[j][0], sums[j][1]));
}

INLINE WITH_DOTS void dots_panel(enum weights_from from, int64_t n_blocks, const uint8_t *panel,
                                 const uint8_t *activations, int64_t n_tokens, float *out, int64_t out_stride) {
    const int64_t tile_bytes = TILE_TOKENS * n_blocks * FLOAT_ACT_BYTES;
    for (; n_tokens > 0; n_tokens -= TILE_TOKENS, activations += tile_bytes, out += TILE_TOKENS * out_stride) {
#define TILE(N)                                                                                                        \
    case N: dots_tile(from, N, n_blocks, panel, activations, out, out_stride); break;
        switch (n_tokens) {
            CONSTANT_TOKENS(TILE)
            default: dots_tile(from, TILE_TOKENS, n_blocks, panel, activations, out, out_stride);
        }
#undef TILE
    }
}

#define DOTS_PANEL(from)                                                                                               \
    static WITH_DOTS void dots_panel_##from(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations,        \
                                            int64_t n_tokens, float *out, int64_t out_stride) {                        \
        dots_panel(from, n_blocks, panel, activations, n_tokens, out, out_stride);                                     \
    }
DOTS_PANEL(CACHE)
DOTS_PANEL(MEMORY)
#undef DOTS_PANEL
#endif
