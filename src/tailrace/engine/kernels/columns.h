/* Columns made ready for products with interleaved weights: rounded to 8 bits, up to eight side by side. */
#pragma once
#include <math.h>

#include "formats.h"

enum { TILE_COLUMNS = 8, COLUMN_BYTES = 40 };

/* So many columns at a time (TILE_COLUMNS, at last what is left): of each block of 32 numbers every column's quants, then
 * all their scales, then all their sums: times the scale (formats with minima), or times the offset, an integer that sums
 * of products begin with. What is read one after the other lies so, and close enough for short instructions. */
INLINE int64_t scales_at(int columns) { return 32 * columns; }
INLINE int64_t sums_at(int columns) { return 36 * columns; }

/* The maximum of 16 lanes; NaN unless all lanes are `ordered`. Max drops a NaN and rounding to 8 bits makes a number of it, so a
 * block with damage gets a scale that is NaN. */
INLINE float greatest_of(__m512 most, __mmask16 ordered) { return ordered == 0xffff ? _mm512_reduce_max_ps(most) : NAN; }
INLINE __mmask16 ordered_with(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_ORD_Q); }

/* Column j of a block, of 32 numbers: as llama.cpp makes Q8_0 and Q8_1 of them, to the last bit. */
INLINE void quantise(struct format f, const float *x, uint8_t *block, int columns, int j) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const float most = greatest_of(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)), ordered_with(a, b));
    const float scale = most / 127, times = most != 0 ? 127 / most : 0;
    const __m512i m = _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(times)));
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(times)));
    _mm_storeu_si128((__m128i *)(block + 32 * j), _mm512_cvtsepi32_epi8(m));
    _mm_storeu_si128((__m128i *)(block + 32 * j + 16), _mm512_cvtsepi32_epi8(n));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(m, n)), less = -f.offset * sum;
    const float kept[2] = {_cvtsh_ss(_cvtss_sh(scale, 0)), _cvtsh_ss(_cvtss_sh(scale * (float)sum, 0))};
    memcpy(block + scales_at(columns) + 4 * j, kept, 4);
    memcpy(block + sums_at(columns) + 4 * j, f.minimum ? (const void *)(kept + 1) : (const void *)&less, 4);
}

/* ---- Super-blocks ------------------------------------------------------------------------------------------------- */

/* So many columns at a time again: of each 32 numbers every column's quants, then, for Q6_K, all their two sums of 16 times
 * the offset; after eight of these all columns' scales, then, for Q4_K, their four pairs of 16-bit sums of 32. */
INLINE int64_t part_bytes(int type, int columns) { return (type == Q6_K ? 40 : 32) * columns; }
INLINE int64_t column_bytes_k(int type) { return type == Q6_K ? 8 * 40 + 4 : 8 * 32 + 4 + 16; }

/* Column j of a super-block, of 256 numbers: as llama.cpp makes Q8_K of them, but for signs that cancel out. */
INLINE void quantise_k(int type, const float *x, uint8_t *block, int columns, int j) {
    __m512 most = _mm512_setzero_ps();
    __mmask16 ordered = 0xffff;
    for (int n = 0; n < 16; n++) {
        const __m512 a = _mm512_loadu_ps(x + 16 * n);
        most = _mm512_max_ps(most, _mm512_abs_ps(a));
        ordered &= ordered_with(a, a);
    }
    const float largest = greatest_of(most, ordered), times = largest != 0 ? 127 / largest : 0;
    const float scale = largest != 0 ? 1 / times : 0;
    int16_t sums[8];
    for (int n = 0; n < 8; n++) {
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * n), _mm512_set1_ps(times)));
        const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * n + 16), _mm512_set1_ps(times)));
        uint8_t *part = block + n * part_bytes(type, columns);
        _mm_storeu_si128((__m128i *)(part + 32 * j), _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(part + 32 * j + 16), _mm512_cvtsepi32_epi8(b));
        if (type == Q6_K) {
            const int32_t less[2] = {-32 * _mm512_reduce_add_epi32(a), -32 * _mm512_reduce_add_epi32(b)};
            memcpy(part + 32 * columns + 8 * j, less, 8);
        } else {
            sums[n] = (int16_t)_mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
        }
    }
    uint8_t *end = block + 8 * part_bytes(type, columns);
    memcpy(end + 4 * j, &scale, 4);
    if (type == Q4_K) memcpy(end + 4 * columns + 16 * j, sums, 16);
}
