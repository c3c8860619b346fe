/* The table of weight formats that the kernels compute. All C code derives from it, and Python reads it with
 * tailrace_kernels_format.
 *
 * To add a format, add a row. Each switch over `enum format` has no default, so every place that has to know the format
 * fails to compile until it does. A ggml type without a row is never computed here: find_format says so, and the
 * operation goes to upstream. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml.h"
#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "simd.h"

/* A switch that misses a format is an error, whatever flags the compiler has. */
#pragma GCC diagnostic error "-Wswitch"

#define NO_MIN (-1)

/* How quants are stored. */
enum encoding {
    TWO_BITS,            /* 32 lowest pairs of bits are followed by 32 of the next ones, and so on */
    TWO_BITS_AND_THIRD,  /* and a third bit of each in `hmask` */
    NIBBLES,             /* 4 bits: 32 low nibbles, or 16 in blocks of 32, are followed by the high nibbles */
    CODES,               /* nibbles that are indices into the format's codebook; 16 low ones come first */
    NIBBLES_AND_FIFTH,   /* and a fifth bit of each in `qh` */
    NIBBLES_AND_TOP_TWO, /* and the highest two bits of each in `qh` */
    SIGNED_BYTES,
    FLOATS, /* 16-bit floats, which have no scale: activations are floats, too */
};

/* What counts as a block of 16-bit floats. ggml has each on its own. */
typedef struct {
    uint16_t w[32];
} block_f16, block_bf16;

/* A weight is scale * (quant - zero point), or scale * quant + or - minimum; quants are unsigned, as they are computed
 * with.
 *
 * name        ggml's names: GGML_TYPE_<name>, and the struct of a block
 * weights     of a block: 32, or 256 (a super-block, whose scales and minima are quantised too)
 * per_scale   weights of a scale
 * quants      the encoding, and the block's first field that holds quants
 * scale       the block's field of the scale: 16-bit, or the exponent of a power of two (E8M0)
 * min         where the block's 16-bit minimum is, or NO_MIN
 * zero        the zero point
 * activations the type that upstream quantises activations to
 * F16 and BF16 name their weights in place of a scale. */
/* clang-format off */
#define BLOCK_FORMATS(X) \
    /* name    block         weights   per_scale  encoding             quants  scale  min                         zero  activations */ \
    X(Q4_0,   block_q4_0,   QK4_0,    32,        NIBBLES,             qs,     d,     NO_MIN,                     8,    Q8_0) \
    X(Q4_1,   block_q4_1,   QK4_1,    32,        NIBBLES,             qs,     d,     offsetof(block_q4_1, m),    0,    Q8_1) \
    X(Q5_0,   block_q5_0,   QK5_0,    32,        NIBBLES_AND_FIFTH,   qs,     d,     NO_MIN,                     16,   Q8_0) \
    X(Q5_1,   block_q5_1,   QK5_1,    32,        NIBBLES_AND_FIFTH,   qs,     d,     offsetof(block_q5_1, m),    0,    Q8_1) \
    X(Q8_0,   block_q8_0,   QK8_0,    32,        SIGNED_BYTES,        qs,     d,     NO_MIN,                     128,  Q8_0) \
    X(IQ4_NL, block_iq4_nl, QK4_NL,   32,        CODES,               qs,     d,     NO_MIN,                     128,  Q8_0) \
    X(MXFP4,  block_mxfp4,  QK_MXFP4, 32,        CODES,               qs,     e,     NO_MIN,                     12,   Q8_0)
#define SUPER_FORMATS(X) \
    X(Q2_K,   block_q2_K,   QK_K,     16,        TWO_BITS,            qs,     d,     offsetof(block_q2_K, dmin), 0,    Q8_K) \
    X(Q3_K,   block_q3_K,   QK_K,     16,        TWO_BITS_AND_THIRD,  qs,     d,     NO_MIN,                     4,    Q8_K) \
    X(Q4_K,   block_q4_K,   QK_K,     32,        NIBBLES,             qs,     d,     offsetof(block_q4_K, dmin), 0,    Q8_K) \
    X(Q5_K,   block_q5_K,   QK_K,     32,        NIBBLES_AND_FIFTH,   qs,     d,     offsetof(block_q5_K, dmin), 0,    Q8_K) \
    X(Q6_K,   block_q6_K,   QK_K,     16,        NIBBLES_AND_TOP_TWO, ql,     d,     NO_MIN,                     32,   Q8_K) \
    X(IQ4_XS, block_iq4_xs, QK_K,     32,        CODES,               qs,     d,     NO_MIN,                     128,  Q8_K)
