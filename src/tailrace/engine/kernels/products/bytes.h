/* Numbers as signed bytes, in the instructions of this tier. */
#pragma once
#include "simd.h"

#if HAS_AVX512
#include "products/bytes_avx512.h"
#elif defined(__aarch64__)
#include "products/bytes_neon.h"
#else
#include "products/bytes_avx2.h"
#endif
