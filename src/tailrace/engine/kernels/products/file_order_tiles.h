/* Tiles of products with weights in file order, in the instructions of this tier. */
#pragma once
#include "products/bytes.h"

#if HAS_AVX512
#include "products/file_order_avx512.h"
#else
#include "products/file_order_avx2.h"
#endif
