/* Numbers as signed bytes, in AVX-512 VNNI: what quantising activations needs. */
#pragma once
#include "simd.h"

typedef __m256i bytes32;
INLINE void store_bytes(uint8_t *p, bytes32 bytes) { _mm256_storeu_si256((__m256i *)p, bytes); }

/* The sums of the first 16 of 32 signed bytes, and of the others. */
INLINE void sums_of_bytes(bytes32 bytes, int32_t sums[2]) {
    __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    sums[0] = _mm256_cvtsi256_si32(s);
    sums[1] = _mm256_extract_epi32(s, 4);
}

/* 32 numbers times `times`, rounded to bytes. */
INLINE bytes32 round_to_bytes(const float *x, float times) {
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(times)));
    const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), _mm512_set1_ps(times)));
    return _mm256_set_m128i(_mm512_cvtsepi32_epi8(b), _mm512_cvtsepi32_epi8(a));
}
