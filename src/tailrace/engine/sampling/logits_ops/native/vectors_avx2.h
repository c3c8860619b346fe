/* Vectors of 16 numbers in AVX2 with FMA: see vectors.h. */
#pragma once
#include <immintrin.h>

typedef struct {
    __m256 low, high;
} v16;
typedef uint16_t m16;

/* The eight lanes whose bits are set in `bits`, from the lowest on: all ones in them. */
INLINE __m256i lanes_of(unsigned bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane);
}
INLINE m16 m16_of(__m256 low, __m256 high) { return (m16)(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8); }

INLINE v16 v16_set1(float x) { return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE v16 v16_load(const float *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void v16_store(float *p, v16 x) { _mm256_storeu_ps(p, x.low), _mm256_storeu_ps(p + 8, x.high); }
/* Lanes that `where` hasn't are `otherwise`, and their memory is not touched. */
INLINE v16 v16_load_where(m16 where, v16 otherwise, const float *p) {
    if (where == 0xffff) return v16_load(p);
    const __m256i low = lanes_of(where), high = lanes_of(where >> 8);
    return (v16){
        _mm256_blendv_ps(otherwise.low, _mm256_maskload_ps(p, low), _mm256_castsi256_ps(low)),
        _mm256_blendv_ps(otherwise.high, _mm256_maskload_ps(p + 8, high), _mm256_castsi256_ps(high)),
    };
}
/* The same where memory of all 16 lanes may be read. */
INLINE v16 v16_load_all_where(m16 where, v16 otherwise, const float *p) {
    const __m256 low = _mm256_castsi256_ps(lanes_of(where)), high = _mm256_castsi256_ps(lanes_of(where >> 8));
    return (v16){_mm256_blendv_ps(otherwise.low, _mm256_loadu_ps(p), low),
                 _mm256_blendv_ps(otherwise.high, _mm256_loadu_ps(p + 8), high)};
}
INLINE void v16_store_where(m16 where, float *p, v16 x) {
    if (where == 0xffff) {
        v16_store(p, x);
        return;
    }
    _mm256_maskstore_ps(p, lanes_of(where), x.low);
    _mm256_maskstore_ps(p + 8, lanes_of(where >> 8), x.high);
}

#define EACH_HALF(function, a, b) ((v16){function((a).low, (b).low), function((a).high, (b).high)})
INLINE v16 v16_add(v16 a, v16 b) { return EACH_HALF(_mm256_add_ps, a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return EACH_HALF(_mm256_sub_ps, a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return EACH_HALF(_mm256_mul_ps, a, b); }
INLINE v16 v16_max(v16 a, v16 b) { return EACH_HALF(_mm256_max_ps, a, b); } /* b where one of them is NaN */
#undef EACH_HALF
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { /* a * b + c */
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { /* c - a * b */
    return (v16){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
INLINE v16 v16_round(v16 x) {
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (v16){_mm256_round_ps(x.low, NEAREST), _mm256_round_ps(x.high, NEAREST)};
}
INLINE float v16_reduce_max(v16 x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
}

#define COMPARED(a, b, how) m16_of(_mm256_cmp_ps((a).low, (b).low, how), _mm256_cmp_ps((a).high, (b).high, how))
INLINE m16 v16_equal(v16 a, v16 b) { return COMPARED(a, b, _CMP_EQ_OQ); }
INLINE m16 v16_greater(v16 a, v16 b) { return COMPARED(a, b, _CMP_GT_OQ); }
INLINE m16 v16_at_least(v16 a, v16 b) { return COMPARED(a, b, _CMP_GE_OQ); }
INLINE m16 v16_is_nan(v16 x) { return COMPARED(x, x, _CMP_UNORD_Q); }
#undef COMPARED

typedef __m256 order16; /* lane i stands for lanes i and i + 8 */
INLINE order16 order16_all(void) { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
/* The lanes of `order` in which neither number is NaN. */
INLINE order16 order16_of(order16 order, v16 a, v16 b) {
    const __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_ORD_Q), high = _mm256_cmp_ps(a.high, b.high, _CMP_ORD_Q);
    return _mm256_and_ps(order, _mm256_and_ps(low, high));
}
INLINE order16 order16_and(order16 a, order16 b) { return _mm256_and_ps(a, b); }
INLINE int order16_is_all(order16 order) { return _mm256_movemask_ps(order) == 0xff; }

/* x * 2^whole, where whole is a whole number from -217 to 0. Below -126 it is 0: the least normal number is 2^-126. */
INLINE __m256 scale_half(__m256 x, __m256 whole) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    const __m256i exponent = _mm256_slli_epi32(_mm256_max_epi32(biased, _mm256_setzero_si256()), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
INLINE v16 v16_scale_exp2(v16 x, v16 whole) {
    return (v16){scale_half(x.low, whole.low), scale_half(x.high, whole.high)};
}

typedef struct {
    __m256i low, high;
} i16;
INLINE i16 i16_set1(int32_t x) { return (i16){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE i16 i16_load(const int32_t *p) {
    return (i16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
INLINE void i16_store(int32_t *p, i16 x) {
    _mm256_storeu_si256((__m256i *)p, x.low), _mm256_storeu_si256((__m256i *)(p + 8), x.high);
}
/* Lanes that `where` hasn't are 0, and their memory is not touched. */
INLINE i16 i16_load_where(m16 where, const int32_t *p) {
    return (i16){_mm256_maskload_epi32(p, lanes_of(where)), _mm256_maskload_epi32(p + 8, lanes_of(where >> 8))};
}
INLINE m16 i16_at_least(i16 a, i16 b) {
    return (m16)~m16_of(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.low, a.low)),
                        _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.high, a.high)));
}
/* x + 1 where a and b are equal, else 0. */
INLINE i16 i16_next_where_equal(i16 a, i16 b, i16 x) {
    const __m256i one = _mm256_set1_epi32(1);
    return (i16){_mm256_and_si256(_mm256_cmpeq_epi32(a.low, b.low), _mm256_add_epi32(x.low, one)),
                 _mm256_and_si256(_mm256_cmpeq_epi32(a.high, b.high), _mm256_add_epi32(x.high, one))};
}
/* `number` in the lanes in which x is greater than `than`, else `others`. */
INLINE i16 i16_where_greater(v16 x, v16 than, int32_t number, i16 others) {
    const __m256i low = _mm256_castps_si256(_mm256_cmp_ps(x.low, than.low, _CMP_GT_OQ));
    const __m256i high = _mm256_castps_si256(_mm256_cmp_ps(x.high, than.high, _CMP_GT_OQ));
    return (i16){_mm256_blendv_epi8(others.low, _mm256_set1_epi32(number), low),
                 _mm256_blendv_epi8(others.high, _mm256_set1_epi32(number), high)};
}
/* The lowest integer, 0 or more, of the lanes in which x is `value`. */
INLINE uint32_t i16_min_where_equal(i16 integers, v16 x, v16 value) {
    uint32_t each[16], min = UINT32_MAX;
    _mm256_storeu_si256((__m256i *)each, integers.low), _mm256_storeu_si256((__m256i *)(each + 8), integers.high);
    for (unsigned lanes = v16_equal(x, value); lanes; lanes &= lanes - 1) {
        const uint32_t integer = each[__builtin_ctz(lanes)];
        min = integer < min ? integer : min;
    }
    return min;
}

typedef struct {
    __m256d low, high;
} d8;
INLINE d8 d8_zero(void) { return (d8){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
INLINE d8 d8_set1(double x) { return (d8){_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
INLINE d8 d8_of_half(__m256 x) {
    return (d8){_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
INLINE d8 d8_of_low(v16 x) { return d8_of_half(x.low); }
INLINE d8 d8_of_high(v16 x) { return d8_of_half(x.high); }
INLINE d8 d8_add(d8 a, d8 b) { return (d8){_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
INLINE d8 d8_fma(d8 a, d8 b, d8 c) {
    return (d8){_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
/* a - b, and 0 in lanes that the low eight bits of `where` haven't. */
INLINE d8 d8_sub_where(unsigned where, d8 a, d8 b) {
    const __m256i bits = _mm256_set1_epi64x(where), first = _mm256_setr_epi64x(1, 2, 4, 8),
                  last = _mm256_setr_epi64x(16, 32, 64, 128);
    const __m256i low = _mm256_cmpeq_epi64(_mm256_and_si256(bits, first), first);
    const __m256i high = _mm256_cmpeq_epi64(_mm256_and_si256(bits, last), last);
    return (d8){_mm256_and_pd(_mm256_castsi256_pd(low), _mm256_sub_pd(a.low, b.low)),
                _mm256_and_pd(_mm256_castsi256_pd(high), _mm256_sub_pd(a.high, b.high))};
}
INLINE double d8_reduce_add(d8 x) {
    const __m256d four = _mm256_add_pd(x.low, x.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
