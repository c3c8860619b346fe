/* Vectors of quants in NEON, of four of the 16 rows of a group, and pairs of minima. */
#pragma once
#include "loading/repack_layout.h"

typedef uint8x16_t vq;
INLINE vq vq_load(const uint8_t *p) { return vld1q_u8(p); }
INLINE int32x4_t broadcast_i32(const uint8_t *p) { return vdupq_n_s32((int32_t)load_u32(p)); }
INLINE float32x4_t broadcast_f32(const uint8_t *p) { return vreinterpretq_f32_s32(broadcast_i32(p)); }

/* Bit `from` of each byte, 0 to 7, as bit `to`, and the bits of `others`. */
INLINE vq vq_with_bit(vq others, vq bits, int from, int to) {
    const vq bit = vandq_u8(vshlq_u8(bits, vdupq_n_s8((int8_t)-from)), vdupq_n_u8(1));
    return vorrq_u8(others, vshlq_u8(bit, vdupq_n_s8((int8_t)to)));
}

/* Nibbles are the low or the high ones of bytes; pairs of bits are pair `n` of bytes. */
INLINE vq vq_nibbles(vq v, bool high) { return high ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15)); }
INLINE vq vq_bit_pairs(vq v, int n) { return vandq_u8(vshlq_u8(v, vdupq_n_s8((int8_t)(-2 * n))), vdupq_n_u8(3)); }

/* Pair `n` of the bits of each byte as bits 4 and 5, and the bits of `others`. */
INLINE vq vq_with_top_two(vq others, vq pairs, int n) {
    return vorrq_u8(others, vshlq_n_u8(vq_bit_pairs(pairs, n), 4));
}

INLINE vq vq_decode(enum format format, vq codes) { return vqtbl1q_u8(vld1q_u8(codebook_of(format)), codes); }

/* Minima 2 v and 2 v + 1 of four rows, as pairs of 16 bits, of a format with minima. */
INLINE int16x8_t load_min_pairs(enum format format, const uint8_t *group, int quarter, int v) {
    const uint8_t *at = group + (format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT) + 32 * v + 8 * quarter;
    const uint16x8_t pairs = vmovl_u8(vld1_u8(at));
    return vreinterpretq_s16_u16(format == Q2_K ? vshrq_n_u16(pairs, 4) : pairs);
}
