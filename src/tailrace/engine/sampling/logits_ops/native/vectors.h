/* Vectors of 16 numbers, in the instructions of the tier: an AVX-512 register, or two of AVX2. The passes are written on
 * them once.
 *
 * v16 has single-precision numbers, i16 integers of 32 bits, d8 eight numbers in double precision. A comparison makes a
 * mask, m16: bit i is lane i. order16 is the mask of lanes without NaN, in the form in which it is collected fastest. */
#pragma once
#include <immintrin.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
#include "vectors_avx512.h"
#else
#include "vectors_avx2.h"
#endif
