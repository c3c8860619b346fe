/* Tiles of products in AVX-512 VNNI on interleaved weights: 16 rows, one a lane, by up to eight columns. */
#pragma once
#include "columns.h"
#include "interleaved.h"

#define AHEAD_GROUPS 10240 /* bytes; a step of one stream takes 2.4 ms with it, 2.7 with 2560, 3.3 with none */

/* Four products a lane with the same four numbers from memory. The operand is spelt out: gcc 12 makes two instructions. */
INLINE __m512i times_four(__m512i sums, __m512i weights, const uint8_t *four) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t *)four));
    return sums;
}

INLINE __m512 all(const uint8_t *p) {
    float v;
    memcpy(&v, p, 4);
    return _mm512_set1_ps(v);
}

/* The group's quants, unsigned: vector c is weights 4 c to 4 c + 3 of every row's block. */
INLINE void unpack(struct format f, const uint8_t *group, __m512i *q) {
    for (int c = 0; c < 8; c++) {
        const uint8_t *p = group + group_head(f);
        if (f.type == Q8_0) {
            q[c] = _mm512_loadu_si512(p + 64 * c);
            continue;
        }
        const __m512i v = _mm512_loadu_si512(p + 64 * (c % 4));
        q[c] = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
    }
}

/* c[j * ldc + r]: 16 rows by up to eight columns, k blocks each. Sums are exact within a block; blocks are added in their
 * order in single precision, so that a column's numbers don't depend on how many there are. */
INLINE void interleaved_tile(struct format f, int columns, int64_t k, const uint8_t *group, const uint8_t *y, float *c,
                             int64_t ldc) {
    __m512 a[TILE_COLUMNS];
    for (int j = 0; j < columns; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++, group += group_bytes(f), y += columns * COLUMN_BYTES) {
        for (int line = 0; line < group_bytes(f); line += 64) _mm_prefetch((const char *)group + AHEAD_GROUPS + line, _MM_HINT_T0);
        __m512i q[8];
        unpack(f, group, q);
        const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)group));
        const __m512 m = f.minimum ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(group + 32))) : d;
        for (int j = 0; j < columns; j++) {
            const uint8_t *sum = y + sums_at(columns) + 4 * j;
            __m512i s = f.minimum ? _mm512_setzero_si512() : _mm512_castps_si512(all(sum));
            for (int n = 0; n < 8; n++) s = times_four(s, q[n], y + 32 * j + 4 * n);
            const __m512 scale = _mm512_mul_ps(d, all(y + scales_at(columns) + 4 * j));
            a[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, a[j]);
            if (f.minimum) a[j] = _mm512_fmadd_ps(m, all(sum), a[j]);
        }
    }
    for (int j = 0; j < columns; j++) _mm512_storeu_ps(c + j * ldc, a[j]);
}
