/* Formats of weights and of the columns that llama.cpp makes for them (its ggml-common.h): where things lie in a block. */
#pragma once
#include <immintrin.h>
#include <string.h>

#include "abi.h"

#define LARGE (1 << 20) /* bytes of weights from which threads take turns instead of fixed shares */

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15 };

INLINE uint32_t word(const uint8_t *p) {
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}
INLINE uint64_t half_bits(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
}
INLINE float half(const uint8_t *p) { return _cvtsh_ss((uint16_t)half_bits(p)); }

/* ---- Blocks of 32 weights: d * (q - offset) + m, where q is unsigned -------------------------------------------- */

struct format {
    int type, bytes, column_bytes, quants; /* quants: where they begin in a block */
    int offset;
    bool minimum; /* there is an m: the columns are Q8_1, which knows its sum */
};

INLINE struct format format_of(int type) {
    switch (type) {
        case Q4_0: return (struct format){type, 18, 34, 2, 8, false};
        case Q4_1: return (struct format){type, 20, 36, 4, 0, true};
        case Q5_0: return (struct format){type, 22, 34, 6, 16, false};
        case Q5_1: return (struct format){type, 24, 36, 8, 0, true};
        default: return (struct format){type, 34, 34, 2, 128, false};
    }
}

/* ---- Super-blocks of 256 weights: d * scale * q - the minima's share ---------------------------------------------- */

enum { COLUMN_K = 292, READY_K = 17 }; /* bytes of a block of a column; floats that are made ready of it */

INLINE int bytes_k(int type) { return type == Q4_K ? 144 : type == Q5_K ? 176 : 210; }
