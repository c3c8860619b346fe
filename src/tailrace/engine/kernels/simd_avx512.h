/* Float vectors of AVX-512, and loads and prefetches of its tiers. */
#pragma once
#include <immintrin.h>

INLINE float load_f16(const uint8_t *p) { return _cvtsh_ss((uint16_t)load_f16_bits(p)); }
INLINE __m512 load_f16x16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

/* Half the powers of two of E8M0 exponents, as ggml has them: those of 0 and 1 are subnormal. */
INLINE __m512 load_e8m0x16(const uint8_t *p) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2)), small));
}

INLINE void prefetch_l1(const uint8_t *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* Cache lines of a range, into the second-level cache. */
INLINE void prefetch_l2(const uint8_t *p, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}

#define VF_LANES 16
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

/* 16-bit floats and signed bytes, VF_LANES of them. */
INLINE vf vf_load_f16(const uint8_t *p) { return load_f16x16(p); }
INLINE vf vf_load_bf16(const uint8_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE vf vf_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
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
