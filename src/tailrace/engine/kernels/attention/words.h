/* Vectors of 16-bit words: sums of products of a quantised KV cache, which are exact in 32 bits.
 *
 * `vi` is a vector of VF_LANES numbers of 32 bits, or of twice as many words. A lane is a pair of words. Each instruction
 * set has its own header with the same names. */
#pragma once
#include "simd.h"

#define WORD_LANES (2 * VF_LANES)

#if HAS_AVX512
#include "attention/words_avx512.h"
#elif defined(__aarch64__)
#include "attention/words_neon.h"
#else
#include "attention/words_avx2.h"
#endif
