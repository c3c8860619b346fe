/* What vectors of words in AVX2 and AVX-512 have in common. */
#pragma once
#include "simd.h"

/* The 16-bit float of each of eight cells, `at` so many bytes behind its beginning. Scalar copies would take longer,
 * because a load of several numbers waits until each has been stored. */
INLINE __m128i load_f16_of_eight(const uint8_t *const *cells, int at) {
    __m128i m = _mm_loadu_si16(cells[0] + at);
#define INSERT(N) m = _mm_insert_epi16(m, (short)load_f16_bits(cells[N] + at), N)
    INSERT(1), INSERT(2), INSERT(3), INSERT(4), INSERT(5), INSERT(6), INSERT(7);
#undef INSERT
    return m;
}
