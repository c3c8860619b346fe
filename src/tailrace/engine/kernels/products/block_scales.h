/* Scales of blocks of 32 weights in file order. */
#pragma once
#include "formats.h"

/* The scales of the same block of four rows. */
INLINE __m128 load_four_scales(enum format format, const uint8_t *const row[4], int64_t o) {
    if (traits_of(format).scale_bytes == 1) {
        const __m128i e = _mm_set_epi32(row[3][o], row[2][o], row[1][o], row[0][o]);
        const __m128i normal = _mm_slli_epi32(_mm_sub_epi32(e, _mm_set1_epi32(1)), 23);
        /* Exponents of 0 and 1 are subnormal numbers. */
        const __m128i small = _mm_sllv_epi32(_mm_set1_epi32(0x00200000), e);
        return _mm_castsi128_ps(_mm_blendv_epi8(normal, small, _mm_cmplt_epi32(e, _mm_set1_epi32(2))));
    }
    const uint64_t halves = load_f16_bits(row[0] + o) | load_f16_bits(row[1] + o) << 16 |
                            load_f16_bits(row[2] + o) << 32 | load_f16_bits(row[3] + o) << 48;
    return _mm_cvtph_ps(_mm_cvtsi64_si128((int64_t)halves));
}
