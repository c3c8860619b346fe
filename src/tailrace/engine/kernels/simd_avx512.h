/* Float vectors of AVX-512. */
#pragma once
#include "simd_x86.h"

INLINE __m512 load_f16x16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

#define VF_LANES     16
#define VF_REGISTERS 32
typedef __m512 vf;
typedef __mmask16 vm;

INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_load_ps(p); } /* aligned to a vector */
INLINE vf vf_loadu(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm512_store_ps(p, x); } /* aligned to a vector */
INLINE void vf_storeu(float *p, vf x) { _mm512_storeu_ps(p, x); }

/* The first n lanes, 0 to VF_LANES. Memory of the other lanes is not touched; loaded lanes are 0 there. */
INLINE vf vf_load_first(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void vf_store_first(float *p, int n, vf x) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }

INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a * b + c */
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a * b */
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* b where one of them is NaN */
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }              /* b where one of them is NaN */
INLINE vf vf_abs(vf x) { return _mm512_abs_ps(x); }
INLINE vf vf_sqrt(vf x) { return _mm512_sqrt_ps(x); }
INLINE vf vf_round(vf x) { return _mm512_roundscale_ps(x, 0); } /* to the nearest whole number, halves to even */
INLINE float vf_reduce_add(vf x) { return _mm512_reduce_add_ps(x); }
INLINE float vf_reduce_max(vf x) { return _mm512_reduce_max_ps(x); }

/* Rows of a square matrix become its columns. */
INLINE void vf_transpose(vf m[VF_LANES]) {
    vf a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(m[i], m[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(m[i], m[i + 1]);
    }
    /* b[4 * g + j]: in quarter q, rows 4 * g to 4 * g + 3 of column 4 * q + j. */
    for (int g = 0; g < 16; g += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(a[g + j]), high = _mm512_castps_pd(a[g + j + 2]);
            b[g + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[g + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int j = 0; j < 4; j++) {
        const vf even = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), odd = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        const vf even2 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        const vf odd2 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        m[j] = _mm512_shuffle_f32x4(even, even2, 0x88);
        m[4 + j] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
        m[8 + j] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        m[12 + j] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
}

/* to[i] has every fourth of 4 * VF_LANES numbers, from number i on. */
INLINE void vf_load_every_4th(const float *p, vf to[4]) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const vf a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16), c = _mm512_loadu_ps(p + 32);
    const vf d = _mm512_loadu_ps(p + 48);
    const vf e = _mm512_permutex2var_ps(a, even, b), f = _mm512_permutex2var_ps(c, even, d);
    const vf g = _mm512_permutex2var_ps(a, odd, b), h = _mm512_permutex2var_ps(c, odd, d);
    to[0] = _mm512_permutex2var_ps(e, even, f);
    to[1] = _mm512_permutex2var_ps(g, even, h);
    to[2] = _mm512_permutex2var_ps(e, odd, f);
    to[3] = _mm512_permutex2var_ps(g, odd, h);
}

/* The parts of a positive normal number: x = vf_mantissa(x) * 2^vf_exponent(x), with a mantissa from 1 to below 2. */
INLINE vf vf_exponent(vf x) { return _mm512_getexp_ps(x); }
INLINE vf vf_mantissa(vf x) { return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }

/* Bytes, VF_LANES of them. */
INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE vf vf_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* The low nibbles of pairs of bytes, VF_LANES of them: of the first bytes and of the second ones. */
INLINE void vf_load_nibble_pairs(const uint8_t *p, vf to[2]) {
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p)), low = _mm512_set1_epi32(15);
    to[0] = _mm512_cvtepi32_ps(_mm512_and_si512(pairs, low));
    to[1] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(pairs, 16), low));
}
/* Half the powers of two of E8M0 exponents, as ggml has them: those of 0 and 1 are subnormal. */
INLINE vf vf_load_e8m0(const uint8_t *p) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2)), small));
}
/* 16-bit floats, VF_LANES of them. */
INLINE vf vf_load_f16(const uint8_t *p) { return load_f16x16(p); }
INLINE vf vf_load_bf16(const uint8_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* The first eight lanes; the others are 0, and their memory is not touched. */
INLINE vf vf_load_f16_eight(const uint8_t *p) {
    return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)));
}
INLINE vf vf_load_bf16_eight(const uint8_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_castsi512_ps(_mm512_zextsi256_si512(_mm256_slli_epi32(wide, 16)));
}
/* Pairs of bf16, VF_LANES of them: the first numbers and the second ones. */
INLINE void vf_load_bf16_pairs(const uint8_t *p, vf to[2]) {
    const __m512i pairs = _mm512_loadu_si512(p);
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

INLINE vm vm_from_bits(uint32_t bits) { return (__mmask16)bits; } /* bit i is lane i */
INLINE vm vm_or(vm a, vm b) { return a | b; }
INLINE bool vm_any(vm m) { return m != 0; }
INLINE vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); } /* false for NaN, as are the next two */
INLINE vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
INLINE vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE vm vf_is_nan(vf x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
INLINE vf vf_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); } /* a where m is set, else b */
INLINE vf vf_zero_where(vm m, vf x) { return _mm512_maskz_mov_ps((__mmask16)~m, x); }

/* x * 2^whole, where whole is a whole number from -115 to 128. */
INLINE vf vf_scale_exp2(vf x, vf whole) { return _mm512_scalef_ps(x, whole); }

/* A vector that has, in each quarter, partial sums of the four vectors. */
INLINE vf partial_sums_x4(vf a, vf b, vf c, vf d) {
    const __m512 e = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 f = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d g = _mm512_castps_pd(e), h = _mm512_castps_pd(f);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(g, h)), _mm512_castpd_ps(_mm512_unpackhi_pd(g, h)));
}
/* The sixteen sums of four such vectors. */
INLINE vf finish_sums_x16(const float *p) {
    const __m512 a = _mm512_load_ps(p), b = _mm512_load_ps(p + 16);
    const __m512 c = _mm512_load_ps(p + 32), d = _mm512_load_ps(p + 48);
    const __m512 e = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    const __m512 f = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(e, f, 0x88), _mm512_shuffle_f32x4(e, f, 0xdd));
}
/* Store the sums of the lanes of four vectors. */
INLINE void vf_store_sums_x4(float *p, vf a, vf b, vf c, vf d) {
    const __m512 four = partial_sums_x4(a, b, c, d);
    const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

/* Which of 64 numbers of 16 bits differ from `value`. */
INLINE uint64_t differing_u16x64(const uint16_t *p, uint16_t value) {
    const __m512i all = _mm512_set1_epi16((short)value);
    const uint64_t high = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(p + 32), all);
    return _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(p), all) | high << 32;
}

/* Store the places of the set bits, each increased by `first`. Up to 64 numbers are written. */
INLINE void store_bit_places(uint32_t *to, uint64_t bits, uint32_t first) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int i = 0; i < 64; i += 16) {
        const __mmask16 here = (__mmask16)(bits >> i);
        const __m512i places = _mm512_add_epi32(_mm512_set1_epi32((int)first + i), lanes);
        _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(here, places));
        to += __builtin_popcount(here);
    }
}

/* The bits of `bits` that stand where `mask` has a 1, side by side. */
INLINE uint64_t bits_where(uint64_t bits, uint64_t mask) { return _pext_u64(bits, mask); }
