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
#else
#error "the kernels have no vectors for this instruction set"
#endif

/* 2^x: 0 below -115, infinity from 128 on, NaN for NaN. The whole part of the exponent is a scale, the rest a Taylor
 * polynomial whose relative error is 1e-7. */
INLINE vf vf_exp2(vf x) {
    const vf bounded = vf_min(vf_set1(128.0f), x); /* of NaN and a number, the second operand */
    const vf whole = vf_round(bounded), f = vf_sub(bounded, whole);
    vf p = vf_set1(1.54035304e-4f);
    p = vf_fma(p, f, vf_set1(1.33335581e-3f));
    p = vf_fma(p, f, vf_set1(9.61812911e-3f));
    p = vf_fma(p, f, vf_set1(5.55041087e-2f));
    p = vf_fma(p, f, vf_set1(0.240226507f));
    p = vf_fma(p, f, vf_set1(0.693147181f));
    p = vf_fma(p, f, vf_set1(1.0f));
    /* For minus infinity the polynomial is NaN. */
    return vf_zero_where(vf_le(x, vf_set1(-115.0f)), vf_scale_exp2(p, whole));
}
