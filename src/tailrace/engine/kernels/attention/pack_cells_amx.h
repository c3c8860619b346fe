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

/* Numbers 32 s to 32 s + 31 of a cell. */
INLINE __m512i cell_as_bf16(enum cache_type type, const uint8_t *cell, int s) {
    if (type == CACHE_F16) return to_bf16(load_f16x16(cell + 64 * s), load_f16x16(cell + 64 * s + 32));
    if (type == CACHE_BF16) return _mm512_loadu_si512(cell + 64 * s);
    const uint8_t *block = cell + cache_bytes(type, QUANT_BLOCK) * s;
    __m128i first = _mm_loadu_si128((const __m128i *)(block + 2)), second;
    if (type == CACHE_Q4_0) {
        const __m128i nibbles = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
        second = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(first, 4), nibbles), eight);
        first = _mm_sub_epi8(_mm_and_si128(first, nibbles), eight);
    } else {
        second = _mm_loadu_si128((const __m128i *)(block + 18));
    }
    const __m512 scale = nan_unless_finite(_mm512_set1_ps(load_f16(block)));
    return to_bf16(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first)), scale),
                   _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(second)), scale));
}

/* Keys of a step: a tile is 16 cells by 32 of head_dim. */
INLINE void pack_keys_of(enum cache_type type, int head_dim, uint16_t *to, const uint8_t *keys, size_t stride,
                         const uint32_t *list, const uint8_t *next_cells, const uint32_t *next) {
    for (int j = 0; j < STEP_CELLS; j += 4) {
        for (int i = 0; i < 4; i++) prefetch_l2(next_cells + next[j + i] * stride, cache_bytes(type, head_dim));
        for (int s = 0; s < head_dim / 32; s++)
            for (int i = 0; i < 4; i++)
                _mm512_store_si512(to + (j / 16 * (head_dim / 32) + s) * TILE_NUMBERS + (j % 16 + i) * 32,
                                   cell_as_bf16(type, keys + list[j + i] * stride, s));
    }
}

/* Eight 16-bit numbers of each of four cells. */
INLINE __m512i load_eight_x4(const uint8_t *values, size_t stride, const uint32_t *list) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(values + list[0] * stride)));
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[8] * stride)), 1);
    v = _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[16] * stride)), 2);
    return _mm512_inserti64x2(v, _mm_loadu_si128((const __m128i *)(values + list[24] * stride)), 3);
}

/* Numbers d to d + 7 of a step's values, which are F16 or BF16, transposed. */
INLINE void transpose_eight(bool f16, uint16_t *to, const uint8_t *values, size_t stride, const uint32_t *list, int d) {
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
        const __m512i low = _mm512_unpacklo_epi64(a[i], a[i + 4]), high = _mm512_unpackhi_epi64(a[i], a[i + 4]);
        _mm512_store_si512(to + d * 32 + 64 * i, f16 ? f16_to_bf16(low) : low);
        _mm512_store_si512(to + d * 32 + 64 * i + 32, f16 ? f16_to_bf16(high) : high);
    }
}

/* Values of a step, transposed: a tile is 16 of head_dim by 32 cells. Quantised ones are converted first. */
INLINE void pack_values_of(enum cache_type type, int head_dim, uint16_t *to, const uint8_t *values, size_t stride,
                           const uint32_t *list, const uint8_t *next_cells, const uint32_t *next) {
    static const uint32_t in_order[STEP_CELLS] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    uint8_t converted[STEP_CELLS * 2 * MAX_AMX_HEAD_DIM] __attribute__((aligned(64)));
    const int bytes = cache_bytes(type, head_dim);
    if (is_quantised(type)) {
        for (int j = 0; j < STEP_CELLS; j++) {
            prefetch_l2(next_cells + next[j] * stride, bytes);
            for (int s = 0; s < head_dim / 32; s++)
                _mm512_store_si512(converted + 2 * head_dim * j + 64 * s,
                                   cell_as_bf16(type, values + list[j] * stride, s));
        }
        for (int d = 0; d < head_dim; d += 8) transpose_eight(false, to, converted, 2 * (size_t)head_dim, in_order, d);
        return;
    }
    for (int d = 0; d < head_dim; d += 8) {
        for (int j = d * STEP_CELLS / head_dim; j < (d + 8) * STEP_CELLS / head_dim; j++)
            prefetch_l2(next_cells + next[j] * stride, bytes);
        transpose_eight(type == CACHE_F16, to, values, stride, list, d);
    }
}

/* The same for each type. */
#define PACK_CELLS(what)                                                                                               \
    OUT_OF_LINE void pack_##what(enum cache_type type, int head_dim, uint16_t *to, const uint8_t *cells,               \
                                 size_t stride, const uint32_t *list, const uint8_t *next_cells,                       \
                                 const uint32_t *next) {                                                               \
        switch (type) {                                                                                                \
            case CACHE_F16: pack_##what##_of(CACHE_F16, head_dim, to, cells, stride, list, next_cells, next); break;   \
            case CACHE_BF16: pack_##what##_of(CACHE_BF16, head_dim, to, cells, stride, list, next_cells, next); break; \
            case CACHE_Q8_0: pack_##what##_of(CACHE_Q8_0, head_dim, to, cells, stride, list, next_cells, next); break; \
            case CACHE_Q4_0: pack_##what##_of(CACHE_Q4_0, head_dim, to, cells, stride, list, next_cells, next); break; \
            case TILE_F32: break; /* no cache has it */                                                                \
        }                                                                                                              \
    }
PACK_CELLS(keys)
PACK_CELLS(values)
#endif
