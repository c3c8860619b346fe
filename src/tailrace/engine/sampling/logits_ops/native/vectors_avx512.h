/* Vectors of 16 numbers in AVX-512: see vectors.h. */
#pragma once
#include <immintrin.h>

typedef __m512 v16;
typedef __mmask16 m16;

INLINE v16 v16_set1(float x) { return _mm512_set1_ps(x); }
INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
/* Lanes that `where` hasn't are `otherwise`, and their memory is not touched. */
INLINE v16 v16_load_where(m16 where, v16 otherwise, const float *p) {
    return _mm512_mask_loadu_ps(otherwise, where, p);
}
/* The same where memory of all 16 lanes may be read. */
INLINE v16 v16_load_all_where(m16 where, v16 otherwise, const float *p) { return v16_load_where(where, otherwise, p); }
INLINE void v16_store_where(m16 where, float *p, v16 x) { _mm512_mask_storeu_ps(p, where, x); }

INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }   /* a * b + c */
INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a * b */
INLINE v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }               /* b where one of them is NaN */
INLINE v16 v16_round(v16 x) { return _mm512_roundscale_ps(x, 0); }
INLINE float v16_reduce_max(v16 x) { return _mm512_reduce_max_ps(x); }

INLINE m16 v16_equal(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE m16 v16_greater(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE m16 v16_at_least(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
INLINE m16 v16_is_nan(v16 x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }

typedef __mmask16 order16;
INLINE order16 order16_all(void) { return 0xffff; }
/* The lanes of `order` in which neither number is NaN. */
INLINE order16 order16_of(order16 order, v16 a, v16 b) { return _mm512_mask_cmp_ps_mask(order, a, b, _CMP_ORD_Q); }
INLINE order16 order16_and(order16 a, order16 b) { return _kand_mask16(a, b); }
INLINE int order16_is_all(order16 order) { return order == 0xffff; }

/* x * 2^whole, where whole is a whole number from -217 to 0. */
INLINE v16 v16_scale_exp2(v16 x, v16 whole) { return _mm512_scalef_ps(x, whole); }

typedef __m512i i16;
INLINE i16 i16_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE i16 i16_load(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE void i16_store(int32_t *p, i16 x) { _mm512_storeu_si512(p, x); }
/* Lanes that `where` hasn't are 0, and their memory is not touched. */
INLINE i16 i16_load_where(m16 where, const int32_t *p) { return _mm512_maskz_loadu_epi32(where, p); }
INLINE m16 i16_at_least(i16 a, i16 b) { return _mm512_cmpge_epi32_mask(a, b); }
/* x + 1 where a and b are equal, else 0. */
INLINE i16 i16_next_where_equal(i16 a, i16 b, i16 x) {
    return _mm512_maskz_add_epi32(_mm512_cmpeq_epi32_mask(a, b), x, _mm512_set1_epi32(1));
}
/* `number` in the lanes in which x is greater than `than`, else `others`. */
INLINE i16 i16_where_greater(v16 x, v16 than, int32_t number, i16 others) {
    return _mm512_mask_set1_epi32(others, v16_greater(x, than), number);
}
/* The lowest integer, 0 or more, of the lanes in which x is `value`. */
INLINE uint32_t i16_min_where_equal(i16 integers, v16 x, v16 value) {
    return _mm512_mask_reduce_min_epu32(v16_equal(x, value), integers);
}

typedef __m512d d8;
INLINE d8 d8_zero(void) { return _mm512_setzero_pd(); }
INLINE d8 d8_set1(double x) { return _mm512_set1_pd(x); }
INLINE d8 d8_of_low(v16 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
INLINE d8 d8_of_high(v16 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee))); }
INLINE d8 d8_add(d8 a, d8 b) { return _mm512_add_pd(a, b); }
INLINE d8 d8_fma(d8 a, d8 b, d8 c) { return _mm512_fmadd_pd(a, b, c); }
/* a - b, and 0 in lanes that the low eight bits of `where` haven't. */
INLINE d8 d8_sub_where(unsigned where, d8 a, d8 b) { return _mm512_maskz_sub_pd((__mmask8)where, a, b); }
INLINE double d8_reduce_add(d8 x) { return _mm512_reduce_add_pd(x); }