#define FLOAT_FORMATS(X) \
    X(F16,    block_f16,    32,       32,        FLOATS,              w,      w,     NO_MIN,                     0,    F16) \
    X(BF16,   block_bf16,   32,       32,        FLOATS,              w,      w,     NO_MIN,                     0,    BF16)
#define FORMATS(X) BLOCK_FORMATS(X) SUPER_FORMATS(X) FLOAT_FORMATS(X)
/* clang-format on */

/* The formats in which upstream quantises activations: name and block. */
#define ACTIVATION_FORMATS(X)                                                                                          \
    X(Q8_0, block_q8_0)                                                                                                \
    X(Q8_1, block_q8_1)                                                                                                \
    X(F16, block_f16)                                                                                                  \
    X(BF16, block_bf16)                                                                                                \
    X(Q8_K, block_q8_K)

#define FORMAT_NAME(name, ...) name,
enum format { FORMATS(FORMAT_NAME) };
#undef FORMAT_NAME

#define FORMAT_ONE(...) +1
enum { N_FORMATS = 0 FORMATS(FORMAT_ONE) };
#undef FORMAT_ONE

#define ACTIVATION_BYTES(name, block) ACTIVATION_BYTES_##name = sizeof(block),
enum { ACTIVATION_FORMATS(ACTIVATION_BYTES) };
#undef ACTIVATION_BYTES

struct format_traits {
    enum ggml_type type, activation_type;
    int weights, bytes, activation_bytes; /* of a block */
    int type_bytes;                       /* of what ggml counts as a block */
    int weights_per_scale;
    enum encoding encoding;
    int quants_at, scale_at, min_at; /* bytes from the block's beginning; min_at may be NO_MIN */
    int scale_bytes;                 /* 2, or 1 for an exponent */
    int zero_point;
    bool has_min;
};

INLINE struct format_traits traits_of(enum format format) {
#define TRAITS(name, block, weights_, per_scale, encoding_, quants, scale, min, zero, activations)                     \
    case name:                                                                                                         \
        return (struct format_traits){.type = GGML_TYPE_##name,                                                        \
                                      .activation_type = GGML_TYPE_##activations,                                      \
                                      .weights = (weights_),                                                           \
                                      .weights_per_scale = (per_scale),                                                \
                                      .encoding = (encoding_),                                                         \
                                      .bytes = sizeof(block),                                                          \
                                      .type_bytes = (encoding_) == FLOATS ? 2 : sizeof(block),                         \
                                      .activation_bytes = ACTIVATION_BYTES_##activations,                              \
                                      .quants_at = offsetof(block, quants),                                            \
                                      .scale_at = offsetof(block, scale),                                              \
                                      .scale_bytes = sizeof(((block *)0)->scale),                                      \
                                      .min_at = (min),                                                                 \
                                      .zero_point = (zero),                                                            \
                                      .has_min = (int)(min) != NO_MIN};
    switch (format) { FORMATS(TRAITS) }
#undef TRAITS
    __builtin_unreachable();
}

