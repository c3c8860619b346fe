/* Tiles of products in AVX-512 VNNI on interleaved weights: 16 rows, one a lane, by up to eight columns. */
#pragma once
#include "columns.h"
#include "interleaved.h"

/* Where weights come from. In the last cache they are asked for 10 KB ahead, into the first one: a step of one stream takes
 * 2.4 ms so, 2.7 with 2,560 bytes, 3.3 with none. In memory 3 KB ahead, into the second: a step of 2.4 GB takes 73 to 75 ms so, 78
 * to 80 with 2 KB, 77 with 4 KB, 80 with 10 KB, and 95 into the first (2 cores of a Sapphire Rapids). Which of the two is known
 * when the code is compiled: 1.03 at one stream. */
enum source { CACHE, MEMORY };

INLINE void ask_ahead(enum source from, const uint8_t *weights) {
    if (from == CACHE) _mm_prefetch((const char *)weights + 10240, _MM_HINT_T0);
    else _mm_prefetch((const char *)weights + 3072, _MM_HINT_T1);
}

/* Four products a lane with the same four numbers from memory, and two of 16 bits. The operand is spelt out: gcc 12 makes two instructions. */
INLINE __m512i times_four(__m512i sums, __m512i weights, const uint8_t *four) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t *)four));
    return sums;
}

INLINE __m512i times_two(__m512i sums, __m512i weights, const uint8_t *two) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t *)two));
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
INLINE void interleaved_tile(struct format f, enum source from, int columns, int64_t k, const uint8_t *group, const uint8_t *y,
                             float *c, int64_t ldc) {
    __m512 a[TILE_COLUMNS];
    for (int j = 0; j < columns; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++, group += group_bytes(f), y += columns * COLUMN_BYTES) {
        for (int line = 0; line < group_bytes(f); line += 64) ask_ahead(from, group + line);
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

/* ---- Super-blocks of 256 weights ---------------------------------------------------------------------------------- */

/* Weights 32 n to 32 n + 31 of a group's rows, unsigned. */
INLINE void unpack_super(int type, const uint8_t *group, int n, __m512i *q) {
    const __m512i four = _mm512_set1_epi8(15);
    const uint8_t *p = group + SUPER_HEAD + (type == Q4_K ? 512 * (n / 2) : 1536 * (n / 4));
    for (int c = 0; c < 8; c++) {
        if (type == Q4_K) {
            const __m512i v = _mm512_loadu_si512(p + 64 * c);
            q[c] = _mm512_and_si512(n % 2 ? _mm512_srli_epi16(v, 4) : v, four);
            continue;
        }
        const __m512i low = _mm512_loadu_si512(p + 512 + 512 * (n % 2) + 64 * c), high = _mm512_loadu_si512(p + 64 * c);
        const __m512i v = n % 4 < 2 ? low : _mm512_srli_epi16(low, 4);
        const __m512i h = n % 4 == 0   ? _mm512_slli_epi16(high, 4)
                          : n % 4 == 1 ? _mm512_slli_epi16(high, 2)
                          : n % 4 == 2 ? high
                                       : _mm512_srli_epi16(high, 2);
        q[c] = _mm512_or_si512(_mm512_and_si512(v, four), _mm512_and_si512(h, _mm512_set1_epi8(48)));
    }
}

INLINE __m512 scales_of(const uint8_t *sixteen, bool with_sign) {
    const __m128i v = _mm_loadu_si128((const __m128i *)sixteen);
    return _mm512_cvtepi32_ps(with_sign ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v));
}

/* As interleaved_tile, by k super-blocks. Sums are exact within a scale's weights (32 or 16). */
INLINE void interleaved_super_tile(int type, enum source from, int columns, int64_t k, const uint8_t *group, const uint8_t *y,
                                   float *c, int64_t ldc) {
    const int64_t part_size = part_bytes(type, columns);
    __m512 a[TILE_COLUMNS];
    for (int j = 0; j < columns; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++, group += super_bytes(type)) {
        __m512 part[TILE_COLUMNS];
        for (int j = 0; j < columns; j++) part[j] = _mm512_setzero_ps();
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; quarter++, y += part_size) {
                const int n = 4 * half + quarter, lines = (int)super_bytes(type) / 64;
                for (int line = lines * n / 8; line < lines * (n + 1) / 8; line++)
                    ask_ahead(from, group + 64 * line);
                __m512i q[8];
                unpack_super(type, group, n, q);
                if (type == Q4_K) {
                    const __m512 scale = scales_of(group + 64 + 16 * n, false);
                    for (int j = 0; j < columns; j++) {
                        __m512i s = _mm512_setzero_si512();
                        for (int v = 0; v < 8; v++) s = times_four(s, q[v], y + 32 * j + 4 * v);
                        part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, part[j]);
                    }
                    continue;
                }
                const __m512 first = scales_of(group + 64 + 32 * n, true), second = scales_of(group + 80 + 32 * n, true);
                for (int j = 0; j < columns; j++) {
                    const uint8_t *less = y + 32 * columns + 8 * j;
                    __m512i s = _mm512_castps_si512(all(less)), t = _mm512_castps_si512(all(less + 4));
                    for (int v = 0; v < 4; v++) s = times_four(s, q[v], y + 32 * j + 4 * v);
                    for (int v = 4; v < 8; v++) t = times_four(t, q[v], y + 32 * j + 4 * v);
                    part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), first, part[j]);
                    part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), second, part[j]);
                }
            }
        }
        const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)group));
        for (int j = 0; j < columns; j++) a[j] = _mm512_fmadd_ps(part[j], _mm512_mul_ps(d, all(y + 4 * j)), a[j]);
        if (type == Q4_K) {
            const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(group + 32)));
            __m512i minima[4];
            for (int v = 0; v < 4; v++) minima[v] = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(group + 192 + 32 * v)));
            for (int j = 0; j < columns; j++) {
                __m512i s = _mm512_setzero_si512();
                for (int v = 0; v < 4; v++) s = times_two(s, minima[v], y + 4 * columns + 16 * j + 4 * v);
                a[j] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(m, all(y + 4 * j)), a[j]);
            }
        }
        y += (type == Q4_K ? 20 : 4) * columns;
    }
    for (int j = 0; j < columns; j++) _mm512_storeu_ps(c + j * ldc, a[j]);
}
