/* Scales and minima of weights in file order, unpacked for both x86 tiers. */
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

/* Eight 6-bit numbers of Q4_K or Q5_K, as bytes: the scales, or the minima. */
INLINE __m128i six_bit_bytes(uint32_t a, uint32_t c) {
    return _mm_set_epi32(0, 0, (int)((c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)), (int)(a & 0x3f3f3f3f));
}
INLINE __m128i six_bit_scales(const uint8_t *block) { return six_bit_bytes(load_u32(block + 4), load_u32(block + 12)); }
INLINE __m128i six_bit_mins(const uint8_t *block) {
    return six_bit_bytes(load_u32(block + 8), load_u32(block + 12) >> 4);
}

/* The 16 scales of Q3_K, as signed bytes. */
INLINE __m128i q3_k_scale_bytes(const uint8_t *block) {
    const uint8_t *packed = block + offsetof(block_q3_K, scales);
    const __m128i bytes = _mm_setr_epi32((int)q3_k_scales(packed, 0), (int)q3_k_scales(packed, 1),
                                         (int)q3_k_scales(packed, 2), (int)q3_k_scales(packed, 3));
    return _mm_sub_epi8(bytes, _mm_set1_epi8(32));
}

/* The eight scales of IQ4_XS. */
INLINE __m256i iq4_xs_scales(const uint8_t *block) {
    const __m128i l = _mm_cvtsi32_si128((int)load_u32(block + offsetof(block_iq4_xs, scales_l)));
    const __m128i bytes = _mm_unpacklo_epi8(l, _mm_srli_epi16(l, 4));
    const __m256i low = _mm256_and_si256(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(15));
    const __m256i h = _mm256_set1_epi32((int)load_f16_bits(block + offsetof(block_iq4_xs, scales_h)));
    const __m256i two = _mm256_srlv_epi32(h, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i high = _mm256_slli_epi32(_mm256_and_si256(two, _mm256_set1_epi32(3)), 4);
    return _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
}
