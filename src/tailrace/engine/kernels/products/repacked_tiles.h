/* Tiles of products with repacked weights: 16 rows by up to TILE_TOKENS tokens, in the instructions of this tier. */
#pragma once
#include "simd.h"

#if HAS_AVX512
#include "products/repacked_avx512.h"
#elif defined(__aarch64__)
#include "products/repacked_neon.h"
#else
#include "products/repacked_avx2.h"
#endif
