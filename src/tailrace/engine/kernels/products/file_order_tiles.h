/* Tiles of products with weights in file order, in the instructions of this tier. */
#pragma once
#include "products/bytes.h"

#define MAX_TILE_TOKENS 4
/* Rows are too short for the hardware to notice that memory is read in order. Half and twice as far are 5 % slower. */
#define PREFETCH_BYTES 8192
/* Floats of a prepared activation block: its scale and one sum; or, of a super-block, its scale and 16 sums. */
#define BLOCK_SCALES 2
#define SUPER_SCALES 17

#if HAS_AVX512
#include "products/file_order_avx512.h"
#else
#include "products/file_order_avx2.h"
#endif
