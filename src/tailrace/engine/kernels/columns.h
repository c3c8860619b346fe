/* Columns made ready for products with interleaved weights: rounded to 8 bits, up to eight side by side. */
#pragma once
#include "formats.h"

enum { TILE_COLUMNS = 8, COLUMN_BYTES = 40 };

/* So many columns at a time (TILE_COLUMNS, at last what is left): of each block of 32 numbers every column's quants, then
 * all their scales, then all their sums: times the scale (formats with minima), or times the offset, an integer that sums
 * of products begin with. What is read one after the other lies so, and close enough for short instructions. */
INLINE int64_t scales_at(int columns) { return 32 * columns; }
INLINE int64_t sums_at(int columns) { return 36 * columns; }

/* Column j of a block, of 32 numbers: as llama.cpp makes Q8_0 and Q8_1 of them, to the last bit. */
INLINE void quantise(struct format f, const float *x, uint8_t *block, int columns, int j) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
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
