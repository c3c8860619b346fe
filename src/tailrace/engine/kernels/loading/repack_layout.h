/* How repacked weights lie in memory: groups of 16 rows, so each SIMD lane holds one row.
 *
 * A file has each row's blocks one after the other, so a dot product ends in a sum across lanes. Here a group is one
 * block of each of 16 rows. It has as many bytes as the blocks, and the groups of the same 16 rows (a panel) follow
 * each other block by block. Then comes the next panel.
 *
 * Blocks of 32 weights:
 *   scales    16 halves, one of each row; of MXFP4 16 exponents, which are bytes
 *   minima    16 halves, in formats that have them
 *   fifths    of Q5_0 and Q5_1: a vector with four bytes of each row. Bit c of byte k is the fifth bit of weight 4 c + k.
 *   quants    vectors of 64 bytes with four bytes of each row: vector c is bytes 4 c to 4 c + 3 of each row's quants.
 *             Nibbles stay in their bytes: the low ones are weights 4 c to 4 c + 3, the high ones 16 weights on. Q8_0
 *             is unsigned: 128 has been added. Codes stay codes.
 *
 * 16-bit floats, 32 of each row: F16 has 32 vectors of 32 bytes, one number of each row; BF16 has 16 vectors of 64 bytes,
 * two numbers of each row.
 *
 * So a vector whose nibbles are separated is 16 rows by 4 weights. That is the operand of a VNNI instruction and the
 * rows of an AMX tile of bytes.
 *
 * Super-blocks of 256 weights begin with 16 halves d, and 16 halves dmin or 32 unused bytes. Scales, which are unpacked
 * to bytes, follow, then quants. Vector v of a field is its bytes 4 v to 4 v + 3 of each row:
 *   Q4_K      8 x 16 scales; 4 x 16 pairs of minima, each of two blocks of 32; qs.
 *   Q5_K      the same with qh before qs.
 *   Q6_K      16 x 16 scales; then two times 8 vectors of qh and 16 of ql.
 *   Q3_K      16 x 16 scales; hmask; qs.
 *   Q2_K      8 x 16 pairs, of two blocks of 16, of a 4-bit scale and a 4-bit minimum as in the file; qs.
 *   IQ4_XS    8 x 16 scales; qs. */
#pragma once
#include "formats.h"

enum {
    GROUP_ROWS = 16,
    SUPER_SCALES_AT = 64, /* in a group of super-blocks */
    SUPER_MINS_AT = 192,
};

/* A weight matrix that has been repacked. */
struct repacked {
    enum format format;
    int64_t n_rows, n_blocks; /* rows; blocks of a row */
    const uint8_t *data;      /* aligned to 64 bytes; n_panels_of * n_blocks groups; 0: there was no memory */
};

/* Panels of 16 rows. The last one may have fewer; its other rows are zero. */
INLINE int64_t n_panels_of(const struct repacked *repacked) { return (repacked->n_rows + GROUP_ROWS - 1) / GROUP_ROWS; }

/* Where quants begin in a group of blocks of 32. */
INLINE int quants_at(enum format format) {
    const struct format_traits t = traits_of(format);
    return GROUP_ROWS * (t.scale_bytes + (t.has_min ? 2 : 0) + (t.encoding == NIBBLES_AND_FIFTH ? 4 : 0));
}

/* The same in a group of super-blocks. */
INLINE int super_quants_at(enum format format) {
    const struct format_traits t = traits_of(format);
    return SUPER_SCALES_AT + (t.weights_per_scale == 32 && !t.has_min ? 128 : 256);
}

INLINE int64_t group_bytes(enum format format) {
    const struct format_traits t = traits_of(format);
    if (!is_super_block(format)) return GROUP_ROWS * (int64_t)t.bytes;
    int quants = 0; /* bytes of a row */
    switch (t.encoding) {
        case TWO_BITS: quants = QK_K / 4; break;
        case TWO_BITS_AND_THIRD: quants = QK_K / 4 + QK_K / 8; break;
        case NIBBLES:
        case CODES: quants = QK_K / 2; break;
        case NIBBLES_AND_FIFTH: quants = QK_K / 2 + QK_K / 8; break;
        case NIBBLES_AND_TOP_TWO: quants = QK_K / 2 + QK_K / 4; break;
        case SIGNED_BYTES:
        case FLOATS: __builtin_unreachable(); /* no super-block has these */
    }
    return super_quants_at(format) + GROUP_ROWS * (int64_t)quants;
}
