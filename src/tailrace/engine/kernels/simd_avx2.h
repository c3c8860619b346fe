/* Float vectors of AVX2 with FMA and F16C. */
#pragma once
#include "simd_x86.h"

#define VF_LANES     8
#define VF_REGISTERS 16
typedef __m256 vf;
typedef __m256 vm; /* all bits of a lane are set, or none */

INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm256_load_ps(p); } /* aligned to a vector */
INLINE vf vf_loadu(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm256_store_ps(p, x); } /* aligned to a vector */
INLINE void vf_storeu(float *p, vf x) { _mm256_storeu_ps(p, x); }

INLINE __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* The first n lanes, 0 to VF_LANES. Memory of the other lanes is not touched; loaded lanes are 0 there. */
INLINE vf vf_load_first(const float *p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void vf_store_first(float *p, int n, vf x) { _mm256_maskstore_ps(p, first_lanes(n), x); }

INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a * b + c */
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a * b */
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* b where one of them is NaN */
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }              /* b where one of them is NaN */
INLINE vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE vf vf_sqrt(vf x) { return _mm256_sqrt_ps(x); }
/* To the nearest whole number, halves to even. */
INLINE vf vf_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

INLINE float vf_reduce_add(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_reduce_max(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* Rows of a square matrix become its columns. */
INLINE void vf_transpose(vf m[VF_LANES]) {
    vf a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(m[i], m[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(m[i], m[i + 1]);
    }
    /* b[4 * g + j]: in half h, rows 4 * g to 4 * g + 3 of column 4 * h + j. */
    for (int g = 0; g < 8; g += 4)
        for (int j = 0; j < 2; j++) {
            b[g + 2 * j] = _mm256_shuffle_ps(a[g + j], a[g + j + 2], 0x44);
            b[g + 2 * j + 1] = _mm256_shuffle_ps(a[g + j], a[g + j + 2], 0xee);
        }
    for (int j = 0; j < 4; j++) {
        m[j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        m[4 + j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
}

/* to[i] has every fourth of 4 * VF_LANES numbers, from number i on. */
INLINE void vf_load_every_4th(const float *p, vf to[4]) {
    vf a[4];
    for (int i = 0; i < 4; i++) /* numbers 4 * i to 4 * i + 3, and those 16 behind them */
        a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4 * i)), _mm_loadu_ps(p + 16 + 4 * i), 1);
    const vf e = _mm256_unpacklo_ps(a[0], a[1]), f = _mm256_unpackhi_ps(a[0], a[1]);
    const vf g = _mm256_unpacklo_ps(a[2], a[3]), h = _mm256_unpackhi_ps(a[2], a[3]);
    to[0] = _mm256_shuffle_ps(e, g, 0x44);
    to[1] = _mm256_shuffle_ps(e, g, 0xee);
    to[2] = _mm256_shuffle_ps(f, h, 0x44);
    to[3] = _mm256_shuffle_ps(f, h, 0xee);
}

/* The parts of a positive normal number: x = vf_mantissa(x) * 2^vf_exponent(x), with a mantissa from 1 to below 2. */
INLINE vf vf_exponent(vf x) {
    const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
}
INLINE vf vf_mantissa(vf x) {
    const __m256i fraction = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
}

/* Bytes, VF_LANES of them. */
INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE vf vf_load_i8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* The low nibbles of pairs of bytes, VF_LANES of them: of the first bytes and of the second ones. */
INLINE void vf_load_nibble_pairs(const uint8_t *p, vf to[2]) {
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), low = _mm256_set1_epi32(15);
    to[0] = _mm256_cvtepi32_ps(_mm256_and_si256(pairs, low));
    to[1] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(pairs, 16), low));
}
/* Half the powers of two of eight E8M0 exponents, as ggml has them: those of 0 and 1 are subnormal. */
INLINE vf vf_load_e8m0(const uint8_t *p) {
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(small, normal, _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1))));
}
/* 16-bit floats, VF_LANES of them. */
INLINE vf vf_load_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE vf vf_load_bf16(const uint8_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
/* The first eight lanes, which are all. */
INLINE vf vf_load_f16_eight(const uint8_t *p) { return vf_load_f16(p); }
INLINE vf vf_load_bf16_eight(const uint8_t *p) { return vf_load_bf16(p); }
/* Pairs of bf16, VF_LANES of them: the first numbers and the second ones. */
INLINE void vf_load_bf16_pairs(const uint8_t *p, vf to[2]) {
    const __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
    to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    to[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

INLINE vm vm_from_bits(uint32_t bits) { /* bit i is lane i */
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}
INLINE vm vm_or(vm a, vm b) { return _mm256_or_ps(a, b); }
INLINE bool vm_any(vm m) { return _mm256_movemask_ps(m) != 0; }
INLINE vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); } /* false for NaN, as are the next two */
INLINE vm vf_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
INLINE vm vf_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE vm vf_is_nan(vf x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
INLINE vf vf_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); } /* a where m is set, else b */
INLINE vf vf_zero_where(vm m, vf x) { return _mm256_andnot_ps(m, x); }

/* x * 2^whole, where whole is a whole number from -115 to 128. The scale is half of it, because 2^128 is infinite. */
INLINE vf vf_scale_exp2(vf x, vf whole) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(126));
    const vf half = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    return _mm256_add_ps(half, half);
}

/* Store the sums of the lanes of four vectors. */
INLINE void vf_store_sums_x4(float *p, vf a, vf b, vf c, vf d) {
    const __m256 two = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

/* Which of 64 numbers of 16 bits differ from `value`. */
INLINE uint64_t differing_u16x64(const uint16_t *p, uint16_t value) {
    const __m256i all = _mm256_set1_epi16((short)value);
    uint64_t equal = 0;
    for (int i = 0; i < 64; i += 32) {
        const __m256i a = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *)(p + i)), all);
        const __m256i b = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *)(p + i + 16)), all);
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8);
        equal |= (uint64_t)(uint32_t)_mm256_movemask_epi8(bytes) << i;
    }
    return ~equal;
}

/* Store the places of the set bits, each increased by `first`. Up to 64 numbers are written. */
INLINE void store_bit_places(uint32_t *to, uint64_t bits, uint32_t first) {
    if (!~bits)
        for (uint32_t i = 0; i < 64; i++) *to++ = first + i;
    else
        for (; bits; bits &= bits - 1) *to++ = first + (uint32_t)__builtin_ctzll(bits);
}

/* The bits of `bits` that stand where `mask` has a 1, side by side. */
INLINE uint64_t bits_where(uint64_t bits, uint64_t mask) { return _pext_u64(bits, mask); }
