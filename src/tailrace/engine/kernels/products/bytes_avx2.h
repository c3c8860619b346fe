/* Numbers as signed bytes, in AVX2: what quantising activations needs. */
#pragma once
#include "simd.h"

typedef __m256i bytes32;
INLINE void store_bytes(uint8_t *p, bytes32 bytes) { _mm256_storeu_si256((__m256i *)p, bytes); }

/* The sums of the first 16 of 32 signed bytes, and of the others. */
INLINE void sums_of_bytes(bytes32 bytes, int32_t sums[2]) {
    __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    sums[0] = _mm256_cvtsi256_si32(s);
    sums[1] = _mm256_extract_epi32(s, 4);
}

INLINE __m256i round_x8(const float *x, float times) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(times)));
}

/* 32 numbers times `times`, rounded to bytes. */
INLINE bytes32 round_to_bytes(const float *x, float times) {
    /* Packing takes the lower and the upper halves of both vectors apart. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i a = _mm256_packs_epi32(round_x8(x, times), round_x8(x + 8, times));
    const __m256i b = _mm256_packs_epi32(round_x8(x + 16, times), round_x8(x + 24, times));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
}
