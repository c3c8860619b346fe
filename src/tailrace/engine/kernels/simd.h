/* Shared by all kernel files: attributes, thread-local pointers, and loads of a few bytes. */
#pragma once
#include <immintrin.h>
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

INLINE float load_f16(const uint8_t *p) { return _cvtsh_ss((uint16_t)load_f16_bits(p)); }
INLINE __m512 load_f16x16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

INLINE void prefetch_l1(const uint8_t *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* Cache lines of a range, into the second-level cache. */
INLINE void prefetch_l2(const uint8_t *p, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch((const char *)p + line, _MM_HINT_T1);
}
