/* Packing of KV cells into AMX tiles of bf16. Keys are packed as they lie, values are transposed. */
#pragma once
#include "attention/mask_runs.h"

#if HAS_AMX
/* Numbers of bf16 in a tile. */
#define TILE_NUMBERS 512

/* 32 numbers as bf16. */
INLINE __m512i to_bf16(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
INLINE __m512i f16_to_bf16(__m512i h) {
    return to_bf16(_mm512_cvtph_ps(_mm512_castsi512_si256(h)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1)));
}

/* Keys of a step: a tile is 16 cells by 32 of head_dim. */
OUT_OF_LINE void pack_keys(int head_dim, uint16_t *to, const uint8_t *keys, size_t stride, const uint32_t *list,
                           const uint8_t *next_cells, const uint32_t *next) {
    for (int j = 0; j < STEP_CELLS; j += 4) {
        for (int i = 0; i < 4; i++) prefetch_l2(next_cells + next[j + i] * stride, 2 * head_dim);
        for (int s = 0; s < head_dim / 32; s++)
            for (int i = 0; i < 4; i++) {
                const uint8_t *from = keys + list[j + i] * stride + 64 * s;
                _mm512_store_si512(to + (j / 16 * (head_dim / 32) + s) * TILE_NUMBERS + (j % 16 + i) * 32,
                                   to_bf16(load_f16x16(from), load_f16x16(from + 32)));
            }
    }
}

/* Eight numbers of each of four cells. */
INLINE __m512i load_eight_x4(const uint8_t *values, size_t stride, const uint32_t *list) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(values + list[0] * stride)));
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[8] * stride)), 1);
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[16] * stride)), 2);
    return _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[24] * stride)), 3);
}

/* Values of a step, transposed: a tile is 16 of head_dim by 32 cells. */
OUT_OF_LINE void pack_values(int head_dim, uint16_t *to, const uint8_t *values, size_t stride, const uint32_t *list,
                             const uint8_t *next_cells, const uint32_t *next) {
    for (int d = 0; d < head_dim; d += 8) {
        for (int j = d * STEP_CELLS / head_dim; j < (d + 8) * STEP_CELLS / head_dim; j++)
            prefetch_l2(next_cells + next[j] * stride, 2 * head_dim);
        __m512i a[8], b[8];
        for (int i = 0; i < 8; i++) a[i] = load_eight_x4(values + 2 * d, stride, list + i);
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm512_unpacklo_epi16(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 1]);
        }
        for (int i = 0; i < 8; i += 4)
            for (int n = 0; n < 2; n++) {
                a[i + 2 * n] = _mm512_unpacklo_epi32(b[i + n], b[i + n + 2]);
                a[i + 2 * n + 1] = _mm512_unpackhi_epi32(b[i + n], b[i + n + 2]);
            }
        for (int i = 0; i < 4; i++) {
            _mm512_store_si512(to + d * 32 + 64 * i, f16_to_bf16(_mm512_unpacklo_epi64(a[i], a[i + 4])));
            _mm512_store_si512(to + d * 32 + 64 * i + 32, f16_to_bf16(_mm512_unpackhi_epi64(a[i], a[i + 4])));
        }
    }
}
#endif