/* The format of a ggml type; false where the type has no row. */
INLINE bool find_format(enum ggml_type type, enum format *format) {
#define FIND(name, ...)                                                                                                \
    if (type == GGML_TYPE_##name) return *format = name, true;
    FORMATS(FIND)
#undef FIND
    return false;
}

/* The weights that the codes of a format stand for, plus the zero point. */
INLINE const uint8_t *codebook_of(enum format format) {
    static const uint8_t iq4[16]
        __attribute__((aligned(16))) = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
    static const uint8_t fp4[16]
        __attribute__((aligned(16))) = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    return format == MXFP4 ? fp4 : iq4;
}

/* The low four bits and the high two of 6-bit scales: four of Q3_K's sixteen, in a word. The scales are these minus 32.
 * Bytes 0 to 7 have the low bits of scales 0 to 7 and 8 to 15; each pair of bits of bytes 8 to 11 is of another word. */
INLINE uint32_t q3_k_scales(const uint8_t *scales, int word) {
    const uint32_t low = load_u32(scales + 4 * (word % 2)) >> 4 * (word / 2), high = load_u32(scales + 8) >> 2 * word;
    return (low & 0x0f0f0f0f) | (high & 0x03030303) << 4;
}

INLINE bool has_floats(enum format format) { return traits_of(format).encoding == FLOATS; }
/* In AVX2, upstream multiplies 16-bit floats faster: 1.2 to 1.8 times for prompts. */
INLINE bool is_repacked(enum format format) {
#if HAS_AVX512
    (void)format;
    return true;
#else
    return !has_floats(format);
#endif
}
INLINE bool is_super_block(enum format format) { return traits_of(format).weights == QK_K; }

/* ---- What the kernels rely on in ggml's blocks ------------------------------------------------------------------- */

#define SAME_BLOCKS(name, block, weights_, per_scale, encoding, quants, scale, min, zero, activations)                 \
    _Static_assert((weights_) == 32 || (weights_) == QK_K, #name ": a block has 32 weights or is a super-block");
FORMATS(SAME_BLOCKS)
#undef SAME_BLOCKS
_Static_assert(QK_K == 256, "super-blocks have 256 weights");
_Static_assert(QK8_0 == 32 && QK8_1 == 32, "activations have a scale for each 32 numbers");

#define AT(block, field, offset)                                                                                       \
    _Static_assert(offsetof(block, field) == (offset), #field " isn't where the kernels read it in " #block)
/* Scale and minimum are read as one 32-bit word; the fifth bits of quants are the word before the others. */
AT(block_q4_0, d, 0);
AT(block_q4_1, d, 0);
AT(block_q4_1, m, 2);
AT(block_q5_0, d, 0);
AT(block_q5_0, qh, offsetof(block_q5_0, qs) - 4);
AT(block_q5_1, d, 0);
AT(block_q5_1, m, 2);
AT(block_q5_1, qh, offsetof(block_q5_1, qs) - 4);
AT(block_q8_0, d, 0);
AT(block_iq4_nl, d, 0);
AT(block_mxfp4, e, 0);
AT(block_q2_K, dmin, offsetof(block_q2_K, d) + 2);
AT(block_q3_K, hmask, 0);
AT(block_q3_K, scales, offsetof(block_q3_K, qs) + 64);
AT(block_iq4_xs, d, 0);
AT(block_iq4_xs, scales_h, 2);
AT(block_iq4_xs, scales_l, 4);
AT(block_q4_K, d, 0);
AT(block_q4_K, dmin, 2);
AT(block_q4_K, scales, 4);
AT(block_q5_K, d, 0);
AT(block_q5_K, dmin, 2);
AT(block_q5_K, scales, 4);
AT(block_q8_1, d, 0);
AT(block_q8_1, s, 2);
AT(block_q8_1, qs, 4);
AT(block_q8_0, qs, 2);
AT(block_q8_K, d, 0);
#undef AT
_Static_assert(sizeof(((block_q4_K *)0)->scales) == 12 && sizeof(((block_q5_K *)0)->scales) == 12,
               "eight 6-bit scales and eight 6-bit minima");
_Static_assert(sizeof(((block_q3_K *)0)->scales) == 12, "sixteen 6-bit scales");
_Static_assert(sizeof(((block_q2_K *)0)->scales) == 16, "sixteen 4-bit scales and minima");
_Static_assert(sizeof(((block_iq4_xs *)0)->scales_l) == 4, "eight scales of 4 bits and 2");
_Static_assert(sizeof(((block_q6_K *)0)->scales) == 16, "sixteen 8-bit scales");
_Static_assert(sizeof(((block_q8_K *)0)->bsums) == 32 && sizeof(((block_q8_K *)0)->d) == 4,
               "sums of 16 numbers, a float");
