/* What AVX2 and AVX-512 have in common: 16-bit floats one by one, prefetches, the pause of a spinning thread. */
#pragma once
#include <immintrin.h>

INLINE float load_f16(const uint8_t *p) { return _cvtsh_ss((uint16_t)load_f16_bits(p)); }

/* Rounded to 16 bits. */
INLINE float round_to_f16(float x) { return _cvtsh_ss(_cvtss_sh(x, 0)); }

INLINE void pause_cpu(void) { _mm_pause(); }

INLINE void prefetch_l1(const uint8_t *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* Cache lines of a range, into the second-level cache. */
INLINE void prefetch_l2(const uint8_t *p, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}
