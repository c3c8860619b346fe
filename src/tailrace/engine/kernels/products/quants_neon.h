/* Reads groups of repacked weights in NEON: quants, scales and minima of four of the 16 rows, which are a quarter of a
 * group. */
#pragma once
#include "loading/repack_layout.h"

INLINE uint8x16_t load_x16(const uint8_t *p) { return vld1q_u8(p); }
INLINE int32x4_t broadcast_i32(const uint8_t *p) { return vdupq_n_s32((int32_t)load_u32(p)); }
INLINE float32x4_t broadcast_f32(const uint8_t *p) { return vreinterpretq_f32_s32(broadcast_i32(p)); }

/* ---- Quants ------------------------------------------------------------------------------------------------------ */

/* Whether quants are bytes that need all eight bits. Their zero point is 128, so they are computed with as signed bytes
 * without one. */
INLINE bool are_signed(enum format format) {
    const struct format_traits t = traits_of(format);
    return t.encoding == SIGNED_BYTES || (t.encoding == CODES && format != MXFP4);
}
#define SIGNED_HAVE_ZERO_POINT_128(name, block, weights, per_scale, encoding, quants, scale, min, zero, activations)   \
    _Static_assert((encoding) != SIGNED_BYTES || (zero) == 128, #name ": bytes are unsigned by adding 128");
FORMATS(SIGNED_HAVE_ZERO_POINT_128)
#undef SIGNED_HAVE_ZERO_POINT_128

/* Bit `from` of each byte, 0 to 7, as bit `to`, and the bits of `others`. */
INLINE uint8x16_t with_bit(uint8x16_t others, uint8x16_t bits, int from, int to) {
    const uint8x16_t bit = vandq_u8(vshlq_u8(bits, vdupq_n_s8((int8_t)-from)), vdupq_n_u8(1));
    return vorrq_u8(others, vshlq_u8(bit, vdupq_n_s8((int8_t)to)));
}

/* Nibbles are the low or the high ones of bytes; pairs of bits are pair `n` of bytes. */
INLINE uint8x16_t nibbles_of(uint8x16_t v, bool high) { return high ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15)); }
INLINE uint8x16_t bit_pairs_of(uint8x16_t v, int n) {
    return vandq_u8(vshlq_u8(v, vdupq_n_s8((int8_t)(-2 * n))), vdupq_n_u8(3));
}

INLINE uint8x16_t decode(enum format format, uint8x16_t codes) {
    return vqtbl1q_u8(vld1q_u8(codebook_of(format)), codes);
}

