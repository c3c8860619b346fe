/* Shared by all kernel files: attributes, thread-local pointers, loads of a few bytes, and float vectors.
 *
 * `vf` is a vector of VF_LANES single-precision numbers, `vm` a mask of as many lanes. Each instruction set has its own
 * header with the same names, and the compiler's flags pick one. Code on `vf` is written once for all tiers. The order
 * in which a reduction adds lanes differs between instruction sets. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE      static inline __attribute__((always_inline))
#define OUT_OF_LINE static __attribute__((noinline, noclone))
/* Functions that upstream's libraries or Python call. All others are hidden. */
#define EXPORT __attribute__((visibility("default")))

/* The address of a thread-local variable, computed once. In a library that is loaded at run time each access is a
 * function call, and compilers repeat it at every use: 5 % of a step behind 3,000 tokens. */
#define TLS_PTR(variable)                                                                                              \
    __extension__({                                                                                                    \
        __typeof__(variable) *tls_ = &(variable);                                                                      \
        __asm__("" : "+r"(tls_));                                                                                      \
        tls_;                                                                                                          \
    })

INLINE uint32_t load_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

INLINE uint64_t load_f16_bits(const uint8_t *p) {
    uint16_t bits;
    memcpy(&bits, p, 2);
    return bits;
}

/* ONLY_AVX2: a test proves the tier avx2-vnni on a CPU that has its instructions as a part of AVX-512 alone. */
#if defined(__AVX512F__) && !defined(ONLY_AVX2)
#define HAS_AVX512 1
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__aarch64__)
#include "simd_neon.h"
#else
#error "the kernels have no vectors for this instruction set"
#endif

/* 2^f for -0.5 <= f <= 0.5, by a Taylor polynomial whose relative error is 1e-7. */
INLINE vf vf_exp2_fraction(vf f) {
    vf p = vf_set1(1.54035304e-4f);
    p = vf_fma(p, f, vf_set1(1.33335581e-3f));
    p = vf_fma(p, f, vf_set1(9.61812911e-3f));
    p = vf_fma(p, f, vf_set1(5.55041087e-2f));
    p = vf_fma(p, f, vf_set1(0.240226507f));
    p = vf_fma(p, f, vf_set1(0.693147181f));
    return vf_fma(p, f, vf_set1(1.0f));
}

/* 2^x: 0 below -115, infinity from 128 on, NaN for NaN. The whole part of the exponent is a scale. */
INLINE vf vf_exp2(vf x) {
    const vf bounded = vf_min(vf_set1(128.0f), x); /* of NaN and a number, the second operand */
    const vf whole = vf_round(bounded), p = vf_exp2_fraction(vf_sub(bounded, whole));
    /* For minus infinity the polynomial is NaN. */
    return vf_zero_where(vf_le(x, vf_set1(-115.0f)), vf_scale_exp2(p, whole));
}

/* e^x: 0 below -80, infinity from 89 on, NaN for NaN. The error of the product with log2 e is corrected. */
INLINE vf vf_exp(vf x) {
    const vf log2e = vf_set1(1.44269502f), ln2 = vf_set1(0.693147181f);
    const vf bounded =
        vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x)); /* of NaN and a number, the second operand */
    const vf y = vf_mul(bounded, log2e);
    vf error = vf_fma(bounded, log2e, vf_sub(vf_zero(), y));
    error = vf_fma(bounded, vf_set1(1.92596299e-8f), error); /* the rest of log2 e */
    return vf_mul(vf_exp2(y), vf_fma(ln2, error, vf_set1(1.0f)));
}

/* The natural logarithm of a positive normal number. The mantissa, between the roots of 1/2 and 2, goes through the
 * series of the inverse hyperbolic tangent, whose relative error is 1e-7. */
INLINE vf vf_log(vf x) {
    const vf one = vf_set1(1.0f), m = vf_mantissa(x);
    const vm large = vf_gt(m, vf_set1(1.41421356f));
    const vf near_one = vf_select(large, vf_mul(m, vf_set1(0.5f)), m);
    const vf exponent = vf_select(large, vf_add(vf_exponent(x), one), vf_exponent(x));
    const vf t = vf_div(vf_sub(near_one, one), vf_add(near_one, one)), square = vf_mul(t, t);
    vf p = vf_set1(2.0f / 9);
    p = vf_fma(p, square, vf_set1(2.0f / 7));
    p = vf_fma(p, square, vf_set1(2.0f / 5));
    p = vf_fma(p, square, vf_set1(2.0f / 3));
    p = vf_fma(p, square, vf_set1(2.0f));
    return vf_fma(exponent, vf_set1(0.693147181f), vf_mul(p, t));
}
