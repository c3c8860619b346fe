/* How repacked weights lie in memory: groups of 16 rows, so each SIMD lane holds one row.
 *
 * A file has each row's blocks one after the other, so a dot product ends in a sum across lanes. Here a group is one
 * block of each of 16 rows. It has as many bytes as the blocks, and the groups of the same 16 rows (a panel) follow
 * each other block by block. Then comes the next panel.
 *
 * Blocks of 32 weights:
 *   scales    16 halves, one of each row; of MXFP4 16 exponents, which are bytes
 *   minima    16 halves, in formats that have them
 *   quants    vectors of 64 bytes with four bytes of each row: vector c is bytes 4 c to 4 c + 3 of each row's quants.
 *             Nibbles stay in their bytes: the low ones are weights 4 c to 4 c + 3, the high ones 16 weights on. Q8_0
 *             is unsigned: 128 has been added. Codes stay codes.
 *
 * So a vector whose nibbles are separated is 16 rows by 4 weights. That is the operand of a VNNI instruction and the
 * rows of an AMX tile of bytes.
 *
 * Super-blocks of 256 weights, whose scales are unpacked to bytes:
 *   Q4_K      16 halves d, 16 halves dmin; 8 x 16 scales; 4 x 16 pairs of minima, each of two blocks of 32; then quants
 *             as above: vector 8 g + c is bytes 32 g + 4 c to 32 g + 4 c + 3 of each row's.
 *   Q6_K      16 halves d, 32 unused bytes; 16 x 16 scales; then two times 8 vectors of qh and 16 of ql. */
#pragma once
#include "formats.h"

enum {
    GROUP_ROWS = 16,
    SUPER_SCALES_AT = 64, /* in a group of super-blocks */
    SUPER_MINS_AT = 192,
    SUPER_QUANTS_AT = 320,
};

/* A weight matrix that has been repacked. */
struct repacked {
    enum format format;
    int64_t n_rows, n_blocks; /* rows, a multiple of 16; blocks of a row */
    const uint8_t *data;      /* aligned to 64 bytes; n_rows / 16 * n_blocks groups; 0: there was no memory */
};

/* Where quants begin in a group of blocks of 32. */
INLINE int quants_at(enum format format) {
    const struct format_traits t = traits_of(format);
    return GROUP_ROWS * (t.scale_bytes + (t.has_min ? 2 : 0));
}

INLINE int64_t group_bytes(enum format format) {
    switch (format) {
        case Q4_0:
        case Q4_1:
        case Q8_0:
        case IQ4_NL:
        case MXFP4: return GROUP_ROWS * (int64_t)traits_of(format).bytes;
        case Q4_K: return SUPER_QUANTS_AT + GROUP_ROWS * (int64_t)sizeof(((block_q4_K *)0)->qs);
        case Q6_K:
            return SUPER_QUANTS_AT +
                   GROUP_ROWS * (int64_t)(sizeof(((block_q6_K *)0)->ql) + sizeof(((block_q6_K *)0)->qh));
        case Q5_0:
        case Q5_1:
        case Q5_K: break; /* NO in the column `repacked` */
    }
    __builtin_unreachable();
}