/* Vector c of the quants of a block of 32: weights 4 c to 4 c + 3 of four rows, unsigned. */
INLINE uint8x16_t unpack_block_quants(enum format format, const uint8_t *group, int quarter, int c) {
    const uint8_t *quants = group + quants_at(format) + 16 * quarter;
    if (traits_of(format).encoding == SIGNED_BYTES) return load_x16(quants + 64 * c); /* unsigned in the group */
    const uint8x16_t nibbles = nibbles_of(load_x16(quants + 64 * (c % 4)), c >= 4);
    switch (traits_of(format).encoding) {
        case NIBBLES: return nibbles;
        case CODES: return decode(format, nibbles);
        case NIBBLES_AND_FIFTH: return with_bit(nibbles, load_x16(quants - 64), c, 4);
        case SIGNED_BYTES:
        case FLOATS:
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* The same of weights 32 n to 32 n + 31 of a super-block, n up to 7. */
INLINE uint8x16_t unpack_super_quants(enum format format, const uint8_t *group, int quarter, int n, int c) {
    const uint8_t *quants = group + super_quants_at(format) + 16 * quarter;
    switch (traits_of(format).encoding) {
        case TWO_BITS: return bit_pairs_of(load_x16(quants + 512 * (n / 4) + 64 * c), n % 4);
        case TWO_BITS_AND_THIRD: {
            quants += 768 * (n / 4);
            const uint8x16_t low = bit_pairs_of(load_x16(quants + 256 + 64 * c), n % 4);
            return with_bit(low, load_x16(quants + 64 * (n % 4)), c, 2);
        }
        case NIBBLES: return nibbles_of(load_x16(quants + 512 * (n / 2) + 64 * c), n % 2);
        case CODES: return decode(format, nibbles_of(load_x16(quants + 256 * n + 64 * (c % 4)), c >= 4));
        case NIBBLES_AND_FIFTH: {
            quants += 640 * (n / 2);
            return with_bit(nibbles_of(load_x16(quants + 128 + 64 * c), n % 2), load_x16(quants + 64 * (n % 2)), c, 4);
        }
        case NIBBLES_AND_TOP_TWO: {
            quants += 1536 * (n / 4);
            const uint8x16_t low = nibbles_of(load_x16(quants + 512 + 512 * (n % 2) + 64 * c), n % 4 >= 2);
            return vorrq_u8(low, vshlq_n_u8(bit_pairs_of(load_x16(quants + 64 * c), n % 4), 4));
        }
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

/* The quants as they are computed with: signed where they are, unsigned up to 63 otherwise. */
INLINE int8x16_t unpack_quants(enum format format, const uint8_t *group, int quarter, int n, int c) {
    const uint8x16_t quants = is_super_block(format) ? unpack_super_quants(format, group, quarter, n, c)
                                                     : unpack_block_quants(format, group, quarter, c);
    return vreinterpretq_s8_u8(are_signed(format) ? veorq_u8(quants, vdupq_n_u8(128)) : quants);
}

/* ---- Scales and minima ------------------------------------------------------------------------------------------- */

/* The scales of four rows of a group of blocks of 32. */
INLINE float32x4_t load_group_scales(enum format format, const uint8_t *group, int quarter) {
    return traits_of(format).scale_bytes == 1 ? load_e8m0x4(group + 4 * quarter) : vf_load_f16(group + 8 * quarter);
}

/* The scales of four rows, which are bytes. */
INLINE float32x4_t load_scales_x4(const uint8_t *scales, bool is_signed) {
    return is_signed ? vf_load_i8(scales) : vf_load_u8(scales);
}

/* The scales of weights 32 n to 32 n + 31 of four rows: of the first 16 weights, and of the others. */
INLINE void load_part_scales(enum format format, const uint8_t *group, int quarter, int n, float32x4_t scale[2]) {
    const uint8_t *scales = group + SUPER_SCALES_AT;
    switch (format) {
        case Q2_K: {
            const uint32x4_t pairs = vreinterpretq_u32_u16(vmovl_u8(vld1_u8(scales + 32 * n + 8 * quarter)));
            scale[0] = vcvtq_f32_u32(vandq_u32(pairs, vdupq_n_u32(15)));
            scale[1] = vcvtq_f32_u32(vandq_u32(vshrq_n_u32(pairs, 16), vdupq_n_u32(15)));
            return;
        }
        case Q3_K:
        case Q6_K:
            scale[0] = load_scales_x4(scales + 32 * n + 4 * quarter, true);
            scale[1] = load_scales_x4(scales + 32 * n + 16 + 4 * quarter, true);
            return;
        case Q4_K:
        case Q5_K:
        case IQ4_XS: scale[0] = scale[1] = load_scales_x4(scales + 16 * n + 4 * quarter, format == IQ4_XS); return;
        case Q4_0:
        case Q4_1:
        case Q5_0:
        case Q5_1:
        case Q8_0:
        case IQ4_NL:
        case MXFP4:
        case F16:
        case BF16: break; /* no super-blocks */
    }
    __builtin_unreachable();
}

/* Minima 2 v and 2 v + 1 of four rows, as pairs of 16 bits, of a format with minima. */
INLINE int16x8_t load_min_pairs(enum format format, const uint8_t *group, int quarter, int v) {
    const uint8_t *at = group + (format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT) + 32 * v + 8 * quarter;
    const uint16x8_t pairs = vmovl_u8(vld1_u8(at));
    return vreinterpretq_s16_u16(format == Q2_K ? vshrq_n_u16(pairs, 4) : pairs);
}
